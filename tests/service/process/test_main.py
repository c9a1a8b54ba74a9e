"""`python -m service` as a user runs it: start, several workers, signals, crashes, clear refusals."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
from redis import Redis

from service.process.embedded_redis import find_redis_server
from service.process.listener import ListenError, listen
from tests.service.processes import clean_environment, own_host
from tests.service.tiny import pids, redis_pid, running_tiny, seen_by
from tests.waiting import DEADLINE_SECONDS, alive, until


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m service`, where it should end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def test_two_workers_share_one_redis_and_a_dead_worker_is_replaced(tmp_path: Path) -> None:
    with running_tiny(tmp_path, workers=2) as service:
        first = pids(service)
        seen = seen_by(service)
        assert seen["loop"].startswith("uvloop")
        assert Path(seen["PROMETHEUS_MULTIPROC_DIR"]).is_dir()
        with Redis.from_url(seen["NEXTCLICK_REDIS_URL"]) as client:
            client.set("key", "value")
        killed = min(first)
        gauge = Path(seen["PROMETHEUS_MULTIPROC_DIR"], f"gauge_livesum_{killed}.db")
        gauge.touch()
        os.kill(killed, signal.SIGKILL)
        until(lambda: not alive(killed))
        second = pids(service)
        assert len(first & second) == 1
        until(lambda: not gauge.exists())
        redis = redis_pid(service)
        assert service.end() == 0
        assert not any(alive(pid) for pid in (*second, redis))
        assert not Path(seen["PROMETHEUS_MULTIPROC_DIR"]).exists()
        assert (tmp_path / "artifacts" / "redis").is_dir()


@pytest.mark.skipif(sys.platform != "linux", reason="one socket for all workers")
def test_workers_share_connections_whoever_is_awake(tmp_path: Path) -> None:
    """On a shared socket, the one that has just answered would be the first to accept, again and again."""
    with running_tiny(tmp_path, workers=2) as service:
        both = pids(service)
        answered = Counter(service.ask("GET", "/").pid for _ in range(100))  # one after another
        assert answered.keys() == both
        assert min(answered.values()) > 20, answered  # less by chance: once in 10 ** 9


@pytest.mark.skipif(sys.platform != "linux", reason="one socket for all workers")
def test_a_port_belongs_to_one_service_even_before_its_workers_listen() -> None:
    with listen("127.0.0.1", 0, workers=2) as reserved:
        host, port = reserved.getsockname()
        for workers in (1, 2):
            with pytest.raises(ListenError, match="Address already in use"):
                listen(host, port, workers)
        with pytest.raises(ConnectionRefusedError), socket.create_connection((host, port)):
            pass
        own = [pickle.loads(ForkingPickler.dumps(reserved)) for _ in range(2)]
        for each in own:
            each.listen()
        with pytest.raises(ListenError, match="Address already in use"):
            listen(host, port)
        for each in own:
            each.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_flight_is_finished_while_redis_still_lives(
    tmp_path: Path, number: signal.Signals
) -> None:
    with running_tiny(tmp_path) as service, ThreadPoolExecutor(1) as client:
        seen_by(service)
        answer = client.submit(service.ask, "GET", "/slow")
        until((tmp_path / "slow-began").exists)
        service.process.send_signal(number)
        until(lambda: service.logged("Shutting down"))
        (tmp_path / "slow-may-end").touch()
        assert answer.result(DEADLINE_SECONDS).json()["redis"] == "PONG"
        assert service.process.wait(DEADLINE_SECONDS) == 0
        assert not alive(redis_pid(service))


def test_a_redis_that_dies_is_started_again(tmp_path: Path) -> None:
    with running_tiny(tmp_path) as service:
        url = seen_by(service)["NEXTCLICK_REDIS_URL"]
        os.kill(redis_pid(service), signal.SIGKILL)
        until(lambda: len(service.logged("embedded redis started")) == 2)
        with Redis.from_url(url) as client:
            assert client.ping()
        assert service.end() == 0


def test_a_redis_that_cannot_be_started_again_is_tried_until_it_can(tmp_path: Path) -> None:
    broken, wrapped = tmp_path / "broken-redis", tmp_path / "bin" / "redis-server"
    wrapped.parent.mkdir()
    wrapped.write_text(f'#!/bin/sh\nif [ -e {broken} ]; then exit 1; fi\nexec "{find_redis_server()}" "$@"\n')
    wrapped.chmod(0o700)
    with running_tiny(tmp_path, workers=2, PATH=f"{wrapped.parent}:{os.environ['PATH']}") as service:
        workers = pids(service)
        broken.touch()
        os.kill(redis_pid(service), signal.SIGKILL)
        tried = "embedded redis cannot be restarted; it is tried again"
        until(lambda: service.logged(tried))
        assert "ended at start" in service.logged(tried)[0]["reason"]
        broken.unlink()
        until(lambda: len(service.logged("embedded redis started")) == 2)
        assert pids(service) == workers, "which went on meanwhile"
        assert len(service.logged(tried)) == 1
        assert service.end() == 0


def test_sighup_with_an_app_that_is_broken_keeps_the_workers(tmp_path: Path, redis_url: str) -> None:
    with running_tiny(tmp_path, workers=2, REDIS_URL=redis_url) as service:
        workers = pids(service)
        (tmp_path / "broken").touch()
        service.process.send_signal(signal.SIGHUP)
        until(lambda: service.logged("new worker does not start: the old ones stay"))
        assert pids(service) == workers
        (tmp_path / "broken").unlink()
        service.process.send_signal(signal.SIGHUP)
        until(lambda: not any(alive(pid) for pid in workers))
        assert service.end() == 0


def test_one_worker_more_and_one_less(tmp_path: Path, redis_url: str) -> None:
    with running_tiny(tmp_path, workers=2, REDIS_URL=redis_url) as service:
        two = pids(service)
        service.process.send_signal(signal.SIGTTIN)
        three = pids(replace(service, workers=3))
        assert two < three
        service.process.send_signal(signal.SIGTTOU)
        until(lambda: not all(alive(pid) for pid in three))
        assert pids(service) == two
        assert service.end() == 0


def test_a_killed_parent_leaves_nothing_behind_and_the_next_one_starts(tmp_path: Path) -> None:
    with running_tiny(tmp_path, workers=2) as service:
        port = service.port
        workers, seen, redis = pids(service), seen_by(service), redis_pid(service)
        with Redis.from_url(seen["NEXTCLICK_REDIS_URL"]) as client:
            client.set("key", "value")
        service.process.kill()
        until(lambda: not any(alive(pid) for pid in (*workers, redis)))
        # What is left: an empty directory, which is in /tmp where the one of this test is too long a name.
        shutil.rmtree(Path(seen["NEXTCLICK_REDIS_URL"].removeprefix("unix://")).parent)
    with running_tiny(tmp_path, NEXTCLICK_PORT=str(port)) as service:
        with Redis.from_url(seen_by(service)["NEXTCLICK_REDIS_URL"]) as client:
            assert client.get("key") == b"value"
        assert service.end() == 0


def test_with_a_redis_url_no_redis_is_started(tmp_path: Path, redis_url: str) -> None:
    with running_tiny(tmp_path, REDIS_URL=redis_url) as service:
        assert seen_by(service)["redis"] == "PONG"
        assert service.logged("embedded redis started") == []
        assert service.end() == 0
    assert not (tmp_path / "artifacts").exists()


def test_metrics_of_an_earlier_run_are_cleared_and_nothing_else(tmp_path: Path, redis_url: str) -> None:
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    (metrics / "counter_1.db").touch()
    (metrics / "notes.txt").touch()
    with running_tiny(tmp_path, REDIS_URL=redis_url, NEXTCLICK_METRICS_DIR=str(metrics)) as service:
        assert seen_by(service)["PROMETHEUS_MULTIPROC_DIR"] == str(metrics)
        left = {file.name for file in metrics.iterdir()}  # beside what the workers write by now
        assert "notes.txt" in left
        assert "counter_1.db" not in left
        assert service.end() == 0


@pytest.mark.parametrize("fails", ["create", "lifespan"])
def test_an_app_that_cannot_start_ends_the_service(tmp_path: Path, redis_url: str, fails: str) -> None:
    with running_tiny(tmp_path, REDIS_URL=redis_url, TINY_APP_FAILS=fails) as service:
        assert service.process.wait(DEADLINE_SECONDS) == 3
        assert "no app today" in service.log.read_text()


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run("--port", port)
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"cannot listen on 127.0.0.1 port {port}: Address already in use: ")


def test_a_taken_port_of_metrics_is_one_clear_line() -> None:
    host = own_host()
    with socket.create_server((host, 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run("--port", "0", NEXTCLICK_METRICS_HOST=host, NEXTCLICK_METRICS_PORT=port)
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"cannot listen on {host} port {port} for metrics: Address already in use: ")


def test_the_usual_port_of_metrics_may_be_another_services(tmp_path: Path, redis_url: str) -> None:
    host = own_host()
    with (
        socket.create_server((host, 9464)),
        running_tiny(tmp_path, REDIS_URL=redis_url, NEXTCLICK_METRICS_HOST=host) as service,
    ):
        seen_by(service)
        [other] = service.logged("the usual port of metrics is taken, this is another")
        with urllib.request.urlopen(f"http://{host}:{other['port']}/metrics") as page:
            assert page.status == 200
        assert service.end() == 0


def test_metrics_can_be_told_to_nobody(tmp_path: Path, redis_url: str) -> None:
    with running_tiny(tmp_path, REDIS_URL=redis_url, NEXTCLICK_METRICS_PORT="0") as service:
        seen_by(service)
        with pytest.raises(ConnectionRefusedError):
            service.metrics()
        assert service.end() == 0


def test_wrong_settings_are_one_clear_line() -> None:
    ended = run(NEXTCLICK_WORKER="2")
    assert ended.returncode == 2
    assert ended.stderr == "NEXTCLICK_WORKER: unknown setting: did you mean NEXTCLICK_WORKERS?\n"
    ended = run("--port", "http")
    assert ended.returncode == 2
    assert ended.stderr.startswith("NEXTCLICK_PORT: Input should be a valid integer")


def test_a_wrong_catalogue_file_is_one_clear_line(tmp_path: Path) -> None:
    file = tmp_path / "catalogue.toml"
    file.write_text('[attributes]\nprice = "text"\n')
    ended = run(NEXTCLICK_CATALOGUE_FILE=str(file))
    assert ended.returncode == 2
    assert ended.stderr == f"{file}:2: price: is known already, as number\n"


def test_settings_are_printed_options_included() -> None:
    ended = run("--print-settings", "--workers", "3", NEXTCLICK_API_KEY="hush")
    assert ended.returncode == 0
    assert ["NEXTCLICK_WORKERS", "3", "1"] in [line.split()[:3] for line in ended.stdout.splitlines()]
    assert "hush" not in ended.stdout
