"""HTTP as bytes: what a browser, a shop's server or a balancer puts on a socket, and what comes back."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tests.waiting import DEADLINE_SECONDS

Header = tuple[str, str]


@dataclass(frozen=True)
class Answer:
    """One answer as it stood on the wire; the names of headers in lower case."""

    version: str
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        """The content type without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0]

    @property
    def problem(self) -> str:
        """The kind of problem that a problem document names."""
        assert self.kind == "application/problem+json", self
        return str(self.json()["type"]).removeprefix("urn:nextclick:problem:")


class Wire:
    """One connection to the service: bytes go out as they are, answers come in one after the other."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
        if error is None:
            assert self._unread == b"", "more came than was asked for"

    def send(self, content: bytes) -> None:
        self.socket.sendall(content)

    def ask(self, method: str, target: str, body: bytes | None = None, *headers: Header) -> Answer:
        """Send a request the usual way, and read its answer."""
        self.send(request(method, target, body, *headers))
        return self.answer(method)

    def click(self, session_id: str, **body: object) -> Answer:
        """POST a click; `session_id` as it stands in a path."""
        return self.ask("POST", f"/sessions/{session_id}/click", json.dumps(body).encode())

    def answer(self, to: str = "GET") -> Answer:
        """The next answer; `to` is the method that was asked with, for an answer to HEAD has no body."""
        version, status, headers = self._head()
        assert status < 200 or headers.get("x-request-id"), f"{status} without the id that every answer has"
        if to == "HEAD" or status in (204, 304) or status < 200:
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            assert "content-length" not in headers, "two lengths: who comes between might read another"
            body = self._chunks()
        elif "content-length" in headers:
            body = self._take(int(headers["content-length"]))
        else:
            body = self._rest()
        return Answer(version, status, headers, body)

    def is_closed(self) -> bool:
        """Whether the service closes the connection, and says nothing before."""
        return self._rest() == b""

    def forget(self) -> None:
        """Leave unread whatever comes."""
        self._unread = b""

    def _head(self) -> tuple[str, int, dict[str, str]]:
        version, status, _ = self._line().split(" ", 2)
        headers: dict[str, str] = {}
        while line := self._line():
            name, _, value = line.partition(":")
            assert name.lower() not in headers, f"{name} stands twice"
            headers[name.lower()] = value.strip()
        return version, int(status), headers

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self._line(), 16):
            body += self._take(size)
            assert self._line() == ""
        assert self._line() == ""
        return body

    def _line(self) -> str:
        while b"\r\n" not in self._unread:
            assert self._receive(), f"closed in mid-line: {self._unread!r}"
        line, _, self._unread = self._unread.partition(b"\r\n")
        return line.decode("ascii")

    def _take(self, size: int) -> bytes:
        while len(self._unread) < size:
            assert self._receive(), f"closed after {len(self._unread)} of {size} bytes"
        taken, self._unread = self._unread[:size], self._unread[size:]
        return taken

    def _rest(self) -> bytes:
        try:
            while self._receive():
                pass
        except ConnectionResetError:  # it closes before it has read all that was sent
            pass
        rest, self._unread = self._unread, b""
        return rest

    def _receive(self) -> bool:
        received = self.socket.recv(65536)
        self._unread += received
        return received != b""


def request(method: str, target: str, body: bytes | None = None, *headers: Header) -> bytes:
    """A request as most clients send it."""
    fields = {"Host": "shop.example"}
    if body is not None:
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"{name}: {value}\r\n" for name, value in [*fields.items(), *headers]]
    return f"{method} {target} HTTP/1.1\r\n{''.join(lines)}\r\n".encode() + (body or b"")
