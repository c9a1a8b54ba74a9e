"""What the page Data shows: prepared data sets, collected clicks, the last scheduled runs; without NiceGUI.

As in `console.shown.runs`, what is broken is a row that says so, and readers are imported when asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from console.shown.runs import said
from console.watching.figures import duration

MEGABYTE = 1e6


@dataclass(frozen=True)
class DataRow:
    """A prepared data set; of one that cannot be read only `place` and `problem`."""

    place: str
    problem: str | None = None
    name: str = "–"
    first: str = "–"
    last: str = "–"
    counts: tuple[tuple[str, str], ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()  # by reason, the most frequent first
    files: tuple[tuple[str, str, str], ...] = ()  # of the log: path, lines, kept


@dataclass(frozen=True)
class DayRow:
    """Collected clicks of one day, UTC."""

    day: str
    clicks: str
    files: str
    size: str


@dataclass(frozen=True)
class Collected:
    """What `nextclick collect` has brought; `problem`: why that cannot be told."""

    problem: str | None = None
    last: str | None = None  # when something was collected
    totals: tuple[tuple[str, str], ...] = ()
    days: tuple[DayRow, ...] = ()  # the newest first
    gaps: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScheduledRow:
    """The last scheduled run of a command."""

    command: str
    scheduled: str
    took: str
    outcome: str
    is_good: bool


COUNTS = {
    "rows": "rows of the log",
    "other_events": "of another event",
    "rejected": "rejected",
    "read_clicks": "clicks read",
    "read_sessions": "sessions read",
    "read_items": "items read",
    "train_clicks": "training clicks",
    "train_sessions": "training sessions",
    "train_items": "items",
    "test_clicks": "test clicks",
    "test_sessions": "test sessions",
    "test_items": "items in the test",
}
TOTALS = {
    "clicks": "clicks",
    "duplicates": "duplicates left out",
    "rejected": "entries rejected",
    "missing": "entries missing",
    "erased_sessions": "sessions erased",
    "erased_clicks": "clicks erased",
}


def find_data(artifacts: Path) -> list[DataRow]:
    """The newest first, those of runs among them. Raises `ModuleNotFoundError` without `training`."""
    from training.data.dataset import MANIFEST, DatasetError, read_info

    files = [*(artifacts / "data").glob(f"*/{MANIFEST}"), *(artifacts / "runs").glob(f"*/data/{MANIFEST}")]
    rows = []
    for file in sorted(files, key=_age):
        place = str(file.parent.relative_to(artifacts))
        try:
            info = read_info(file.parent)
        except DatasetError as error:
            rows.append(DataRow(place, str(error)))
            continue
        rejected: Counter[str] = Counter()
        for each in info.source:
            rejected.update(each.rejected)
        first = min((each.first_time for each in info.source if each.first_time), default=None)
        last = max((each.last_time for each in info.source if each.last_time), default=None)
        rows.append(
            DataRow(
                place,
                None,
                info.name,
                _iso(first),
                _iso(last),
                tuple((COUNTS.get(name, name), f"{count:,}") for name, count in info.counts.items()),
                tuple((reason.replace("_", " "), f"{count:,}") for reason, count in rejected.most_common()),
                tuple((each.path, f"{each.lines:,}", f"{each.kept:,}") for each in info.source),
            )
        )
    return rows


def find_collected(artifacts: Path) -> Collected:
    """commit.json. Raises `ModuleNotFoundError` without `training`."""
    from training.data.clicks import COMMIT, DIRECTORY, ClicksError, read_commit

    clicks = artifacts / DIRECTORY
    try:
        commit = read_commit(clicks)
    except ClicksError as error:
        return Collected(str(error))
    file = clicks / COMMIT
    if not commit.generation or not file.exists():
        return Collected()
    by_day: dict[str, list[tuple[int, int]]] = {}
    for each in commit.files:
        by_day.setdefault(str(each.day), []).append((each.rows, each.bytes))
    return Collected(
        last=said(datetime.fromtimestamp(file.stat().st_mtime, UTC)),
        totals=tuple((told, f"{getattr(commit.totals, name):,}") for name, told in TOTALS.items()),
        days=tuple(
            DayRow(
                day,
                f"{sum(rows for rows, _ in found):,}",
                f"{len(found):,}",
                f"{sum(size for _, size in found) / MEGABYTE:,.2f} MB",
            )
            for day, found in sorted(by_day.items(), reverse=True)
        ),
        gaps=tuple(
            f"shard {gap.shard}: after number {gap.after_seq:,} came {gap.next_seq:,}, "
            + (f"{gap.missing:,} are missing" if gap.missing else "the log was restored or replaced")
            + f"; noticed {said(gap.noticed_at)}"
            for gap in reversed(commit.gaps)
        ),
    )


def find_scheduled(artifacts: Path) -> list[ScheduledRow]:
    """One row a command. Raises `ModuleNotFoundError` without `training`."""
    from training.loop.cron import ScheduleError
    from training.loop.schedule import read_last_run

    rows = []
    for file in sorted((artifacts / "schedule").glob("*.json")):
        try:
            last = read_last_run(file)
        except ScheduleError as error:
            rows.append(ScheduledRow(file.stem, "–", "–", str(error), is_good=False))
            continue
        if last is None:  # deleted meanwhile
            continue
        if last.ended is None:
            told, took, is_good = "under way, or cut off", "–", True
        else:
            told = "done" if last.exit_code == 0 else f"failed with exit code {last.exit_code}"
            took, is_good = duration((last.ended - last.started).total_seconds()), last.exit_code == 0
        rows.append(ScheduledRow(" ".join(last.command), said(last.scheduled), took, told, is_good))
    return rows


def share_of(part: Sequence[tuple[str, str]]) -> str:
    """Named numbers in one line."""
    return ", ".join(f"{count} {name}" for name, count in part)


def _age(file: Path) -> float:
    try:
        return -file.stat().st_mtime
    except OSError:  # deleted meanwhile
        return 0.0


def _iso(text: str | None) -> str:
    return "–" if text is None else text[:19].replace("T", " ") + " UTC"
