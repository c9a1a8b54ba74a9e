"""Files of another engine: which of them hold the newest days, and what is wrong with one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from service.process.settings import Settings
from training.data.clicks import ClickFile, Commit
from training.data.formats import PrepareError
from training.loop.click_files import write_commit
from training.loop.click_source import CollectedClicks, PartitionedClicks

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def write(file: Path, days: list[int], time: Callable[[datetime], Any] = lambda time: time) -> None:
    """Clicks on days after the first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    times = [time(START + timedelta(days=day)) for day in days]
    columns = {"session_id": ["s"] * len(days), "item_id": ["i"] * len(days), "type": ["click"] * len(days)}
    parquet.write_table(pa.table({**columns, "timestamp": times}), file)


def source(tmp_path: Path, *, collected: bool = False) -> PartitionedClicks:
    settings = Settings(artifacts_dir=tmp_path / "artifacts")
    settings.artifacts_dir.mkdir(exist_ok=True)
    return PartitionedClicks(str(tmp_path / "lake"), CollectedClicks(settings), collected)


def test_the_newest_days_are_told_by_the_clicks_in_a_file(tmp_path: Path) -> None:
    """Whatever it is called, and in whatever unit its times are."""
    lake = tmp_path / "lake"
    write(lake / "a.parquet", [9, 8])
    write(lake / "day=2026-03-09" / "b.parquet", [0, 1], lambda time: time.timestamp())
    write(lake / "c.parquet", [5, 8], lambda time: int(time.timestamp() * 1000))
    write(lake / "d.parquet", [7], lambda time: time.replace(tzinfo=None))
    (lake / "_SUCCESS").touch()
    clicks = source(tmp_path)
    told = clicks.collect()["partitioned"]
    assert isinstance(told, dict)
    assert (told["files"], told["rows"], told["last"]) == (4, 7, "2026-03-10T12:00:00+00:00")
    names = {days: {Path(str(file)).name for file in clicks.files(days)} for days in (1, 2, 3, 8, 9)}
    assert names[1] == {"a.parquet"}
    assert names[2] == {"a.parquet", "c.parquet"}
    assert names[3] == names[8] == {"a.parquet", "c.parquet", "d.parquet"}
    assert names[9] == names[3] | {"b.parquet"}


def test_what_is_written_after_a_run_began_is_not_for_it(tmp_path: Path) -> None:
    write(tmp_path / "lake" / "a.parquet", [0])
    source(tmp_path).collect()
    write(tmp_path / "lake" / "b.parquet", [1])
    assert [Path(str(file)).name for file in source(tmp_path).files(9)] == ["a.parquet"]


def test_collected_clicks_beside_it_count_by_the_same_calendar(tmp_path: Path) -> None:
    write(tmp_path / "lake" / "a.parquet", [0])
    source(tmp_path).collect()
    own = source(tmp_path).own.settings.artifacts_dir / "clicks"
    own.mkdir()
    day = date(2026, 3, 4)
    file = ClickFile(path=f"day={day}/00000001-000.parquet", rows=1, bytes=9, day=day)
    write_commit(own, Commit(files=(file,)))
    beside = source(tmp_path, collected=True)
    assert beside.files(3) == [own / file.path]
    assert beside.files(4) == [own / file.path, tmp_path / "lake" / "a.parquet"]
    assert source(tmp_path).files(1) == [tmp_path / "lake" / "a.parquet"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"session_id": ["s"], "item_id": ["i"], "timestamp": [START]}, "there is no column 'type'"),
        (
            {"timestamp": ["2026-03-01"]},
            "'timestamp' is string, such as '2026-03-01', and must be a timestamp",
        ),
        ({"timestamp": [5]}, "'timestamp' is int64, such as 5, and must be"),
    ],
)
def test_a_file_that_is_not_as_agreed_is_named(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    usual = {"session_id": ["s"], "item_id": ["i"], "type": ["click"]} if len(columns) == 1 else {}
    file = tmp_path / "lake" / "part.parquet"
    file.parent.mkdir()
    parquet.write_table(pa.table({**usual, **columns}), file)
    with pytest.raises(PrepareError, match=f"{file}: .*{message}"):
        source(tmp_path).collect()


def test_a_file_without_statistics_is_named(tmp_path: Path) -> None:
    file = tmp_path / "lake" / "part.parquet"
    file.parent.mkdir()
    table = pa.table({"session_id": ["s"], "item_id": ["i"], "type": ["click"], "timestamp": [START]})
    parquet.write_table(table, file, write_statistics=False)
    with pytest.raises(PrepareError, match=f"{file}: .*has no statistics.*TIMESTAMP_MICROS"):
        source(tmp_path).collect()
