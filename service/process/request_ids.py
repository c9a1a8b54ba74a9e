"""A request's id: the one that it came with, if that is fit to be written down, or one of ours."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from itertools import count

HEADER = b"x-request-id"
NAME = "X-Request-ID"  # the same, as people write it
SCOPE_KEY = "request_id"  # where an ASGI scope holds it

_is_fit = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,128}").fullmatch
# W3C's Trace Context: later versions may go on after the flags, this one (00) may not.
_trace = re.compile(
    rb"(?!ff|00.{53}-)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
).fullmatch

# What ours begin with tells this process from all others, also those of earlier starts.
_BEGINNING = secrets.token_hex(8).encode()
_numbers = count(1)


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The id in `X-Request-ID`, else the trace's in `traceparent`, else a new one."""
    trace = b""
    for name, value in headers:
        if name == b"x-request-id":
            if _is_fit(value):
                return value
        elif name == b"traceparent":
            trace = value
    found = _trace(trace) if trace else None
    return found[1] if found else b"%s-%x" % (_BEGINNING, next(_numbers))
