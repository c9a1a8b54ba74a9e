"""A session's clicks, and a list of them that is played with."""

from __future__ import annotations

from console.shown.sessions import MOST_ITEMS, Click, WhatIf, clicks_of


def test_clicks_are_numbered_and_told_in_utc() -> None:
    stored = {"item_id": "i5", "timestamp": 1_700_000_000.9, "type": "view", "event_id": None}
    assert clicks_of({"session_id": "s", "clicks": [stored]}) == [
        Click(1, "2023-11-14 22:13:20 UTC", "view", "i5")
    ]


def test_clicks_are_taken_out_moved_and_added() -> None:
    clicked = WhatIf(("a", "b", "a"))
    assert clicked.without(0).items == ("b", "a")
    assert clicked.without(2).items == ("a", "b")
    assert clicked.moved(0, 1).items == ("b", "a", "a")
    assert clicked.moved(2, -1).items == ("a", "a", "b")
    assert clicked.moved(0, -1) is clicked
    assert clicked.moved(2, 1) is clicked
    assert clicked.with_one("c").items == ("a", "b", "a", "c")
    assert clicked.said(clicked) == "as it was clicked"
    assert clicked.without(0).said(clicked) == "2 clicks instead of 3"
    assert clicked.moved(0, 1).said(clicked) == "other clicks, or in another order"


def test_no_more_are_asked_of_than_the_service_takes() -> None:
    long = WhatIf.of([Click(n, "", "click", f"i{n}") for n in range(MOST_ITEMS + 5)])
    assert len(long.items) == MOST_ITEMS
    assert long.items[-1] == f"i{MOST_ITEMS + 4}"
    assert long.with_one("new").items[-1] == "new"
    assert len(long.with_one("new").items) == MOST_ITEMS
