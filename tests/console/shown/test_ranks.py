"""Two answers beside each other."""

from __future__ import annotations

from typing import Any

from console.shown.ranks import compared


def answer(*item_ids: str, moved_by: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "items": [
            {"item_id": item_id, "stage": "model", "score": 0.5, "moved_by": list(moved_by)}
            for item_id in item_ids
        ]
    }


def test_each_item_is_told_where_it_was() -> None:
    found = compared(answer("c", "a", "new", "d", moved_by=("sale", "pin 1")), answer("a", "b", "c", "d"))
    assert [(item.rank, item.item_id, item.was) for item in found.items] == [
        (1, "c", 3),
        (2, "a", 1),
        (3, "new", None),
        (4, "d", 4),
    ]
    assert [item.move for item in found.items] == ["▲ 2", "▼ 1", "new", ""]
    assert [item.spoken for item in found.items] == [
        "up from 3",
        "down from 1",
        "was not there",
        "did not move",
    ]
    assert found.items[0].why == "sale, pin 1"
    assert found.gone == [(2, "b")]
    assert found.summary == "4 items: 2 moved, 1 came in, 1 fell out"


def test_what_is_the_same_says_so() -> None:
    for found in (compared(answer("a", "b"), answer("a", "b")), compared(answer("a", "b"))):
        assert found.summary == "2 items: the same in the same order"
        assert found.gone == []
    assert compared(answer(), answer()).summary == "0 items: the same in the same order"
