"""What a connection carries: one request or many, in order, until somebody closes it; and what is no HTTP."""

from __future__ import annotations

import json
import socket

import pytest

from tests.service.processes import Service, peer
from tests.web.wire import Wire, request

LIVE = request("GET", "/health/live")


def test_a_connection_carries_many_requests(wire: Wire, session: str) -> None:
    for length in range(1, 6):
        clicked = wire.click(session, item_id="i9")
        assert (clicked.status, clicked.json()["length"]) == (200, length)
        answer = wire.ask("GET", f"/recommend?session_id={session}")
        assert (answer.status, len(answer.json()["items"])) == (200, 20)
        assert "connection" not in answer.headers
    assert wire.ask("DELETE", f"/sessions/{session}").status == 204
    assert wire.ask("GET", f"/sessions/{session}").problem == "unknown-session"
    assert wire.ask("GET", "/health/live").status == 200, "after an error, too"


def test_pipelined_requests_are_answered_in_order(wire: Wire, session: str) -> None:
    """A client that writes all before it reads anything; quick answers do not overtake slow ones."""
    body = json.dumps({"item_id": "i9"}).encode()
    rounds = range(1, 21)
    for number in rounds:
        wire.send(request("POST", f"/sessions/{session}/click?recommend=3", body))
        wire.send(request("GET", f"/recommend?session_id={session}&k={number}"))
        wire.send(request("GET", f"/nowhere/{number}") + LIVE)
    for number in rounds:
        assert wire.answer().json()["length"] == number
        assert len(wire.answer().json()["items"]) == number
        assert wire.answer().problem == "not-found"
        assert wire.answer().json() == {"status": "live"}


def test_requests_that_arrive_in_one_piece_or_torn_apart(wire: Wire, session: str) -> None:
    body = json.dumps({"item_id": "i9"}).encode()
    both = request("POST", f"/sessions/{session}/click", body) * 2
    wire.send(both[:-3])
    assert wire.answer().json()["length"] == 1
    wire.send(both[-3:])
    assert wire.answer().json()["length"] == 2


@pytest.mark.parametrize("target", ["/health/live", "/recommend?session_id=closed", "/nowhere"])
def test_who_asks_for_it_is_closed(wire: Wire, target: str) -> None:
    answer = wire.ask("GET", target, None, ("Connection", "close"))
    assert answer.status in (200, 404)
    assert answer.headers["connection"] == "close"
    assert wire.is_closed()


def test_http_1_0_is_answered_with_a_length_and_closed(wire: Wire) -> None:
    wire.send(b"GET /trending HTTP/1.0\r\n\r\n")
    answer = wire.answer()
    assert answer.status == 200
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert "transfer-encoding" not in answer.headers
    assert wire.is_closed()


def test_the_answer_to_head_has_no_body(wire: Wire) -> None:
    """Whether HEAD is allowed or not: a body would be taken for the next answer."""
    for target in ("/health/live", "/trending", "/nowhere"):
        assert wire.ask("HEAD", target).body == b""
        assert wire.ask("GET", "/health/live").json() == {"status": "live"}


def test_health_can_be_asked_by_head(wire: Wire) -> None:
    for target in ("/health/live", "/health/ready"):
        answer = wire.ask("HEAD", target)
        assert (answer.status, answer.body) == (200, b"")
        assert int(answer.headers["content-length"]) == len(wire.ask("GET", target).body)


def test_no_answer_is_kept_by_a_cache(wire: Wire, session: str) -> None:
    answers = [
        wire.click(session, item_id="i9"),
        wire.ask("GET", f"/recommend?session_id={session}"),
        wire.ask("POST", "/recommend", b'{"items": []}'),
        wire.ask("POST", "/clicks", b"[]"),
        wire.ask("GET", "/trending"),
        wire.ask("GET", f"/sessions/{session}"),
        wire.ask("DELETE", f"/sessions/{session}"),
        wire.ask("GET", "/items/i9/similar"),
        wire.ask("GET", "/models"),
        wire.ask("GET", "/admin/hidden"),
        wire.ask("GET", "/health/ready"),
        wire.ask("GET", "/nowhere"),
    ]
    assert [each.status for each in answers] == [200] * 3 + [422] + [200] * 2 + [204] + [200] * 2 + [
        401,
        200,
        404,
    ]
    wire.send(b"no HTTP at all\r\n\r\n")
    answers.append(wire.answer())
    assert {each.headers["cache-control"] for each in answers} == {"no-store"}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_who_sends_no_more_is_answered(wire: Wire, session: str, method: str) -> None:
    """A client may close its side once it has sent its request, as `nc -N` and some libraries do."""
    body = json.dumps({"item_id": "i9"}).encode() if method == "POST" else None
    target = f"/sessions/{session}/click" if method == "POST" else f"/recommend?session_id={session}"
    wire.send(request(method, target, body))
    wire.socket.shutdown(socket.SHUT_WR)
    assert wire.answer().status == 200
    assert wire.is_closed()


def test_all_that_was_sent_before_the_end_is_answered(wire: Wire) -> None:
    wire.send(b"".join(request("GET", f"/trending?k={number}") for number in range(1, 101)))
    wire.socket.shutdown(socket.SHUT_WR)
    for _ in range(100):
        assert wire.answer().status == 200
    assert wire.is_closed()


def test_half_a_request_is_not_answered(wire: Wire) -> None:
    wire.send(LIVE + LIVE[:-1])
    wire.socket.shutdown(socket.SHUT_WR)
    assert wire.answer().status == 200
    assert wire.is_closed()


def test_a_method_that_a_path_does_not_have(wire: Wire) -> None:
    for method in ("PATCH", "PUT", "OPTIONS"):
        answer = wire.ask(method, "/recommend", b"")
        assert (answer.status, answer.problem) == (405, "method-not-allowed")
        assert answer.headers["allow"] == "GET, HEAD, POST", "those of both of its routes"
    assert wire.ask("PATCH", "/admin/hidden/i1", b"").headers["allow"] == "DELETE, PUT"
    assert wire.ask("PATCH", "/sessions/s/click", b"").headers["allow"] == "POST"
    assert wire.ask("PATCH", "/openapi.json", b"").headers["allow"] == "GET, HEAD"
    assert wire.ask("GET", "/health/live").status == 200


POST = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
NOT_HTTP = {
    "an unknown method": b"FROB /trending HTTP/1.1\r\nHost: x\r\n\r\n",
    "the beginning of TLS": bytes.fromhex("160303010001fc0303") + 64 * b"x",
    "words": b"no HTTP at all\r\n\r\n",
    "a version that there is not": b"GET /trending HTTP/9.9\r\nHost: x\r\n\r\n",
    "HTTP/2 without asking": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a blank in the path": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "UTF-8 in the path": "GET /sessions/ключ HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    "a header without a colon": b"GET /trending HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
    "a blank before the colon": b"GET /trending HTTP/1.1\r\nHost : x\r\n\r\n",
    "a NUL in a header": b"GET /trending HTTP/1.1\r\nHost: x\x00y\r\n\r\n",
    "a length that is no number": POST + b"Content-Length: two\r\n\r\n{}",
    "a negative length": POST + b"Content-Length: -2\r\n\r\n{}",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk without a size": POST + b"Transfer-Encoding: chunked\r\n\r\nno\r\n",
}


@pytest.mark.parametrize("sent", NOT_HTTP.values(), ids=NOT_HTTP)
def test_what_is_no_http_is_refused_and_closed(wire: Wire, port: int, sent: bytes) -> None:
    wire.send(sent)
    answer = wire.answer()
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert wire.is_closed()
    with Wire(port) as other:
        assert other.ask("GET", "/health/live").status == 200


def test_what_is_no_http_does_not_take_the_answer_before_it_along(wire: Wire) -> None:
    assert wire.ask("GET", "/health/live").status == 200
    wire.send(b"no HTTP at all\r\n\r\n")
    assert wire.answer().status == 400
    assert wire.is_closed()


def test_connections_that_say_nothing_hold_nobody_up(port: int) -> None:
    silent = [Wire(port) for _ in range(40)]
    for number, wire in enumerate(silent):
        wire.send(LIVE[:number])
    with Wire(port) as other:
        for _ in range(20):
            assert other.ask("GET", "/trending").status == 200
    for number, wire in enumerate(silent):
        with wire:
            wire.send(LIVE[number:])
            assert wire.answer().status == 200


def test_all_workers_answer_on_the_one_port(service: Service) -> None:
    """The same answer, whoever the kernel gives the connection to; one connection stays with one worker."""
    with Wire(service.port) as wire:
        shown = wire.ask("GET", "/models").json()["loaded"]
        worker = peer(wire.socket)
        for _ in range(10):
            wire.ask("GET", "/health/live")
            assert peer(wire.socket) == worker
    answers = service.each("/models")
    assert len({answer.pid for answer in answers}) == 2
    assert [answer.json()["loaded"] for answer in answers] == [shown, shown]


def test_a_click_by_one_worker_is_seen_by_every_other(service: Service, session: str) -> None:
    for length in (1, 2, 3):
        with Wire(service.port) as wire:
            assert wire.click(session, item_id="i9").json()["length"] == length
        for answer in service.each(f"/sessions/{session}"):
            assert len(answer.json()["clicks"]) == length
