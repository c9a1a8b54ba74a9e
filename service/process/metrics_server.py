"""The page of metrics, on a port of its own in the parent process: no shopper sees it, or waits for it."""

from __future__ import annotations

import errno
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import CollectorRegistry, Metric, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector

from service.process.listener import ListenError

CLIENT_SECONDS = 10.0  # of silence of a client, then it is left

log = structlog.get_logger()


class _Written(MultiProcessCollector):
    """All files but those that a worker is about to write: one that died just then would break the page."""

    def collect(self) -> Iterable[Metric]:
        files = []
        for file in Path(self._path).glob("*.db"):
            with suppress(FileNotFoundError):  # of a worker that has just gone
                if file.stat().st_size:
                    files.append(str(file))
        merged: Iterable[Metric] = self.merge(files)  # type: ignore[no-untyped-call]
        return merged


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.warning("metrics not told", client=str(client_address), reason=repr(sys.exception()))


class _ServerOfIPv6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_SECONDS

    def log_request(self, code: object = "-", size: object = "-") -> None:
        pass


@contextmanager
def metrics_server(host: str, port: int, directory: str, *, or_another: bool) -> Iterator[None]:
    """Meanwhile, tell whoever asks what the workers have written into `directory`, summed over all of them.

    The files are read as they are: a worker that hangs is not waited for. `or_another`: a port that is taken,
    as by another service on this machine, is no reason not to start. Raises `ListenError`.
    """
    registry = CollectorRegistry()
    _Written(registry, directory)  # type: ignore[no-untyped-call]
    kind = _ServerOfIPv6 if ":" in host else _Server
    page = make_wsgi_app(registry)
    try:
        try:
            server = make_server(host, port, page, kind, _Handler)
        except OSError as error:
            if not or_another or error.errno != errno.EADDRINUSE:
                raise
            server = make_server(host, 0, page, kind, _Handler)
            log.warning("the usual port of metrics is taken, this is another", port=server.server_port)
    except OSError as error:
        raise ListenError(
            f"cannot listen on {host} port {port} for metrics: {error.strerror}: choose another by "
            "NEXTCLICK_METRICS_PORT or NEXTCLICK_METRICS_HOST; port 0 is none"
        ) from error
    with server:
        thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
