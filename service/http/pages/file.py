"""One file as browsers want it: packed, kept for a while, and not sent again while it is the same."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.http.request_log import CACHE_CONTROL

Header = tuple[bytes, bytes]


class File:
    """A route that answers with some content, made ready once; for anybody, without key and without limit."""

    def __init__(
        self,
        path: str,
        content: bytes,
        media_type: str,
        headers: Mapping[str, str] | None = None,
        max_age_seconds: int = 3600,
    ) -> None:
        self.route = Route(path, self, methods=["GET"], include_in_schema=False)
        self._cache_control = b"public, max-age=%d" % max_age_seconds
        self._always: list[Header] = [
            (b"content-type", media_type.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"vary", b"Accept-Encoding"),
            *((name.lower().encode(), value.encode()) for name, value in (headers or {}).items()),
        ]
        tag = hashlib.sha256(content).hexdigest()[:16]
        self._plain = (f'"{tag}"', content)
        self._packed = (f'"{tag}-gzip"', gzip.compress(content, 9, mtime=0))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self.route  # for the metrics and the log
        scope[CACHE_CONTROL] = self._cache_control
        asked = Headers(scope=scope)
        is_packed = _takes_gzip(asked.getlist("accept-encoding"))
        tag, content = self._packed if is_packed else self._plain
        headers = [*self._always, (b"etag", tag.encode())]
        status = HTTPStatus.OK
        if _is_known(tag, asked.getlist("if-none-match")):
            status, content = HTTPStatus.NOT_MODIFIED, b""
        else:
            headers.append((b"content-length", b"%d" % len(content)))
            if is_packed:
                headers.append((b"content-encoding", b"gzip"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content})


def _takes_gzip(accepted: list[str]) -> bool:
    """Whether gzip is named, and not with a weight of nothing."""
    for each in ",".join(accepted).lower().split(","):
        name, _, weight = each.replace(" ", "").partition(";")
        if name == "gzip":
            return weight.rstrip("0.") not in ("q=", "q")
    return False


def _is_known(tag: str, known: list[str]) -> bool:
    """Whether the client holds this content (RFC 9110, 13.1.2: compared weakly)."""
    tags = [each.strip().removeprefix("W/") for each in ",".join(known).split(",")]
    return tag in tags or "*" in tags
