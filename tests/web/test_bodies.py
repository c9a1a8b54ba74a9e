"""Bodies as they arrive: whole, in chunks, drop by drop, announced, too large, or cut off."""

from __future__ import annotations

import json
import socket

import pytest

from tests.web.conftest import MAX_BODY_BYTES
from tests.web.wire import Wire, request

CLICK = json.dumps({"item_id": "ключ"}, ensure_ascii=False).encode()
CHUNKED = ("Transfer-Encoding", "chunked")
JSON = ("Content-Type", "application/json")


def padded(size: int) -> bytes:
    """A click of so many bytes: blanks mean nothing in JSON."""
    return CLICK + b" " * (size - len(CLICK))


def chunk(content: bytes, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n" % (len(content), extension, content)


def stored(wire: Wire, session: str) -> list[str]:
    answer = wire.ask("GET", f"/sessions/{session}")
    return [click["item_id"] for click in answer.json().get("clicks", ())]


def test_an_answer_says_what_it_is_and_how_long(wire: Wire, session: str) -> None:
    answers = [
        wire.click(session, item_id="ключ"),
        wire.ask("GET", f"/recommend?session_id={session}&k=100"),
        wire.ask("GET", f"/sessions/{session}"),
        wire.ask("GET", "/trending"),
        wire.ask("GET", "/nowhere"),
        wire.click(session, item=1),
        wire.ask("GET", "/openapi.json"),
        wire.ask("GET", "/docs"),
    ]
    assert [answer.status for answer in answers] == [200, 200, 200, 200, 404, 422, 200, 200]
    problem = "application/problem+json"
    kinds = [*["application/json"] * 4, problem, problem, "application/json", "text/html"]
    assert [answer.kind for answer in answers] == kinds
    for answer in answers:
        assert int(answer.headers["content-length"]) == len(answer.body) > 0
        assert answer.headers["date"]
        assert "server" not in answer.headers, "what runs here is nobody's business"
        if answer.kind.endswith("json"):
            assert answer.json()
    assert len(answers[1].json()["items"]) == 60, "a long answer arrives whole"
    gone = wire.ask("DELETE", f"/sessions/{session}")
    assert (gone.status, gone.body) == (204, b"")


def test_a_body_in_chunks(wire: Wire, session: str) -> None:
    wire.send(request("POST", f"/sessions/{session}/click", None, JSON, CHUNKED))
    for cut in (CLICK[:1], CLICK[1:15], CLICK[15:]):  # the second cut goes through a letter
        wire.send(chunk(cut, b";name=value"))
    wire.send(b"0\r\nTrailer: x\r\n\r\n")
    assert wire.answer().json()["length"] == 1
    assert stored(wire, session) == ["ключ"]


def test_a_request_drop_by_drop(wire: Wire, session: str) -> None:
    for byte in request("POST", f"/sessions/{session}/click", CLICK):
        wire.send(bytes([byte]))
    assert wire.answer().json()["length"] == 1
    assert stored(wire, session) == ["ключ"]


def test_a_body_is_sent_when_the_service_asks_for_it(wire: Wire, session: str) -> None:
    expecting = request("POST", f"/sessions/{session}/click", CLICK, ("Expect", "100-continue"))
    wire.send(expecting.removesuffix(CLICK))
    assert wire.answer().status == 100
    wire.send(CLICK)
    assert wire.answer().json()["length"] == 1
    assert stored(wire, session) == ["ключ"]


def test_a_body_as_large_as_allowed(wire: Wire, session: str) -> None:
    whole = padded(MAX_BODY_BYTES)
    assert wire.ask("POST", f"/sessions/{session}/click", whole).json()["length"] == 1
    wire.send(request("POST", f"/sessions/{session}/click", None, JSON, CHUNKED))
    wire.send(chunk(whole[:1000]) + chunk(whole[1000:]) + b"0\r\n\r\n")
    assert wire.answer().json()["length"] == 2
    assert stored(wire, session) == ["ключ", "ключ"]


@pytest.mark.parametrize("target", ["/sessions/{}/click", "/clicks", "/recommend"])
@pytest.mark.parametrize("expect", [(), (("Expect", "100-continue"),)], ids=["", "expect"])
def test_a_body_announced_too_large_is_not_waited_for(
    wire: Wire, port: int, session: str, target: str, expect: tuple[tuple[str, str], ...]
) -> None:
    length = ("Content-Length", str(MAX_BODY_BYTES + 1))
    wire.send(request("POST", target.format(session), None, JSON, length, *expect))
    answer = wire.answer()
    assert (answer.status, answer.problem) == (413, "body-too-large")
    assert answer.headers["connection"] == "close"
    assert wire.is_closed(), "what of the body is under way would be taken for a request"
    with Wire(port) as other:
        assert stored(other, session) == []


@pytest.mark.parametrize("target", ["/sessions/{}/click", "/clicks", "/recommend"])
def test_a_body_that_grows_too_large_is_cut_off(wire: Wire, port: int, session: str, target: str) -> None:
    wire.send(request("POST", target.format(session), None, JSON, CHUNKED))
    content = padded(MAX_BODY_BYTES + 1)
    wire.send(chunk(content[:1000]) + chunk(content[1000:]).removesuffix(b"\r\n"))
    answer = wire.answer()
    assert (answer.status, answer.problem) == (413, "body-too-large")
    assert answer.headers["connection"] == "close"
    assert wire.is_closed()
    with Wire(port) as other:
        assert stored(other, session) == []


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_what_is_cut_off_is_not_stored(wire: Wire, port: int, session: str, chunked: bool) -> None:
    """What has arrived would be a click; but it is not all that was announced."""
    framing = CHUNKED if chunked else ("Content-Length", str(len(CLICK) + 1))
    wire.send(request("POST", f"/sessions/{session}/click", None, JSON, framing))
    wire.send(chunk(CLICK) if chunked else CLICK)
    wire.socket.shutdown(socket.SHUT_WR)
    assert wire.is_closed()
    with Wire(port) as other:
        assert other.ask("GET", f"/sessions/{session}").problem == "unknown-session"
        assert other.click(session, item_id="i9").json()["length"] == 1, "the service goes on"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"item_id": "\xff"}', b'{"item_id": 5}', b"\xef\xbb\xbf{}"]
)
def test_a_bad_body_is_told_and_the_connection_goes_on(wire: Wire, session: str, body: bytes) -> None:
    answer = wire.ask("POST", f"/sessions/{session}/click", body)
    assert (answer.status, answer.problem) == (422, "invalid-input")
    assert answer.json()["errors"][0]["field"].startswith("body")
    assert wire.click(session, item_id="i9").json()["length"] == 1


def test_a_body_that_nobody_asked_for_is_not_the_next_request(wire: Wire) -> None:
    smuggled = request("DELETE", "/sessions/somebody")
    assert wire.ask("GET", "/health/live", smuggled).status == 200
    assert wire.ask("GET", "/nowhere", smuggled).status == 404
    assert wire.ask("GET", "/health/live").status == 200
