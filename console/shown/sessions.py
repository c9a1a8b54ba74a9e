"""What the page of sessions shows: a session's clicks, and the list that a what-if is asked of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

MOST_ITEMS = 200  # of a session that is not stored


@dataclass(frozen=True)
class Click:
    """A click of a session, ready to be shown."""

    number: int
    at: str
    type: str
    item_id: str


def clicks_of(session: Mapping[str, Any]) -> list[Click]:
    """Of what `GET /sessions/{id}` answers, oldest first."""
    return [
        Click(number, when(each["timestamp"]), each["type"], each["item_id"])
        for number, each in enumerate(session["clicks"], start=1)
    ]


def when(seconds: float) -> str:
    """A time as it is written on all pages: UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@dataclass(frozen=True)
class WhatIf:
    """Items, oldest click first, as they are asked of; each change makes another one."""

    items: tuple[str, ...]

    @classmethod
    def of(cls, clicks: Sequence[Click]) -> WhatIf:
        """The session as it is; of a longer one the newest clicks."""
        return cls(tuple(click.item_id for click in clicks)[-MOST_ITEMS:])

    def without(self, place: int) -> WhatIf:
        """Had this click not been made."""
        return WhatIf(self.items[:place] + self.items[place + 1 :])

    def moved(self, place: int, by: int) -> WhatIf:
        """Had it been made earlier (-1) or later (1); at an end nothing happens."""
        to = place + by
        if not 0 <= to < len(self.items):
            return self
        items = list(self.items)
        items.insert(to, items.pop(place))
        return WhatIf(tuple(items))

    def with_one(self, item_id: str) -> WhatIf:
        """Had an item been clicked last."""
        return WhatIf((*self.items, item_id)[-MOST_ITEMS:])

    def said(self, clicked: WhatIf) -> str:
        """How it differs from what was clicked."""
        if self == clicked:
            return "as it was clicked"
        return (
            f"{len(self.items)} clicks instead of {len(clicked.items)}"
            if len(self.items) != len(clicked.items)
            else "other clicks, or in another order"
        )
