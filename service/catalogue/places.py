"""Where in a document something is wrong, as clients write it: `body.3.price`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_NAMED = re.compile(r"^Object (?:missing required field|contains unknown field) `(?P<name>.*)`$", re.DOTALL)
_STEP = re.compile(r"\[(\d+)\]")


class Wrong(NamedTuple):
    """What is wrong with a field."""

    field: str
    message: str


def located(error: msgspec.ValidationError, place: str, meanings: Mapping[str, str]) -> Wrong:
    """msgspec's error, which tells of the first wrong field; `meanings`: of patterns, in words."""
    found = _PLACE.match(str(error))
    assert found is not None
    message, field = found["what"], place + _STEP.sub(r".\1", found["path"] or "")
    named = _NAMED.match(message)
    if named:
        field = f"{field}.{named['name']}"
        message = "Field required" if "missing" in message[: named.start("name")] else "unknown field"
    for pattern, meaning in meanings.items():
        message = message.replace(f"matching regex {pattern!r}", meaning)
    return Wrong(field, message.replace("`", ""))
