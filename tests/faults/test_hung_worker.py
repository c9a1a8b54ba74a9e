"""A worker that hangs or never leaves, a Redis that loads for ever: whoever is well is served meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from redis import Redis

from service.process.embedded_redis import find_redis_server
from tests.service.processes import Service
from tests.service.tiny import pids, redis_pid, running_tiny, seen_by
from tests.waiting import DEADLINE_SECONDS, alive, until

PATIENT = {
    "TINY_HANG_SECONDS": "600",
    "NEXTCLICK_SHUTDOWN_TIMEOUT_SECONDS": "600",
}  # longer than any test waits
COUNTS = "from prometheus_client import Counter; Counter('seen', 'As a worker counts').inc()"
LOADS_FOR_EVER = """#!{python}
import os, socket, sys
if sys.argv[1] == "--version" or not os.path.exists("{sign}"):
    os.execv("{redis}", ["{redis}", *sys.argv[1:]])
path = sys.argv[sys.argv.index("--unixsocket") + 1]
if os.path.exists(path):
    os.unlink(path)
with socket.socket(socket.AF_UNIX) as server:
    server.bind(path)
    server.listen()
    while True:
        with server.accept()[0] as client:
            client.recv(100)
            client.sendall(b"-LOADING Redis is loading the dataset in memory\\r\\n")
"""


def killed(service: Service) -> list[int]:
    """The workers that the service has killed, because they hung or did not leave."""
    events = ("worker hangs: killed", "worker does not leave: killed")
    return [entry["pid"] for event in events for entry in service.logged(event)]


def started(service: Service) -> int:
    """How many workers have got so far as to serve."""
    return len(service.logged("Application startup complete."))


def test_a_worker_that_hangs_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Not Redis, not another worker, not SIGTERM."""
    with running_tiny(tmp_path, workers=2, **PATIENT) as service:
        url = seen_by(service)["NEXTCLICK_REDIS_URL"]
        hung, other = pids(service)
        os.kill(hung, signal.SIGSTOP)
        os.kill(redis_pid(service), signal.SIGKILL)
        until(lambda: len(service.logged("embedded redis started")) == 2)
        with Redis.from_url(url) as client:
            assert client.ping()
        os.kill(other, signal.SIGKILL)
        until(lambda: started(service) == 3)
        assert alive(hung)
        assert killed(service) == []
        assert service.end() == 0
        assert killed(service) == [hung]
        assert not alive(hung)


def test_metrics_are_told_while_all_workers_hang(tmp_path: Path) -> None:
    with running_tiny(tmp_path, workers=2, **PATIENT) as service:
        seen = seen_by(service)
        for pid in pids(service):
            os.kill(pid, signal.SIGSTOP)
        directory = Path(seen["PROMETHEUS_MULTIPROC_DIR"])
        (
            directory / "counter_1.db"
        ).touch()  # as by a worker that was stopped when it had just begun to write
        environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(directory)}
        subprocess.run([sys.executable, "-c", COUNTS], env=environment, check=True)
        assert "seen_total 1.0" in service.metrics().splitlines()
        assert service.end() == 0


def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    with running_tiny(tmp_path, workers=2) as service:
        first = pids(service)
        hung = min(first)
        os.kill(hung, signal.SIGSTOP)
        until(lambda: started(service) == 3)
        assert killed(service) == [hung]
        assert pids(service) & first == first - {hung}
        assert service.end() == 0


def test_requests_in_flight_end_while_a_worker_that_hangs_is_killed(tmp_path: Path) -> None:
    with running_tiny(tmp_path, workers=2, **PATIENT) as service, ThreadPoolExecutor(1) as client:
        both = pids(service)
        answer = client.submit(service.ask, "GET", "/slow")
        began = tmp_path / "slow-began"
        busy = until(lambda: began.read_text() if began.exists() else None)
        [hung] = both - {int(busy)}
        os.kill(hung, signal.SIGSTOP)
        service.process.send_signal(signal.SIGTERM)
        until(lambda: killed(service) == [hung])
        (tmp_path / "slow-may-end").touch()
        assert answer.result(DEADLINE_SECONDS).json()["redis"] == "PONG"
        assert service.process.wait(DEADLINE_SECONDS) == 0
        assert killed(service) == [hung]


def test_a_worker_that_never_leaves_does_not_keep_the_service_from_ending(tmp_path: Path) -> None:
    """It answers that it is there, for ever."""
    with running_tiny(tmp_path, NEXTCLICK_SHUTDOWN_TIMEOUT_SECONDS="0", TINY_APP_FAILS="leave") as service:
        [worker] = pids(service)
        assert service.end() == 0
        assert killed(service) == [worker]
        assert not alive(worker)


def test_sighup_replaces_every_worker_also_one_that_hangs(tmp_path: Path) -> None:
    with running_tiny(tmp_path, workers=2, TINY_HANG_SECONDS="600") as service:
        first = pids(service)
        os.kill(min(first), signal.SIGSTOP)
        service.process.send_signal(signal.SIGHUP)
        until(lambda: not any(alive(pid) for pid in first))
        assert not pids(service) & first
        assert service.end() == 0


def test_a_redis_that_loads_for_ever_keeps_nobody_waiting(tmp_path: Path) -> None:
    sign, fake = tmp_path / "loads", tmp_path / "bin" / "redis-server"
    fake.parent.mkdir()
    fake.write_text(LOADS_FOR_EVER.format(python=sys.executable, sign=sign, redis=find_redis_server()))
    fake.chmod(0o700)
    path = f"{fake.parent}:{os.environ['PATH']}"
    with running_tiny(tmp_path, workers=2, PATH=path, **PATIENT) as service:
        first = pids(service)
        sign.touch()
        os.kill(redis_pid(service), signal.SIGKILL)
        until(lambda: service.logged("embedded redis died"))
        os.kill(min(first), signal.SIGKILL)
        until(lambda: started(service) == 3)
        assert service.end() == 0
        assert len(service.logged("embedded redis started")) == 1
