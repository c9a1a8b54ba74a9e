"""The largest body that is read, declared or streamed; nothing is read beyond it."""

from __future__ import annotations

from http import HTTPStatus

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from service.http.problems import Problem
from service.process.metrics import REFUSED


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """A request's whole body. Raises `Problem` for a larger one, `ClientDisconnect` for one cut short.

    How long it may take is the connection's business (`service.process.protocol`), which answers 408 itself.
    """
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if int(declared) > max_bytes:  # the server checked the number
        raise _too_large(max_bytes)
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message["body"]
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        if not message["more_body"]:
            return body


def _too_large(max_bytes: int) -> Problem:
    REFUSED.labels("body").inc()
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "body-too-large",
        f"the body is larger than {max_bytes} bytes",
        {"Connection": "close"},
    )
