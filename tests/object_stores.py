"""An S3 to test with: moto's, on a port of its own, which can go down and come back with all it holds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

KEY_ID, SECRET = "hush-key-id", "hush-secret-key"


class S3:
    """A server on 127.0.0.1. One request after the other, so that conditions hold as it writes."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        app = DomainDispatcherApplication(create_backend_app)
        lock = threading.Lock()

        def one_by_one(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            self.asked += 1
            with lock:
                return list(app(environ, start))

        self.asked = 0  # requests so far
        self._app = one_by_one
        self._server: BaseWSGIServer | None = None
        self.port = 0
        self.up()

    @property
    def environment(self) -> dict[str, str]:
        """What obstore reads."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }

    def up(self) -> None:
        """Listen, on the same port as before."""
        self._server = make_server("127.0.0.1", self.port, self._app, threaded=True)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._server = None

    def make_bucket(self, name: str) -> None:
        with urlopen(Request(f"http://127.0.0.1:{self.port}/{name}", method="PUT")):
            pass


@contextmanager
def s3() -> Iterator[S3]:
    server = S3()
    try:
        yield server
    finally:
        if server._server is not None:
            server.down()
