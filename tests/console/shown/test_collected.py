"""Data sets, collected clicks and scheduled runs as the console shows them, of files as training has them."""

from __future__ import annotations

from pathlib import Path

from console.shown.collected import Collected, find_collected, find_data, find_scheduled
from tests.console.place import write_clicks, write_data, write_schedule
from training.data.clicks import COMMIT


def test_nothing_yet(tmp_path: Path) -> None:
    assert find_data(tmp_path) == []
    assert find_scheduled(tmp_path) == []
    assert find_collected(tmp_path) == Collected()


def test_data_sets_with_what_was_left_out(tmp_path: Path) -> None:
    write_data(tmp_path)
    rows = {row.place: row for row in find_data(tmp_path)}
    shop = rows["data/shop"]
    assert (shop.first, shop.last) == ("2026-11-20 00:00:03 UTC", "2026-11-24 23:59:58 UTC")
    assert shop.counts[:2] == (("rows of the log", "1,000"), ("rejected", "30"))
    assert shop.rejected == (("bad timestamp", "20"), ("no item", "10")), "the most frequent first"
    assert shop.files == (("clicks/2026-11-24.csv", "1,001", "970"),)
    older = rows["data/older"]
    assert (older.problem, older.first, older.rejected, older.files) == (None, "–", (), ())
    assert "dataset.json" in str(rows["data/cut off"].problem)


def test_collected_clicks_by_day(tmp_path: Path) -> None:
    write_clicks(tmp_path)
    found = find_collected(tmp_path)
    assert found.problem is None
    assert found.last is not None
    assert [(day.day, day.clicks, day.files, day.size) for day in found.days] == [
        ("2026-11-24", "24,000", "1", "0.72 MB"),
        ("2026-11-23", "46,000", "2", "1.38 MB"),
        ("2026-11-22", "22,000", "1", "0.66 MB"),
    ]
    assert ("entries missing", "3") in found.totals
    assert found.gaps == ("shard 3: after number 41 came 45, 3 are missing; noticed 2026-11-24 03:00 UTC",)
    (tmp_path / "clicks" / COMMIT).write_text("{")
    assert "is damaged" in str(find_collected(tmp_path).problem)


def test_scheduled_runs(tmp_path: Path) -> None:
    write_schedule(tmp_path)
    rows = {row.command: row for row in find_scheduled(tmp_path)}
    assert {
        command: (row.took, row.outcome, row.is_good) for command, row in rows.items() if command != "export"
    } == {
        "collect --json": ("5 min", "done", True),
        "run --json": ("5 min", "failed with exit code 1", False),
        "prune --json": ("–", "under way, or cut off", True),
    }
    assert "delete the file" in rows["export"].outcome
