"""The newest day against a plain Python reading of the same clicks."""

from __future__ import annotations

from collections import defaultdict
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
from training.data.heldout import with_newest_day, write_newest_day
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
