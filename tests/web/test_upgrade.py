"""Clients that offer HTTP/2 with their request: the offer is not taken up, and the request is answered."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.waiting import DEADLINE_SECONDS
from tests.web.wire import Wire, request

# As java.net.http.HttpClient of a JDK 17 sends it, and Spring's RestClient with it.
OFFER = (
    ("Connection", "Upgrade, HTTP2-Settings"),
    ("HTTP2-Settings", "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA"),
    ("Upgrade", "h2c"),
    ("User-Agent", "Java-http-client/17.0.15"),
)
CLICK = b'{"item_id": "i9"}'


def java(target: str, body: bytes | None, *more: tuple[str, str]) -> bytes:
    method = "GET" if body is None else "POST"
    return request(method, target, body, *OFFER, *more)


def test_a_request_with_an_offer_is_answered_as_any_other(wire: Wire, session: str) -> None:
    for length in range(1, 4):
        wire.send(java(f"/sessions/{session}/click", CLICK))
        answer = wire.answer()
        assert (answer.status, answer.version) == (200, "HTTP/1.1")
        assert answer.json()["length"] == length
        wire.send(java(f"/recommend?session_id={session}", None))
        assert len(wire.answer().json()["items"]) == 20
    assert wire.ask("GET", "/health/live").status == 200


@pytest.mark.parametrize("cut", [0, 1, 60, -len(CLICK) - 1, -len(CLICK), -3])
def test_in_two_pieces(wire: Wire, session: str, cut: int) -> None:
    whole = java(f"/sessions/{session}/click", CLICK, ("Expect", "100-continue"))
    wire.send(whole[:cut])
    if cut == -len(CLICK):
        assert wire.answer().status == 100
    wire.send(whole[cut:])
    answers = [wire.answer()]
    if answers[0].status == 100:
        answers.append(wire.answer())
    assert answers[-1].json()["length"] == 1


def test_drop_by_drop(wire: Wire, session: str) -> None:
    for byte in java(f"/sessions/{session}/click", CLICK):
        wire.send(bytes([byte]))
    assert wire.answer().json()["length"] == 1


def test_in_chunks(wire: Wire, session: str) -> None:
    framing = ("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")
    wire.send(request("POST", f"/sessions/{session}/click", None, *OFFER, *framing))
    wire.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(CLICK), CLICK))
    assert wire.answer().json()["length"] == 1


def test_what_is_pipelined_behind_is_answered(wire: Wire, session: str) -> None:
    both = java(f"/sessions/{session}/click", CLICK) + java(f"/sessions/{session}", None)
    wire.send(both * 20 + request("GET", "/health/live"))
    for length in range(1, 21):
        assert wire.answer().json()["length"] == length
        assert len(wire.answer().json()["clicks"]) == length
    assert wire.answer().json() == {"status": "live"}


@pytest.mark.parametrize("offer", ["websocket", "h2c, websocket", "TLS/1.0"])
def test_any_other_offer(wire: Wire, offer: str) -> None:
    wire.send(request("GET", "/trending", None, ("Connection", "keep-alive, upgrade"), ("Upgrade", offer)))
    assert wire.answer().status == 200
    assert wire.ask("GET", "/health/live").status == 200


def test_who_wants_the_connection_closed_as_well(wire: Wire) -> None:
    wire.send(request("GET", "/trending", None, ("Connection", "close, Upgrade"), ("Upgrade", "h2c")))
    answer = wire.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert wire.is_closed()


def test_nobody_is_connected_to_somebody_else(wire: Wire) -> None:
    wire.send(b"CONNECT shop.example:80 HTTP/1.1\r\nHost: shop.example:80\r\n\r\n")
    assert wire.answer().status == 400
    assert wire.is_closed()


def test_curl(port: int, session: str) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl here")
    url = f"http://127.0.0.1:{port}/sessions/{session}/click?recommend=3"
    command = [curl, "--http2", "--silent", "--show-error", "--json", CLICK.decode(), url, url]
    answered = subprocess.run(command, capture_output=True, timeout=DEADLINE_SECONDS, check=True).stdout
    first, _, second = answered.decode().partition("}{")
    assert json.loads(first + "}")["length"] == 1
    assert json.loads("{" + second)["length"] == 2


PROGRAM = """
import java.net.URI;
import java.net.http.*;

class Clicks {
    public static void main(String[] urls) throws Exception {
        var client = HttpClient.newHttpClient();
        for (var url : urls) {
            var click = HttpRequest.newBuilder(URI.create(url))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString("{\\"item_id\\": \\"i9\\"}"))
                .build();
            var answer = client.send(click, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.body());
        }
    }
}
"""


def test_java(port: int, session: str, tmp_path: Path) -> None:
    program = shutil.which("java")
    if program is None:
        pytest.skip("there is no java here")
    (tmp_path / "Clicks.java").write_text(PROGRAM)
    url = f"http://127.0.0.1:{port}/sessions/{session}/click"
    command = [program, str(tmp_path / "Clicks.java"), url, url]
    ran = subprocess.run(command, capture_output=True, timeout=DEADLINE_SECONDS, check=False)
    if b"compiler" in ran.stderr:
        pytest.skip("this java has no compiler")
    assert ran.returncode == 0, ran.stderr
    answers = ran.stdout.decode().splitlines()
    assert [answer[:4] for answer in answers] == ["200 ", "200 "]
    assert [json.loads(answer[4:])["length"] for answer in answers] == [1, 2]
