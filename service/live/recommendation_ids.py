"""Ids of answers: opaque to a shop, and enough to find an answer's moment in the click log again.

`<version>~<32 hex digits>`, which are 16 bytes:

    6  random, so that no two answers share an id
    1  how many items were asked for, and in its highest bit whether the session's own were left out
    5  a digest of the moment: the session's id, and all items that it held
    4  a digest of the answer: its items, in order

Nothing is stored for it. Both digests are salted with the first seven bytes: who does not know the session
and its clicks learns neither from an id.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

SEPARATOR = "~"  # between a version and what follows; no version holds one

_BETWEEN = "\x1f"  # ids hold no control characters: the API refuses them
_LEFT_OUT = 0x80
_SALT, _MOMENT, _ANSWER = 7, 5, 4  # bytes
_WHOLE = re.compile(rf"(.+){SEPARATOR}([0-9a-f]{{{2 * (_SALT + _MOMENT + _ANSWER)}}})")


class RecommendationId(NamedTuple):
    """What an id says."""

    version: str
    salt: bytes
    moment: bytes
    answer: bytes

    @property
    def k(self) -> int:
        """How many items were asked for."""
        return self.salt[-1] & ~_LEFT_OUT

    @property
    def exclude_seen(self) -> bool:
        """Whether the session's own items were left out."""
        return bool(self.salt[-1] & _LEFT_OUT)

    def is_moment(self, session_id: str, seen: Sequence[str]) -> bool:
        """Whether the session held just these items, oldest click first."""
        return self.moment == _digest(self.salt, (session_id, *seen), _MOMENT)

    def is_answer(self, item_ids: Sequence[str]) -> bool:
        """Whether these are the items that were answered, in this order."""
        return self.answer == _digest(self.salt, item_ids, _ANSWER)


def new_id(
    version: str, session_id: str, seen: Sequence[str], k: int, exclude_seen: bool, item_ids: Sequence[str]
) -> str:
    """An id for an answer; k lies below 128."""
    salt = os.urandom(_SALT - 1) + bytes((k | _LEFT_OUT if exclude_seen else k,))
    moment = _digest(salt, (session_id, *seen), _MOMENT)
    return f"{version}{SEPARATOR}{(salt + moment + _digest(salt, item_ids, _ANSWER)).hex()}"


def parse(recommendation_id: str) -> RecommendationId | None:
    """What an id says; None for what is none."""
    found = _WHOLE.fullmatch(recommendation_id)
    if found is None:
        return None
    raw = bytes.fromhex(found[2])
    return RecommendationId(found[1], raw[:_SALT], raw[_SALT:-_ANSWER], raw[-_ANSWER:])


def _digest(salt: bytes, ids: Sequence[str], size: int) -> bytes:
    return blake2b(salt + _BETWEEN.join(ids).encode(), digest_size=size).digest()
