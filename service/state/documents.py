"""What an item is stored as: its values, and the JSON document that they make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import msgspec

Value = str | float | bool | list[str] | list[float]
Values = Mapping[str, Value]  # only what is present
Patch = Mapping[str, Value | None]  # None: it shall be there no more

MAX_ITEM_BYTES = 16384  # as JSON

encoded = msgspec.json.Encoder(order="deterministic").encode  # the same values, the same document
_decoder = msgspec.json.Decoder(dict[str, str | float | bool | list[str | float]])


def decoded(document: str) -> Values:
    """The values of a document."""
    return cast("Values", _decoder.decode(document))


def present(patch: Patch) -> Values:
    """What is there, once it is changed like this."""
    return {name: value for name, value in patch.items() if value is not None}
