"""A request's id, on the wire: the one that was sent comes back, and every answer has one."""

from __future__ import annotations

import json
import re

import pytest

from service.http.request_log import session_hash
from tests.service.processes import Service
from tests.waiting import until
from tests.web.conftest import MAX_BODY_BYTES
from tests.web.wire import Answer, Wire, request

OURS = re.compile(r"([0-9a-f]{16})-[0-9a-f]+")
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACE = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


def id_of(answer: Answer) -> str:
    return answer.headers["x-request-id"]


def sent_with(wire: Wire, *headers: tuple[str, str]) -> str:
    """The id of the answer to a request with these headers."""
    return id_of(wire.ask("GET", "/trending", None, *headers))


@pytest.mark.parametrize(
    "sent", ["7", "9f1c2b-_.~:/+=@", "Root=1-67891233-abcdef012345678912345678", "x" * 128]
)
def test_the_id_that_was_sent_comes_back(wire: Wire, sent: str) -> None:
    assert sent_with(wire, ("X-Request-ID", sent)) == sent
    assert sent_with(wire, ("traceparent", TRACE), ("x-request-id", sent)) == sent


@pytest.mark.parametrize(
    "sent", ["", "x" * 129, "a b", 'a"b', "a\tb", "<b>", "a;b", "\u00e9", "{}", "a\x1b[1m"]
)
def test_what_is_unfit_to_be_written_down_is_replaced(wire: Wire, sent: str) -> None:
    wire.send(b"GET /trending HTTP/1.1\r\nHost: x\r\nX-Request-ID: " + sent.encode() + b"\r\n\r\n")
    answer = wire.answer()
    if answer.status == 200:
        assert OURS.fullmatch(id_of(answer))
        assert sent_with(wire, ("X-Request-ID", sent.strip() and "7"), ("traceparent", TRACE))
    else:  # a control character is no HTTP
        assert (answer.status, OURS.fullmatch(id_of(answer)) is None) == (400, False)


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        (TRACE, True),
        (TRACE[:-2] + "00", True),
        ("cc" + TRACE[2:], True),
        ("cc" + TRACE[2:] + "-what-comes-next", True),
        (TRACE + "-more", False),
        ("cc" + TRACE[2:] + "more", False),
        ("ff" + TRACE[2:], False),
        (TRACE.upper(), False),
        (TRACE.replace(TRACE_ID, "0" * 32), False),
        (TRACE.replace("00f067aa0ba902b7", "0" * 16), False),
        (TRACE[1:], False),
        ("", False),
    ],
)
def test_the_trace_is_the_id_where_none_is_sent(wire: Wire, sent: str, taken: bool) -> None:
    found = sent_with(wire, ("traceparent", sent))
    assert (found == TRACE_ID) if taken else OURS.fullmatch(found)
    assert (sent_with(wire, ("X-Request-ID", "un fit"), ("traceparent", sent)) == TRACE_ID) == taken


def test_every_id_of_ours_is_another_in_every_worker(service: Service) -> None:
    found: list[str] = []

    def both_have_answered() -> bool:
        with Wire(service.port) as wire:
            found.extend(sent_with(wire) for _ in range(3))
        return len({OURS.fullmatch(each)[1] for each in found}) == service.workers  # type: ignore[index]

    until(both_have_answered)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        ("GET", "/health/live", None, 200),
        ("HEAD", "/health/ready", None, 200),
        ("GET", "/openapi.json", None, 200),
        ("GET", "/nowhere", None, 404),
        ("GET", "/sessions/nobody", None, 404),
        ("PUT", "/recommend", None, 405),
        ("GET", "/recommend", None, 422),
        ("GET", "/sessions/%FF", None, 422),
        ("POST", "/sessions/s/click", b"{", 422),
        ("POST", "/admin/rollback", None, 401),
        ("POST", "/clicks", b"[" + b" " * MAX_BODY_BYTES + b"]", 413),
    ],
)
def test_good_answers_and_problems_have_it(
    wire: Wire, method: str, target: str, body: bytes | None, status: int
) -> None:
    answer = wire.ask(method, target, body, ("X-Request-ID", "mine"))
    assert (answer.status, id_of(answer)) == (status, "mine")


HEAD = b"POST /recommend HTTP/1.1\r\nHost: x\r\nX-Request-ID: mine\r\n"
TOO_LONG = HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 200_000


@pytest.mark.parametrize(
    ("sent", "status", "known"),
    [
        (b"\x00\r\n\r\n", 400, False),
        (HEAD + b"A: b\r\na b: c\r\n\r\n", 400, True),
        (HEAD + b"Long: " + b"x" * 40_000, 431, True),
        (TOO_LONG, 413, True),
    ],
)
def test_so_has_what_the_connection_answers_itself(wire: Wire, sent: bytes, status: int, known: bool) -> None:
    wire.send(sent)
    answer = wire.answer()
    assert answer.status == status
    assert (id_of(answer) == "mine") if known else OURS.fullmatch(id_of(answer))
    wire.forget()


def test_a_request_in_line_has_its_own(wire: Wire) -> None:
    """Its body is too long, and is found to be before its turn has come."""
    wire.send(request("GET", "/trending", None, ("X-Request-ID", "first")) + TOO_LONG)
    assert [id_of(wire.answer()) for _ in range(2)] == ["first", "mine"]
    wire.forget()


def test_it_is_found_in_the_log(service: Service, wire: Wire, session: str) -> None:
    click = json.dumps({"item_id": "no such item"}).encode()
    answer = wire.ask("POST", f"/sessions/{session}/click?recommend=3", click, ("X-Request-ID", "in-the-log"))

    def told() -> list[dict[str, object]]:
        return [entry for entry in service.logged("request") if entry["request_id"] == "in-the-log"]

    (entry,) = until(told)
    assert isinstance(entry.pop("ms"), float)
    del entry["timestamp"]
    assert entry == {
        "event": "request",
        "level": "info",
        "request_id": "in-the-log",
        "method": "POST",
        "route": "/sessions/{session_id}/click",
        "status": 200,
        "session": session_hash(session),
        **{name: answer.json()["recommendations"][name] for name in ("version", "stage", "degraded")},
    }
