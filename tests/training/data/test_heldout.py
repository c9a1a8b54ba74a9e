"""The newest day against a plain Python reading of the same clicks."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.training.shop_clicks import DAYS, FORMAT, write_shop
from training.data.dataset import Dataset
from training.data.demo_store import DAY
from training.data.formats import PrepareError
from training.data.heldout import EPOCH, days_to_hold_out, of_known_items, with_newest_day, write_newest_day
from training.data.prepare import Rules, prepare

GAP_MINUTES = 30.0


def plainly(files: list[Path], test_days: float) -> list[list[str]]:
    """Sessions of two clicks or more that began in the last days, by their last click."""
    clicks = [row for file in files for row in parquet.read_table(file).to_pylist() if row["type"] == "click"]
    cutoff = max(row["timestamp"] for row in clicks) - test_days * DAY
    visitors = defaultdict(list)
    for row in clicks:
        visitors[row["session_id"]].append((row["timestamp"], row["item_id"]))
    sessions = []
    for visits in visitors.values():
        visits.sort(key=lambda visit: visit[0])
        session: list[tuple[float, str]] = []
        for visit in [*visits, (float("inf"), "")]:
            if session and visit[0] - session[-1][0] > GAP_MINUTES * 60:
                sessions.append(session)
                session = []
            session.append(visit)
    late = [session for session in sessions if session[0][0] >= cutoff and len(session) > 1]
    return [[item for _, item in session] for session in sorted(late, key=lambda session: session[-1][0])]


@pytest.mark.parametrize("test_days", [1.0, 0.5])
def test_nothing_is_dropped_and_nothing_was_trained_on(tmp_path: Path, test_days: float) -> None:
    files = write_shop(tmp_path / "clicks", sessions=800).files(DAYS + 2)
    rules = Rules(gap_minutes=GAP_MINUTES, min_item_support=2, test_days=test_days)
    prepare(files, tmp_path / "data", log_format=FORMAT, rules=rules)
    data = Dataset.load(tmp_path / "data")
    write_newest_day(files[-2:], FORMAT, data, tmp_path / "day", test_days=test_days, gap_minutes=GAP_MINUTES)
    day = with_newest_day(data, tmp_path / "day")
    offsets = day.test.offsets
    sessions = [
        [day.items[item - 1] for item in day.test.items[start:end]] for start, end in pairwise(offsets)
    ]
    assert sessions == plainly(files, test_days), "two files are enough for the newest day"
    assert day.items[: len(data.items)] == data.items
    unknown = set(day.items[len(data.items) :])
    assert unknown == {item for session in sessions for item in session} - set(data.items) != set()
    trained = {
        tuple(data.items[item - 1] for item in data.train_all.items[start:end])
        for start, end in pairwise(data.train_all.offsets)
    }
    long = [tuple(session) for session in sessions if len(session) > 4]
    assert len(long) > 20
    assert not trained.intersection(long)


def test_a_session_that_began_earlier_is_not_of_the_day(tmp_path: Path) -> None:
    """Its first clicks may have been trained on; `b` began a day before the last click, and a second."""
    start = 1_764_000_000.0
    clicks = [
        *(("a", f"i{n}", start + 60 * n) for n in range(4)),
        *(("b", f"i{n}", start + 600 + 300 * n) for n in range(3)),
        ("c", "i1", start + 601 + DAY - 60),
        ("c", "new", start + 601 + DAY),
        *(("d", f"i{n}", start - 600 + 10 * n) for n in (1, 2)),
        *(("e", f"i{n}", start - 60 + 20 * n) for n in (1, 3)),
    ]
    columns = dict(zip(("session_id", "item_id", "timestamp"), zip(*clicks, strict=True), strict=True))
    table = pa.table({**columns, "type": ["click"] * len(clicks)})
    parquet.write_table(table, tmp_path / "clicks.parquet")
    rules = Rules(min_item_support=1, validation=0.1)
    prepare([tmp_path / "clicks.parquet"], tmp_path / "data", log_format=FORMAT, rules=rules)
    data = Dataset.load(tmp_path / "data")

    def newest(test_days: float) -> list[str]:
        write_newest_day(
            [tmp_path / "clicks.parquet"],
            FORMAT,
            data,
            tmp_path / "day",
            test_days=test_days,
            gap_minutes=GAP_MINUTES,
        )
        day = with_newest_day(data, tmp_path / "day")
        return [day.items[item - 1] for item in day.test.items]

    assert newest(1.0) == ["i1", "new"]
    assert newest(1.0 + 2 / DAY) == ["i0", "i1", "i2", "i1", "new"], "with two seconds more b is of the day"
    with pytest.raises(PrepareError, match=r"no session of two clicks began in the last 0\.0001"):
        newest(0.0001)
    np.testing.assert_array_equal(
        np.load(tmp_path / "day" / "offsets.npy"), [0, 3, 5], "what was there before a failure stays"
    )


def test_the_fewest_days_that_hold_enough_sessions(tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "clicks", sessions=800)
    files = shop.files(DAYS + 2)
    by_days = {days: len(plainly(files, days)) for days in (0.5, 1.0, 1.5, 2.0)}

    def days(sessions: int, least: float = 0.5, most: float = 1.5) -> float:
        return days_to_hold_out(
            shop.files, FORMAT, sessions=sessions, least=least, most=most, gap_minutes=GAP_MINUTES
        )

    assert days(0) == days(by_days[0.5]) == 0.5
    assert days(by_days[0.5] + 1) == days(by_days[1.5]) == 1.5
    assert days(100_000) == 1.5, "there are not so many"
    assert days(100_000, least=1.0, most=14.0) == DAYS / 2, "the other half is for training"
    assert days(100_000, least=3.0, most=2.0) == 3.0


def test_only_what_began_late_enough(tmp_path: Path) -> None:
    files = write_shop(tmp_path / "clicks", sessions=400).files(DAYS + 2)
    prepare(files, tmp_path / "data", log_format=FORMAT, rules=Rules(min_item_support=2, test_days=2))
    data = Dataset.load(tmp_path / "data")
    held_out = write_newest_day(files, FORMAT, data, tmp_path / "day", test_days=2, gap_minutes=GAP_MINUTES)
    assert held_out.end - held_out.begin == timedelta(days=2)
    newest = max(row["timestamp"] for file in files for row in parquet.read_table(file).to_pylist())
    assert held_out.end - EPOCH == timedelta(seconds=newest)
    late = with_newest_day(data, tmp_path / "day", held_out.end - timedelta(days=1))
    sessions = [
        [late.items[item - 1] for item in late.test.items[a:b]] for a, b in pairwise(late.test.offsets)
    ]
    assert sessions == plainly(files, 1.0)
    assert len(with_newest_day(data, tmp_path / "day", held_out.end + timedelta(seconds=1)).test) == 0
    known = of_known_items(late)
    assert known.items == data.items
    names = ["new", *data.items]
    assert [names[item] for item in known.test.items] == [
        item if item in set(data.items) else "new" for session in sessions for item in session
    ]
