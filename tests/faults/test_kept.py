"""Acknowledged means kept: whatever the disk does, and whoever dies."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError
from structlog.testing import capture_logs

from service.live.deployment import publish
from service.process.append_only import Syncing, damaged, files_of
from service.process.embedded_redis import EmbeddedRedis, find_redis_server, memory_bytes
from service.process.settings import Settings
from service.state.keys import Keys
from service.state.link import StoreUnavailable
from service.state.store import Arrival, Click, SessionStore
from tests.faults import disk
from tests.service.bundles import Shop
from tests.service.processes import Service, running
from tests.waiting import DEADLINE_SECONDS, until
from training.loop.collect import collect

pytestmark = pytest.mark.anyio

SHOP = Shop.make()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = disk.compiled(tmp_path_factory.mktemp("disk"))
    if found is None:
        pytest.skip("no C compiler (or no Linux): a slow and a full disk cannot be tested here")
    return found


@pytest.fixture
def published(artifacts: Path) -> Path:
    SHOP.write(artifacts, "v1")
    publish(artifacts, "v1")
    return artifacts


def at_the_defaults(artifacts: Path, **environment: str) -> AbstractContextManager[Service]:
    """The service as a stranger starts it, but for its bundle, and that it has patience with this machine."""
    patient = {"NEXTCLICK_REDIS_TIMEOUT_SECONDS": "10", "NEXTCLICK_ARTIFACTS_DIR": str(artifacts)}
    return running(artifacts.parent, **patient | environment)  # type: ignore[arg-type]


class Clicks:
    """Clicks on many sessions, each with an event id; and which of them were acknowledged."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._sent = 0
        self.acknowledged: list[int] = []

    def send(self, count: int) -> set[int]:
        """The statuses of as many more."""
        numbers = range(self._sent, self._sent + count)
        self._sent += count
        answers = dict(zip(numbers, self._click(numbers), strict=True))
        self.acknowledged += [number for number, (status, _) in answers.items() if status == 200]
        return {status for status, _ in answers.values()}

    def lost(self) -> list[int]:
        """The acknowledged ones that the service knows no more; sending them again tells."""
        found = dict(zip(self.acknowledged, self._click(self.acknowledged), strict=True))
        assert {status for status, _ in found.values()} <= {200}
        return [number for number, (_, answer) in found.items() if not answer["duplicate"]]

    def _click(self, numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
        with closing(HTTPConnection("127.0.0.1", self._service.port, timeout=DEADLINE_SECONDS)) as connection:
            for number in numbers:
                body = json.dumps({"item_id": f"i{number % 9}", "event_id": f"e{number}"})
                path, headers = f"/sessions/s{number % 50}/click", {"Content-Type": "application/json"}
                connection.request("POST", path, body, headers)
                answer = connection.getresponse()
                yield answer.status, json.loads(answer.read())


def redis_pid(service: Service) -> int:
    """The private Redis that was started last."""
    return int(until(lambda: service.logged("embedded redis started"))[-1]["pid"])


def kill_redis(service: Service) -> None:
    """And wait until another one has taken its place, and every click would be stored again."""
    pid = redis_pid(service)
    os.kill(pid, signal.SIGKILL)
    until(lambda: redis_pid(service) != pid)
    until(lambda: ready(service) == 200)


def ready(service: Service) -> int:
    return service.ask("GET", "/health/ready").status


def twenty_items(service: Service) -> bool:
    answer = service.ask("GET", "/recommend?session_id=s1")
    return answer.status == 200 and len(answer.json()["items"]) == 20


def test_a_slow_disk_loses_nothing_when_redis_is_killed(library: Path, published: Path) -> None:
    slow = disk.environment(library, fsync_milliseconds=1500)
    with at_the_defaults(published, **slow) as service:
        until(lambda: ready(service) == 200)
        clicks = Clicks(service)
        for _ in range(3):
            # More than a second of clicks: whoever syncs once a second is at it when Redis dies.
            assert clicks.send(500) == {200}
            kill_redis(service)
            assert clicks.lost() == []


def test_a_full_disk_acknowledges_nothing_that_it_cannot_keep(library: Path, published: Path) -> None:
    full = published / "full"
    with at_the_defaults(published, **disk.environment(library, full_while=full)) as service:
        until(lambda: ready(service) == 200)
        clicks = Clicks(service)
        assert clicks.send(50) == {200}
        full.touch()
        assert clicks.send(50) == {503}
        refused = service.ask("POST", "/sessions/s/click", {"item_id": "i1"})
        assert refused.status == 503
        assert refused.json()["detail"].startswith("Redis cannot save its data")
        assert service.ask("DELETE", "/sessions/s1").status == 503
        assert ready(service) == 503
        assert twenty_items(service)
        pid = redis_pid(service)
        os.kill(pid, signal.SIGKILL)
        until(lambda: redis_pid(service) != pid)
        assert twenty_items(service)
        full.unlink()
        until(lambda: ready(service) == 200)
        assert clicks.lost() == []
        assert clicks.send(50) == {200}


class Import:
    """A client that puts batch after batch of items, whatever happens; and which were acknowledged."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._is_over = threading.Event()
        self.acknowledged: list[int] = []
        self.refused = 0

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._put)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def goes_on(self) -> None:
        """Wait until some more are acknowledged."""
        before = len(self.acknowledged)
        until(lambda: len(self.acknowledged) > before + 3)

    def lost(self, service: Service) -> set[str]:
        """The acknowledged items that are not in the catalogue as they were put."""
        found: dict[str, object] = {}
        after: str | None = ""
        while after is not None:
            page = service.ask("GET", f"/items?limit=200&after={after}").json()
            found |= {item["item_id"]: item for item in page["items"]}
            after = page["next"]
        put = [item for number in self.acknowledged for item in self.batch(number)]
        return {str(item["item_id"]) for item in put if found.get(str(item["item_id"])) != item}

    def _put(self) -> None:
        number = 0
        while not self._is_over.is_set():
            try:
                status = self._service.ask("PUT", "/items", self.batch(number)).status
            except (OSError, HTTPException):
                status = 0
            if status == 200:
                self.acknowledged.append(number)
            else:
                self.refused += 1
            number += 1

    @staticmethod
    def batch(number: int) -> list[dict[str, object]]:
        return [{"item_id": f"{number}-{n}", "price": number + 0.5, "title": "x" * 200} for n in range(50)]


def test_acknowledged_items_are_there_whoever_is_killed_in_mid_import(published: Path) -> None:
    with at_the_defaults(published, NEXTCLICK_WORKERS="2") as service:
        until(lambda: ready(service) == 200)
        with Import(service) as first:
            for _ in range(2):
                first.goes_on()
                os.kill(redis_pid(service), signal.SIGKILL)
                first.goes_on()
                worker = until(lambda: service.ask("GET", "/health/live").pid)
                os.kill(worker, signal.SIGKILL)
            first.goes_on()
            service.process.kill()
    with at_the_defaults(published) as service:
        until(lambda: ready(service) == 200)
        assert first.lost(service) == set()
        again = service.ask("PUT", "/items", first.batch(first.acknowledged[-1]))
        assert again.json() == {"stored": 0, "unchanged": 50}


def test_a_full_disk_acknowledges_no_items(library: Path, published: Path) -> None:
    full = published / "full"
    with at_the_defaults(published, **disk.environment(library, full_while=full)) as service:
        until(lambda: ready(service) == 200)
        with Import(service) as items:
            items.goes_on()
            full.touch()
            refused = items.refused
            until(lambda: items.refused > refused + 3)
        pid = redis_pid(service)
        os.kill(pid, signal.SIGKILL)
        full.unlink()
        until(lambda: redis_pid(service) != pid)
        until(lambda: ready(service) == 200)
        assert items.lost(service) == set()


FOUND_BY_A_WORKER_FIRST = """\
#!{python}
# A Redis that is asked to store something before the parent asks whether it is there.
import os, socket, sys, time
arguments = sys.argv[1:]
if os.path.exists({full!r}) and "--unixsocket" in arguments:
    place = arguments.index("--unixsocket") + 1
    path, arguments[place] = arguments[place], arguments[place] + ".new"
    if os.fork() == 0:
        client = socket.socket(socket.AF_UNIX)
        while client.connect_ex(arguments[place]):
            time.sleep(0.01)
        answer = b""
        while not answer.startswith(b"-MISCONF"):
            client.sendall(b"SET key value\\r\\n")
            answer = client.recv(100)
        os.rename(arguments[place], path)
        os._exit(0)
os.execv({redis_server!r}, ["redis-server", *arguments])
"""


def test_a_redis_that_says_that_its_disk_is_full_has_started(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tmp_path / "full"
    script = FOUND_BY_A_WORKER_FIRST.format(
        python=sys.executable, full=str(full), redis_server=find_redis_server()
    )
    (tmp_path / "redis-server").write_text(script)
    (tmp_path / "redis-server").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name, value in disk.environment(library, full_while=full).items():
        monkeypatch.setenv(name, value)
    with EmbeddedRedis(tmp_path / "redis") as server:
        full.touch()
        os.kill(server.pid, signal.SIGKILL)
        os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
        with capture_logs() as logs:
            server.restart_if_dead()
        assert {"event": "embedded redis started", "pid": server.pid}.items() <= logs[-1].items()


def test_a_disk_that_is_full_for_a_while_takes_what_waited(library: Path, published: Path) -> None:
    full = published / "full"
    with at_the_defaults(published, **disk.environment(library, full_while=full)) as service:
        until(lambda: ready(service) == 200)
        full.touch()
        click = {"item_id": "i1", "event_id": "e"}
        assert service.ask("POST", "/sessions/s/click", click).status == 503
        full.unlink()
        until(lambda: ready(service) == 200)
        assert service.ask("POST", "/sessions/s/click", click).status == 200
        kill_redis(service)
        assert service.ask("POST", "/sessions/s/click", click).json()["duplicate"]
        assert service.ask("GET", "/sessions/s").json()["clicks"][0]["item_id"] == "i1"


@contextmanager
def stopped_service(published: Path, clicks: int) -> Iterator[list[Path]]:
    """The append-only files of a service that was stopped; then it is there again."""
    with at_the_defaults(published) as service:
        until(lambda: ready(service) == 200)
        assert Clicks(service).send(clicks) == {200}
    yield list(files_of(published / "redis"))


def nuls_in_the_middle(files: list[Path]) -> Path:
    """What a disk does to a file: 64 bytes of it are NUL."""
    file = max(files, key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    file.write_bytes(content)
    return file


def check_repaired(service: Service, published: Path, original: bytes) -> None:
    until(lambda: ready(service) == 200)
    (kept,) = damaged(published / "redis")
    assert original in [file.read_bytes() for file in files_of(kept)], "what was damaged is kept as it was"
    (warning,) = service.warnings("damaged")
    assert kept.name in warning
    (line,) = service.logged("the private Redis's data was damaged, and is cut off there: clicks are lost")
    assert line["level"] == "error"
    assert 0 < line["bytes_left"] < line["bytes_before"]
    until(lambda: "nextclick_redis_damaged 1.0" in service.metrics())
    assert twenty_items(service)
    saved = [service.ask("GET", f"/sessions/s{number}").status for number in range(50)]
    assert saved.count(200) > 0, "what comes before the damage is saved"
    assert Clicks(service).send(50) == {200}


def test_damaged_data_is_cut_off_at_the_start_and_kept_beside(published: Path) -> None:
    with stopped_service(published, clicks=200) as files:
        original = nuls_in_the_middle(files).read_bytes()
    with at_the_defaults(published) as service:
        check_repaired(service, published, original)


def test_damaged_data_is_met_when_redis_dies_and_the_service_answers_on(published: Path) -> None:
    with at_the_defaults(published) as service:
        until(lambda: ready(service) == 200)
        assert Clicks(service).send(200) == {200}
        pid = redis_pid(service)
        os.kill(pid, signal.SIGSTOP)
        original = nuls_in_the_middle(list(files_of(published / "redis"))).read_bytes()
        os.kill(pid, signal.SIGKILL)
        assert twenty_items(service)
        check_repaired(service, published, original)


def test_a_command_that_there_is_not_is_damage_too(published: Path) -> None:
    """One bit is another: the form is right, and Redis stops at it all the same."""
    with stopped_service(published, clicks=200) as files:
        file = max(files, key=lambda file: file.stat().st_size)
        original = file.read_bytes()
        at = original.index(b"XADD", len(original) // 2)
        original = original[:at] + b"XADE" + original[at + 4 :]
        file.write_bytes(original)
    with at_the_defaults(published) as service:
        check_repaired(service, published, original)


def test_data_of_which_nothing_can_be_read_is_kept_and_begun_anew(published: Path) -> None:
    with stopped_service(published, clicks=50) as files:
        for file in files:
            file.write_bytes(b"\0" * 500)
    with at_the_defaults(published) as service:
        until(lambda: ready(service) == 200)
        assert len(damaged(published / "redis")) == 1
        assert Clicks(service).send(50) == {200}
        assert twenty_items(service)


async def test_a_log_that_lost_its_tail_is_noticed_and_shows_a_gap(artifacts: Path) -> None:
    settings = Settings(artifacts_dir=artifacts, shards=1, redis_timeout_seconds=DEADLINE_SECONDS)
    with EmbeddedRedis(artifacts / "redis") as server:
        stores = [SessionStore(settings, server.url) for _ in range(2)]
        try:
            await send(stores[0], 0, 6)
            end = {file: file.stat().st_size for file in files_of(artifacts / "redis")}
            await send(stores[1], 6, 8)
            await send(stores[0], 8, 10)
            os.kill(server.pid, signal.SIGKILL)
            os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
            for file, size in end.items():
                os.truncate(file, size)
            server.restart_if_dead()
            with capture_logs() as logs:
                # One knows of 8 clicks, and the other of 10, whichever is the first to ask.
                await send(stores[1], 10, 12)
                await send(stores[0], 12, 14)
                await send(stores[1], 14, 16)
            told = [entry["lost"] for entry in logs if "lost its tail" in entry["event"]]
            assert sum(told) == 4
            with Redis.from_url(server.url, decode_responses=True) as client:
                numbers = [int(entry["seq"]) for _, entry in client.xrange(Keys().click_log(0))]
            assert numbers == sorted(set(numbers)), "none is given twice"
            assert (len(numbers), numbers[-1]) == (12, 16)
            assert sum(gap.missing for gap in collect(settings).gaps) == 4
        finally:
            for store in stores:
                await store.close()


async def test_a_redis_that_comes_back_whole_has_lost_nothing(artifacts: Path) -> None:
    settings = Settings(artifacts_dir=artifacts, shards=1, redis_timeout_seconds=DEADLINE_SECONDS)
    with EmbeddedRedis(artifacts / "redis") as server:
        store = SessionStore(settings, server.url)
        try:
            with capture_logs() as logs:
                for round_number in range(3):
                    await send(store, 10 * round_number, 10 * round_number + 10)
                    os.kill(server.pid, signal.SIGKILL)
                    os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
                    server.restart_if_dead()
                await send(store, 30, 31)
            assert not [entry for entry in logs if "tail" in entry["event"]]
            assert collect(settings).gaps == ()
        finally:
            await store.close()


async def send(store: SessionStore, begin: int, end: int) -> None:
    """Clicks with these numbers as event ids; one that meets a dead connection is sent again."""
    for number in range(begin, end):
        arrival = Arrival("s", Click("a", float(number), event_id=f"e{number}"))
        for _ in range(1000):
            try:
                await store.append_arrival(arrival)
            except StoreUnavailable:
                continue
            break
        else:
            pytest.fail("it was never taken")


def test_the_private_redis_refuses_before_the_machine_is_full(published: Path) -> None:
    with at_the_defaults(published) as service:
        until(lambda: ready(service) == 200)
        with Redis.from_url((published / "redis" / "address").read_text()) as client:
            assert int(client.config_get("maxmemory")["maxmemory"]) == memory_bytes() // 2
    with at_the_defaults(published, NEXTCLICK_REDIS_MAX_BYTES="10000000") as service:
        until(lambda: ready(service) == 200)
        with Redis.from_url((published / "redis" / "address").read_text()) as client:
            clicks = Clicks(service)

            def is_full() -> bool:
                for size in (100_000, 100):
                    with suppress(OutOfMemoryError):
                        while True:
                            client.rpush("filler", bytes(size))
                return clicks.send(1) == {503} and ready(service) == 503

            until(is_full)
        assert twenty_items(service)


def test_a_container_has_less_memory_than_its_machine(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    installed = memory_bytes(limit)
    assert installed > 2**20
    limit.write_text("1048576\n")
    assert memory_bytes(limit) == 2**20
    limit.write_text("max\n")
    assert memory_bytes(limit) == installed
    limit.write_text(f"{2 * installed}\n")
    assert memory_bytes(limit) == installed


def test_what_was_written_is_brought_to_the_disk_once(tmp_path: Path) -> None:
    synced: list[str] = []
    syncing = Syncing(tmp_path, lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink().name))
    syncing.sync()
    (tmp_path / "appendonly.aof").write_text("1")
    (tmp_path / "appendonlydir").mkdir()
    (tmp_path / "appendonlydir" / "appendonly.aof.1.incr.aof").write_text("2")
    syncing.sync()
    assert synced == ["appendonly.aof", "appendonly.aof.1.incr.aof"]
    syncing.sync()
    assert len(synced) == 2
    with (tmp_path / "appendonly.aof").open("a") as file:
        file.write("more")
    syncing.sync()
    assert synced[2:] == ["appendonly.aof"]
