"""The collected clicks as others read them: by days, in sessions, or not at all."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from models.sessions import Sessions
from service.state.store import Click
from tests.training.shop import DAY, NOON, Shop, click
from training.__main__ import app
from training.data.clicks import ClickFile, ClicksError, Commit, Gap, files_of_newest_days, read_commit
from training.data.dataset import Dataset
from training.loop.click_files import write_commit


def commit_of(clicks: Path, *days: str) -> None:
    files = [
        ClickFile(path=f"day={day}/{i:08}-000.parquet", rows=1, bytes=9, day=date.fromisoformat(day))
        for i, day in enumerate(days)
    ]
    clicks.mkdir()
    write_commit(clicks, Commit(files=tuple(files)))


@pytest.mark.parametrize(
    ("days", "expected"),
    [(1, 1), (2, 1), (3, 1), (4, 3), (5, 3), (31, 3), (32, 4), (10**12, 4), (None, 4)],
)
def test_the_newest_days_are_counted_by_the_calendar(tmp_path: Path, days: int | None, expected: int) -> None:
    clicks = tmp_path / "clicks"
    written = ["2026-01-29", "2026-02-26", "2026-02-26", "2026-03-01"]
    commit_of(clicks, *written)
    found = files_of_newest_days(clicks, days)
    assert found == [
        clicks / f"day={day}/{i:08}-000.parquet"
        for i, day in enumerate(written)
        if i >= len(written) - expected
    ]


def test_files_that_are_not_listed_are_not_read(shop: Shop) -> None:
    shop.send(("s", click("a")), ("s", click("b", NOON + DAY)))
    shop.collect()
    listed = files_of_newest_days(shop.clicks, None)
    (shop.clicks / "day=2024-10-04/00000009-000.parquet").write_text("an orphan")
    assert files_of_newest_days(shop.clicks, None) == listed
    assert len(listed) == 2


@pytest.mark.parametrize("commit", [None, Commit()])
def test_no_clicks_are_an_error_that_says_what_to_do(tmp_path: Path, commit: Commit | None) -> None:
    if commit:
        write_commit(tmp_path, commit)
    assert read_commit(tmp_path) == Commit()
    with pytest.raises(ClicksError, match="no clicks are collected yet: run `nextclick collect`"):
        files_of_newest_days(tmp_path, None)


def test_a_damaged_commit_names_its_file_and_field(tmp_path: Path) -> None:
    (tmp_path / "commit.json").write_text('{"positions": {"0": {"id": "1-1", "seq": "many"}}}')
    with pytest.raises(ClicksError, match=r"/commit\.json: is damaged: positions\.0\.seq: "):
        read_commit(tmp_path)
    with pytest.raises(ClicksError, match=r"commit\.json: cannot be read: Not a directory"):
        read_commit(tmp_path / "commit.json")


def test_a_commit_is_read_as_it_was_written(shop: Shop) -> None:
    shop.send(*[("s", click(f"i{i}", NOON, "e" if i else None)) for i in range(3)])
    shop.client.xtrim(shop.log("s"), maxlen=1, approximate=False)
    done = shop.collect()
    assert read_commit(shop.clicks) == done.commit
    assert isinstance(done.commit.gaps[0], Gap)


def prepared(shop: Shop, output: Path) -> dict[str, int]:
    """Make a data set of the collected clicks; returns its counts."""
    arguments = ["--format", "clicks", "--input", str(shop.clicks), "--output", str(output), "--json"]
    result = CliRunner().invoke(app, ["prepare", *arguments])
    assert result.exit_code == 0, result.output
    counts: dict[str, int] = json.loads(result.stdout)["counts"]
    return counts


def sessions_of(sessions: Sessions, items: Sequence[str]) -> list[list[str]]:
    ends = sessions.offsets.tolist()
    return [
        [items[item - 1] for item in sessions.items[start:end]] for start, end in itertools.pairwise(ends)
    ]


def test_a_data_set_is_prepared_of_the_collected_clicks(shop: Shop, tmp_path: Path) -> None:
    """A visitor who comes back the next day begins another session; what is no click does not count."""
    for day in range(4):
        for visitor in range(6):
            start = NOON + 2 * day * DAY + visitor
            for i, item in enumerate("abc"):
                shop.send((f"v{visitor}", click(item, start + 60 * i)))
            shop.send((f"v{visitor}", Click("seen, not clicked", start + 90, "view")))
        shop.collect()
    counts = prepared(shop, tmp_path / "data")
    assert (counts["rows"], counts["other_events"], counts["rejected"]) == (72, 24, 0)
    assert (counts["read_sessions"], counts["cut_into_sessions_sessions"]) == (6, 24)
    data = Dataset.load(tmp_path / "data")
    assert sessions_of(data.test, data.items) == 6 * [["a", "b", "c"]]


def test_clicks_at_the_same_time_keep_the_order_of_their_arrival(shop: Shop, tmp_path: Path) -> None:
    """In one file, in many, and in one that was made of many."""
    order = [*"lkjihgfedcba"]
    for item in order:
        for day in (0, 2, 4):
            shop.send(*[(f"v{visitor}", click(item, NOON + DAY * day)) for visitor in range(6)])
        shop.collect(max_files_of_a_day=3)
    prepared(shop, tmp_path / "data")
    data = Dataset.load(tmp_path / "data")
    assert sessions_of(data.train_all, data.items) == 12 * [order]
    assert sessions_of(data.test, data.items) == 6 * [order]


def test_prepare_says_when_no_clicks_are_collected(tmp_path: Path) -> None:
    arguments = ["--format", "clicks", "--input", str(tmp_path), "--output", str(tmp_path / "data")]
    result = CliRunner().invoke(app, ["prepare", *arguments])
    assert result.exit_code == 2
    assert "no clicks are collected yet" in result.stderr
