"""What was acknowledged against what the click log holds, by session and event id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from typing import NamedTuple

from redis import Redis

BATCH = 10_000


class Event(NamedTuple):
    """One click, which a client may have sent several times."""

    session: str
    id: str


@dataclass(frozen=True)
class Audit:
    """How many clicks were acknowledged and are not in the log, and how many are there more than once."""

    lost: int
    doubled: int

    @classmethod
    def of(cls, acknowledged: Set[Event], logged: Iterable[Event]) -> Audit:
        """What is logged and was never acknowledged is no fault: its answer may have got lost."""
        times = Counter(logged)
        return cls(len(acknowledged - times.keys()), sum(count > 1 for count in times.values()))


def logged(client: Redis, batch: int = BATCH) -> Iterator[Event]:
    """Every click in the log, with each time that it is there; `batch` entries are read at a time."""
    for key in sorted(client.scan_iter("*clicks:{*}", count=1000, _type="stream")):
        start = b"-"
        while entries := client.xrange(key, start, b"+", batch):
            for number, fields in entries:
                if fields and b"item" in fields:  # not an erasure
                    yield Event(_text(fields[b"session"]), _text(fields[b"event"]))
                start = b"(" + _bytes(number)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _bytes(value: bytes | str | None) -> bytes:
    assert value is not None
    return value if isinstance(value, bytes) else value.encode()
