"""Whoever is slow or greedy waits alone: limits of time, size and number, and what is left to others."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from service.live.deployment import publish
from service.process.embedded_redis import EmbeddedRedis
from tests.service.processes import Service, peer, running
from tests.service.serving import ADMIN, PATIENT
from tests.waiting import DEADLINE_SECONDS, stopped, until
from tests.web.conftest import SHOP
from tests.web.wire import Answer, Wire, request

LIVE = request("GET", "/health/live")
CLICK = b'{"item_id": "i9"}'
CHUNKED = ("Transfer-Encoding", "chunked")
JSON = ("Content-Type", "application/json")
KEY = ("X-API-Key", ADMIN["X-API-Key"])
CONNECTIONS, IN_FLIGHT, HEAD_BYTES, BODY_BYTES = 12, 9, 1024, 3000


def settings(directory: Path) -> dict[str, str]:
    SHOP.write(directory, "v1")
    publish(directory, "v1")
    return {
        "NEXTCLICK_ARTIFACTS_DIR": str(directory),
        "NEXTCLICK_REDIS_TIMEOUT_SECONDS": str(PATIENT),
        "NEXTCLICK_ADMIN_API_KEY": ADMIN["X-API-Key"],
        "NEXTCLICK_MAX_BODY_BYTES": str(BODY_BYTES),
    }


@pytest.fixture(scope="module")
def hasty_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that waits for nobody."""
    seconds = {f"NEXTCLICK_{name}_SECONDS": "0.3" for name in ("HEAD_TIMEOUT", "BODY_TIMEOUT", "KEEP_ALIVE")}
    directory = tmp_path_factory.mktemp("hasty")
    with running(directory, workers=1, **settings(directory), **seconds) as service:
        until(lambda: service.logged("Application startup complete."))
        yield service
        assert service.end() == 0
        assert service.logged("Exception in ASGI application\n") == []


@pytest.fixture(scope="module")
def hasty(hasty_service: Service) -> int:
    """Its port."""
    return hasty_service.port


class Narrow(NamedTuple):
    """A service with little room, and the process id of its Redis."""

    service: Service
    redis: int

    @property
    def port(self) -> int:
        return self.service.port


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Narrow]:
    directory = tmp_path_factory.mktemp("narrow")
    limits = {
        "NEXTCLICK_MAX_CONNECTIONS": str(CONNECTIONS),
        "NEXTCLICK_MAX_REQUESTS_IN_FLIGHT": str(IN_FLIGHT),
        "NEXTCLICK_MAX_HEAD_BYTES": str(HEAD_BYTES),
        "NEXTCLICK_HEAD_TIMEOUT_SECONDS": str(10 * PATIENT),
        "NEXTCLICK_BODY_TIMEOUT_SECONDS": str(10 * PATIENT),
    }
    with EmbeddedRedis(directory / "redis") as redis:
        limits["NEXTCLICK_REDIS_URL"] = redis.url
        with running(directory, workers=1, **settings(directory), **limits) as service:
            until(lambda: service.logged("Application startup complete."))
            yield Narrow(service, redis.pid)
            assert service.end() == 0
            assert service.logged("Exception in ASGI application\n") == []


def refused(service: Service, reason: str) -> float:
    """How many requests were refused for a reason."""
    line = f'nextclick_requests_refused_total{{reason="{reason}"}} '
    rows = service.metrics().splitlines()
    return next((float(row.removeprefix(line)) for row in rows if row.startswith(line)), 0)


def drip(wire: Wire, content: bytes) -> int:
    """Send over and over until something comes back, or the connection is closed; returns how often."""
    wire.socket.setblocking(False)
    deadline, sent = time.monotonic() + DEADLINE_SECONDS, 0
    try:
        while True:
            with suppress(BlockingIOError):
                wire.socket.recv(1, socket.MSG_PEEK)
                return sent
            with suppress(BlockingIOError):
                wire.socket.sendall(content)
                sent += 1
            assert time.monotonic() < deadline
            time.sleep(0.02)
    except ConnectionError:
        return sent
    finally:
        wire.socket.settimeout(DEADLINE_SECONDS)


# Time.


@pytest.mark.parametrize("target", ["/sessions/late/click", "/clicks", "/recommend", "/admin/activate"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_a_body_that_does_not_come(hasty_service: Service, hasty: int, target: str, chunked: bool) -> None:
    framing = CHUNKED if chunked else ("Content-Length", str(len(CLICK) + 1))
    before = refused(hasty_service, "slow")
    with Wire(hasty) as wire:
        wire.send(request("POST", target, None, JSON, KEY, framing))
        wire.send(b"%x\r\n%s\r\n" % (len(CLICK), CLICK) if chunked else CLICK)
        answer = wire.answer()
        assert (answer.status, answer.problem) == (408, "too-slow")
        assert answer.headers["connection"] == "close"
        assert wire.is_closed()
    assert refused(hasty_service, "slow") > before
    with Wire(hasty) as wire:
        assert wire.ask("GET", "/sessions/late").status == 404, "it was not all that was announced"


def test_a_body_that_comes_by_drops(hasty: int) -> None:
    """Each drop is soon after the last; it is the whole body that has its time."""
    with Wire(hasty) as wire:
        wire.send(request("POST", "/sessions/late/click", None, JSON, ("Content-Length", str(BODY_BYTES))))
        assert drip(wire, b" ") < BODY_BYTES
        assert wire.answer().problem == "too-slow"
        assert wire.is_closed()


def test_a_body_that_nobody_reads_keeps_no_connection(hasty: int) -> None:
    with Wire(hasty) as wire:
        wire.send(request("GET", "/health/live", None, ("Content-Length", "1000")))
        assert wire.answer().status == 200
        drip(wire, b" ")
        assert wire.is_closed()


def test_a_head_that_does_not_come(hasty: int) -> None:
    for part in (LIVE[:1], LIVE[:20], LIVE[:-1]):
        with Wire(hasty) as wire:
            wire.send(part)
            answer = wire.answer()
            assert (answer.status, answer.problem) == (408, "too-slow")
            assert wire.is_closed()


def test_a_head_that_comes_by_drops(hasty: int) -> None:
    with Wire(hasty) as wire:
        wire.send(LIVE[:-2])
        drip(wire, b"x: y\r\n")
        assert wire.answer().problem == "too-slow"
        assert wire.is_closed()


@pytest.mark.parametrize("said", [b"", b"\r\n"], ids=["nothing", "line ends"])
def test_who_asks_nothing_is_closed(hasty: int, said: bytes) -> None:
    with Wire(hasty) as wire:
        if said:
            drip(wire, said)
        assert wire.is_closed()
    with Wire(hasty) as wire:
        assert wire.ask("GET", "/health/live").status == 200
        if said:
            drip(wire, said)
        assert wire.is_closed()


# Places.


def test_slow_bodies_take_no_place_of_those_at_work(narrow: Narrow) -> None:
    with ExitStack() as stack:
        for _ in range(IN_FLIGHT + 1):
            wire = stack.enter_context(Wire(narrow.port))
            length = ("Content-Length", str(len(CLICK)))
            wire.send(request("POST", "/sessions/slow/click", None, JSON, length, ("Expect", "100-continue")))
            assert wire.answer().status == 100, "its body is being read"
            wire.send(CLICK[:1])
        for target in ("/recommend?session_id=quick", "/trending"):
            with Wire(narrow.port) as quick:
                assert quick.ask("GET", target).status == 200
        with Wire(narrow.port) as quick:
            assert quick.click("quick", item_id="i9").status == 200


@pytest.mark.parametrize("part", [b"", LIVE[:20], LIVE, request("POST", "/clicks", CLICK)[:-1]])
def test_who_waits_for_nothing_makes_room(narrow: Narrow, part: bytes) -> None:
    """Silent, in mid-head, idle or in mid-body: one of them goes, and a new client is answered."""
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(narrow.port)) for _ in range(CONNECTIONS)]
        for wire in wires:
            wire.send(part)
            if part == LIVE:
                assert wire.answer().status == 200
        for _ in range(2 * CONNECTIONS):
            with Wire(narrow.port) as other:
                assert other.ask("GET", "/health/live").status == 200
        closed, _, _ = select.select([wire.socket for wire in wires], [], [], DEADLINE_SECONDS)
        assert closed
        assert {each.recv(1) for each in closed} == {b""}


def test_connections_at_work_are_not_closed_for_new_ones(narrow: Narrow) -> None:
    with ExitStack() as stack:
        with stopped(narrow.redis):
            busy = [stack.enter_context(Wire(narrow.port)) for _ in range(CONNECTIONS)]
            for number, wire in enumerate(busy):
                method, target = ("GET", "/sessions/busy") if number < IN_FLIGHT else ("GET", "/health/ready")
                wire.send(request(method, target))

            def one_too_many() -> Answer | None:
                with Wire(narrow.port) as other:
                    with suppress(ConnectionError):
                        answer = other.ask("GET", "/health/live")
                        return answer if answer.status == 503 else None
                    return None

            answer = until(one_too_many)
            assert answer.problem == "too-many-connections"
            assert (answer.headers["connection"], answer.headers["retry-after"]) == ("close", "1")
        assert {wire.answer().status for wire in busy} == {404, 200}
    assert refused(narrow.service, "connections") >= 1


# Size.


def long_head(size: int, target: str = "/health/live", filler: str = "header") -> bytes:
    """A request whose head has so many bytes."""
    if filler == "target":
        return request("GET", target + "?" + "x" * (size - len(request("GET", target + "?"))))
    header = b"x: y\r\n"
    room = size - len(request("GET", target))
    if filler == "many":
        count, rest = divmod(room - 20, len(header))
        return request("GET", target)[:-2] + header * count + b"x" * (rest + 16) + b": \r\n\r\n"
    return request("GET", target, None, ("x", "y" * (room - len("x: \r\n"))))


@pytest.mark.parametrize("filler", ["header", "target", "many"])
@pytest.mark.parametrize("pieces", [1, 2, 7])
def test_a_head_is_as_long_as_allowed(narrow: Narrow, filler: str, pieces: int) -> None:
    for size, status in ((HEAD_BYTES, 200), (HEAD_BYTES + 1, 431)):
        head = long_head(size, filler=filler)
        assert len(head) == size
        with Wire(narrow.port) as wire:
            assert wire.ask("GET", "/health/live").status == 200
            step = -(-size // pieces)
            for start in range(0, size, step):
                wire.send(head[start : start + step])
            answer = wire.answer()
            assert answer.status == status
            if status == 431:
                assert answer.problem == "head-too-large"
                assert answer.headers["connection"] == "close"
                assert wire.is_closed()
            else:
                assert wire.ask("GET", "/health/live").status == 200


def test_each_of_many_requests_may_have_a_long_head(narrow: Narrow) -> None:
    body = b" " * (BODY_BYTES - len(CLICK)) + CLICK
    with Wire(narrow.port) as wire:
        for _ in range(3):
            wire.send(request("POST", "/sessions/long/click", body) + long_head(HEAD_BYTES))
        for length in (1, 2, 3):
            assert wire.answer().json()["length"] == length
            assert wire.answer().json() == {"status": "live"}


@pytest.mark.parametrize(
    ("begin", "more", "status"),
    [
        (b"GET /", b"x" * 100, 431),
        (LIVE[:-2], b"x: y\r\n" * 20, 431),
        (LIVE[:-2] + b"x: ", b"y" * 100, 431),
        (request("GET", "/trending", None, CHUNKED), b"1;%s\r\na\r\n" % (b"x" * 1000), 200),
        (request("GET", "/trending", None, CHUNKED) + b"1\r\na\r\n0\r\n", b"x: y\r\n" * 200, 200),
        (request("GET", "/trending", None, ("Content-Length", "999999999")), b"x" * 1000, 200),
        (request("POST", "/clicks", None, JSON, CHUNKED), b"1;%s\r\na\r\n" % (b"x" * 1000), 413),
        (request("POST", "/clicks", None, JSON, CHUNKED) + b"1\r\na\r\n0\r\n", b"x: y\r\n" * 200, 413),
    ],
    ids=["url", "headers", "header", "extensions", "trailers", "unread", "read extensions", "read trailers"],
)
def test_what_never_ends_is_cut_off(narrow: Narrow, begin: bytes, more: bytes, status: int) -> None:
    with Wire(narrow.port) as wire:
        wire.send(begin)
        if status == 200:
            assert wire.answer().status == 200, "it has its answer, and goes on to send"
        drip(wire, more)
        if status == 200:
            assert wire.is_closed()
        else:
            assert wire.answer().status == status
            assert wire.is_closed()
    with Wire(narrow.port) as wire:
        assert wire.ask("GET", "/health/live").status == 200


def test_pipelined_requests_take_little_memory(narrow: Narrow) -> None:
    """As many as fit into the sockets, from clients that read no answer."""
    with ExitStack() as stack:
        watcher = stack.enter_context(Wire(narrow.port))
        assert watcher.ask("GET", "/health/live").status == 200
        worker = peer(watcher.socket)
        before = memory(worker)
        for _ in range(CONNECTIONS - 2):
            greedy = stack.enter_context(Wire(narrow.port))
            greedy.socket.setblocking(False)
            with suppress(BlockingIOError):
                greedy.socket.sendall(b"GET /trending HTTP/1.1\r\n\r\n" * 10_000)
            stack.callback(greedy.forget)
        assert watcher.ask("GET", "/health/live").status == 200
        assert memory(worker) - before < 80_000, "kB, at its most"


def memory(pid: int | None) -> int:
    """The most memory that a process has had, in kB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_all_of_many_pipelined_requests_are_answered_in_order(narrow: Narrow) -> None:
    with Wire(narrow.port) as wire:
        for number in range(1, 101):
            wire.send(request("GET", f"/recommend?session_id=pipelined&k={number}"))
        wire.send(b"".join(request("GET", f"/trending?k={number}") for number in range(1, 101)))
        wire.send(b"no HTTP at all\r\n\r\n")
        for number in range(1, 101):
            assert len(wire.answer().json()["items"]) == min(number, 60)
        for _ in range(100):
            assert wire.answer().status == 200
        wire.is_closed()
