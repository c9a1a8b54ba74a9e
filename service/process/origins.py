"""Origins: of which other sites the pages may read an answer (CORS), and what their browsers are told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

from service.process.settings import ANY_ORIGIN, Settings

HEADER = b"origin"
Headers = Iterable[tuple[bytes, bytes]]

MAX_AGE_SECONDS = 86400
_EXPOSED = (b"access-control-expose-headers", b"X-Request-ID, Retry-After")
_PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
    (b"access-control-allow-headers", b"Content-Type, X-API-Key, X-Request-ID, traceparent, tracestate"),
    (b"access-control-max-age", b"%d" % MAX_AGE_SECONDS),
)


class Origins:
    """Those that are let in; none are by default.

    No credentials are allowed, which a browser would send by itself: a page has to know the key.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        origins = frozenset(allowed)
        self._anyone = self._told(ANY_ORIGIN.encode()) if ANY_ORIGIN in origins else ()
        self._of = {origin.encode(): self._told(origin.encode()) for origin in origins}

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Those of the setting, and those that a key is bound to."""
        return cls([*settings.cors_origins, *(origin for key in settings.keys for origin in key.origins)])

    def __bool__(self) -> bool:
        return bool(self._of)

    @property
    def varies(self) -> bool:
        """Whether answers differ by who asks, which caches have to know."""
        return bool(self._of) and not self._anyone

    def told(self, origin: bytes) -> Sequence[tuple[bytes, bytes]]:
        """The headers of an answer to a page of this origin; none where it is not let in."""
        return self._anyone or self._of.get(origin, ())

    def told_to(self, headers: Headers) -> Sequence[tuple[bytes, bytes]]:
        """The same, to whoever sent these headers."""
        return self.told(next((value for name, value in headers if name == HEADER), b""))

    def preflight(self, origin: bytes) -> Sequence[tuple[bytes, bytes]]:
        """The headers of the answer to a browser that asks first; none where it is not let in."""
        told = self.told(origin)
        return [*told[:1], *_PREFLIGHT] if told else ()

    @staticmethod
    def _told(allowed: bytes) -> Sequence[tuple[bytes, bytes]]:
        return ((b"access-control-allow-origin", allowed), _EXPOSED)
