"""Ids of answers: opaque to a shop, and enough to find an answer's moment in the click log again.

`<version>~<32 hex digits>`, which are 16 bytes:

    6  random, so that no two answers share an id
    1  how many items were asked for, and in its highest bit whether the session's own were left out
    5  a digest of the moment: the session's id, and all items that it held
    4  a digest of the moment and the answer: its items, in order

Nothing is stored for it. Both digests are salted with the first seven bytes, and the second goes on where the
first ends: who does not know the session and its clicks learns neither of them from an id, nor what was
answered.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from os import urandom
from typing import NamedTuple

SEPARATOR = "~"  # between a version and what follows; no version holds one

NO_VERSION = "none"  # for a version, before the first is published
UNREAD = ("",)  # in the place of a session's items: Redis did not answer; no item has this id

_BETWEEN = "\x1f"  # ids hold no control characters: the API refuses them
_LEFT_OUT, _MOST = 0x80, 0x7F
_SALT, _MOMENT, _ANSWER = 7, 5, 4  # bytes
_BYTES = [bytes((value,)) for value in range(256)]
_WHOLE = re.compile(rf"(.+){SEPARATOR}([0-9a-f]{{{2 * (_SALT + _MOMENT + _ANSWER)}}})")


class RecommendationId(NamedTuple):
    """What an id says."""

    version: str
    salt: bytes
    moment: str
    answer: str

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
        return self.moment == _moment(self.salt, session_id, seen).hexdigest()

    def is_answer(self, session_id: str, seen: Sequence[str], item_ids: Sequence[str]) -> bool:
        """Whether these are the items that were answered at this moment, in this order."""
        return self.answer == _answer(_moment(self.salt, session_id, seen), item_ids)


def new_id(
    version: str, session_id: str, seen: Sequence[str], k: int, exclude_seen: bool, item_ids: Sequence[str]
) -> str:
    """An id for an answer; of k no more is told than that it is 127 or above."""
    told = min(k, _MOST)
    salt = urandom(_SALT - 1) + _BYTES[told | _LEFT_OUT if exclude_seen else told]
    moment = _moment(salt, session_id, seen)
    return f"{version}{SEPARATOR}{salt.hex()}{moment.hexdigest()}{_answer(moment, item_ids)}"


def parse(recommendation_id: str) -> RecommendationId | None:
    """What an id says; None for what is none."""
    found = _WHOLE.fullmatch(recommendation_id)
    if found is None:
        return None
    version, told = found[1], found[2]
    salt, digests = bytes.fromhex(told[: 2 * _SALT]), told[2 * _SALT :]
    return RecommendationId(version, salt, digests[: 2 * _MOMENT], digests[2 * _MOMENT :])


def _moment(salt: bytes, session_id: str, seen: Sequence[str]) -> blake2b:
    return blake2b(salt + _BETWEEN.join((session_id, *seen)).encode(), digest_size=_MOMENT)


def _answer(moment: blake2b, item_ids: Sequence[str]) -> str:
    moment.update(b"\n" + _BETWEEN.join(item_ids).encode())
    return moment.hexdigest()[: 2 * _ANSWER]
