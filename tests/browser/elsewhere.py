"""A shop on another origin than the service: its pages, and a way to the service that loses what it is to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from tests.waiting import DEADLINE_SECONDS

OF_A_CONNECTION = {"connection", "host", "transfer-encoding", "content-length", "date", "server"}


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    method: str
    path: str
    mode: str  # Sec-Fetch-Mode: no-cors is a beacon
    body: bytes

    @property
    def is_click(self) -> bool:
        return self.method == "POST" and urlsplit(self.path).path.endswith("/click")

    @property
    def is_beacon(self) -> bool:
        return self.is_click and self.mode == "no-cors"

    @property
    def event_id(self) -> str:
        return str(json.loads(self.body)["event_id"])


@dataclass
class Shop:
    """Pages by path, and what was asked for; `headers` go with each."""

    port: int
    pages: dict[str, tuple[str, str]] = field(default_factory=dict)  # media type, content
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def stranger(self) -> str:
        """The same pages on another origin."""
        return f"http://localhost:{self.port}"


@dataclass
class Between:
    """What passes on the way to the service: `fate` may lose the request, or its answer."""

    port: int
    asked: list[Asked] = field(default_factory=list)
    fate: Callable[[Asked], str] = lambda _: "arrives"  # or "request lost", "answer lost"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def clicks(self) -> list[Asked]:
        return [each for each in self.asked if each.is_click]


@contextmanager
def shop() -> Iterator[Shop]:
    """Serves pages."""

    class Handler(_Quiet):
        def do_GET(self) -> None:
            media_type, content = here.pages[urlsplit(self.path).path]
            headers = {"Content-Type": f"{media_type}; charset=utf-8", **here.headers}
            self.answer(200, headers, content.encode())

    with _serving(Handler) as port:
        here = Shop(port)
        yield here


@contextmanager
def between(service_port: int) -> Iterator[Between]:
    """Stands between browsers and the service."""

    class Handler(_Quiet):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            asked = Asked(
                self.command, self.path, self.headers.get("Sec-Fetch-Mode", ""), self.rfile.read(length)
            )
            here.asked.append(asked)
            fate = here.fate(asked)
            if fate == "request lost":
                return
            passed = {
                name: value for name, value in self.headers.items() if name.lower() not in OF_A_CONNECTION
            }
            with closing(HTTPConnection("127.0.0.1", service_port, timeout=DEADLINE_SECONDS)) as onward:
                onward.request(asked.method, asked.path, asked.body or None, passed)
                answer = onward.getresponse()
                content = answer.read()
            if fate == "answer lost":
                return
            headers = {
                name: value for name, value in answer.getheaders() if name.lower() not in OF_A_CONNECTION
            }
            self.answer(answer.status, headers, content)

        do_POST = do_OPTIONS = do_GET  # noqa: N815

    with _serving(Handler) as port:
        here = Between(port)
        yield here


class _Quiet(BaseHTTPRequestHandler):
    """One request a connection, so that a lost answer is not asked for again by the browser itself."""

    def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
