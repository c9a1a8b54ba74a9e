"""Two answers of one session beside each other: which items moved, came and went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ranked:
    """An item of an answer, and where it stood in the other one."""

    rank: int
    item_id: str
    stage: str
    score: float
    why: str  # the rules that moved it
    was: int | None  # its rank in the other answer; None: it was not there

    @property
    def move(self) -> str:
        """In a sign and a number, or a word."""
        if self.was is None:
            return "new"
        if self.was == self.rank:
            return ""
        return f"▲ {self.was - self.rank}" if self.was > self.rank else f"▼ {self.rank - self.was}"

    @property
    def spoken(self) -> str:
        """The same for who hears the page."""
        if self.was is None:
            return "was not there"
        if self.was == self.rank:
            return "did not move"
        return f"{'up' if self.was > self.rank else 'down'} from {self.was}"


@dataclass(frozen=True)
class Compared:
    """A new answer beside an old one."""

    items: Sequence[Ranked]
    gone: Sequence[tuple[int, str]]  # old rank and item, of those that the new one has not

    @property
    def summary(self) -> str:
        """What is different, in a sentence."""
        came = sum(item.was is None for item in self.items)
        moved = sum(item.was is not None and item.was != item.rank for item in self.items)
        parts = [
            f"{count} {word}"
            for count, word in ((moved, "moved"), (came, "came in"), (len(self.gone), "fell out"))
            if count
        ]
        return f"{len(self.items)} items: " + (", ".join(parts) if parts else "the same in the same order")


def compared(new: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> Compared:
    """Answers as `/admin/placements/preview` has them; without an old one nothing has moved."""
    ranks = {item["item_id"]: rank for rank, item in enumerate((old or new)["items"], start=1)}
    items = [
        Ranked(
            rank,
            item["item_id"],
            item["stage"],
            item["score"],
            ", ".join(item["moved_by"]),
            ranks.get(item["item_id"]),
        )
        for rank, item in enumerate(new["items"], start=1)
    ]
    there = {item.item_id for item in items}
    return Compared(items, [(rank, item_id) for item_id, rank in ranks.items() if item_id not in there])
