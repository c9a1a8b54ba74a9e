"""Keys: several for each scope, told apart by label, and compared so that time tells nothing of them."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable
from typing import NamedTuple

from service.process.settings import Caller, KeyEntry

KEY = "nextclick.key"  # where a guard leaves in the scope whose key it was: a `Key`

_SALT = secrets.token_bytes(32)  # a digest is of use to nobody outside of this process


class Key(NamedTuple):
    """Whose key it is; of the key itself there is a digest only."""

    label: str
    scope: Caller
    digest: bytes
    origins: frozenset[bytes] = frozenset()  # of the pages that may send it; none: of any


class Keyring:
    """All keys that are valid at once; a higher scope's pass for the lower ones (`passing`)."""

    def __init__(
        self,
        entries: Iterable[KeyEntry],
        compare: Callable[[bytes, bytes], bool] = secrets.compare_digest,
    ) -> None:
        self._compare = compare
        self.keys = [
            Key(
                entry.label,
                entry.scope,
                _digest(entry.key.get_secret_value().encode()),
                frozenset(origin.encode() for origin in entry.origins),
            )
            for entry in entries
        ]

    def __bool__(self) -> bool:
        return bool(self.keys)

    def find(self, sent: bytes) -> Key | None:
        """The key that was sent. All are looked at, whichever it is."""
        digest, found = _digest(sent), None
        for key in self.keys:
            if self._compare(key.digest, digest):
                found = key
        return found

    def of(self, *scopes: Caller) -> frozenset[str]:
        """The labels of the keys of these scopes."""
        return frozenset(key.label for key in self.keys if key.scope in scopes)


def _digest(key: bytes) -> bytes:
    return hashlib.blake2b(key, key=_SALT, digest_size=32).digest()
