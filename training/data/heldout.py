"""The newest days as they were clicked: what champion and challenger are compared on.

`prepare` keeps of its test sessions what its training sessions know. Here nothing is dropped but sessions of
a single click: an item that is new, or rare, is a miss for a bundle that does not know it.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt

from models.sessions import Sessions
from service.ranking.bundle import read_items, write_items
from training.data.dataset import ITEMS, Dataset
from training.data.formats import SECOND, LogFile, LogFormat, PrepareError, read_log
from training.data.prepare import database
from training.data.reading import sql
from training.data.sessions import ORDER, cut_by_inactivity, drop_short_sessions
from training.data.split import DAY, split_cut

BEGINS = "begins.npy"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Times = npt.NDArray[np.int64]  # microseconds since the epoch


@dataclass(frozen=True)
class HeldOut:
    """The newest part of a log that is trained on by nobody tonight."""

    days: float
    begin: datetime  # no training session has a click at this time or later
    end: datetime  # of the newest click


def days_to_hold_out(
    files_of: Callable[[int], Sequence[LogFile]],
    log_format: LogFormat,
    *,
    sessions: int,
    least: float,
    most: float,
    gap_minutes: float,
) -> float:
    """The fewest newest days that hold so many sessions: `least`, or a whole number of days more.

    Never more than `most`, nor than half of the log. `files_of` gives the files of that many newest days.
    """

    def begins(days: float) -> Times:
        return _begins(files_of(days_of_files(days, gap_minutes)), log_format, days, gap_minutes)

    if least >= most or len(begins(least)) > sessions:  # most shops: one day is read, and no more
        return least
    found = begins(2 * most + 1)  # ascending, the newest click at the end
    if len(found) < 2:
        return least
    age = (found[-1] - found[:-1]) / DAY
    wanted, days = min(most, math.ceil(age.max()) / 2), least
    while (age <= days).sum() < sessions and days + 1 <= wanted:
        days += 1
    return days


def days_of_files(days: float, gap_minutes: float) -> int:
    """The UTC days that the newest `days` of a log can reach into, and a pause before them."""
    return math.ceil(days + gap_minutes / 1440) + 1


def _begins(files: Sequence[LogFile], log_format: LogFormat, days: float, gap_minutes: float) -> Times:
    """When each session began in the last `days`, ascending; after them, when the newest click was made."""
    with tempfile.TemporaryDirectory() as directory, database(Path(directory)) as con:
        late, _, newest = _newest_sessions(con, files, log_format, days, gap_minutes)
        begins = f"SELECT min(time) AS begin FROM {late} GROUP BY session ORDER BY begin"
        found = con.execute(begins).to_arrow_table()
    return np.append(found["begin"].to_numpy(), newest)


def write_newest_day(
    files: Sequence[LogFile],
    log_format: LogFormat,
    data: Dataset,
    output: Path,
    *,
    test_days: float,
    gap_minutes: float,
) -> HeldOut:
    """Write the sessions that began in the last `test_days` of the log, in order of their last click.

    Of a session that began earlier, a part may have been trained on. Raises `PrepareError`.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        with database(directory) as con:
            late, cutoff, newest = _newest_sessions(con, files, log_format, test_days, gap_minutes)
            found = con.execute(
                f"""
                SELECT session, item, begins FROM (
                    SELECT *, min(time) OVER of_session AS begins, max(time) OVER of_session AS ends
                    FROM {late} WINDOW of_session AS (PARTITION BY session)
                ) ORDER BY ends, session, {ORDER}
                """
            ).to_arrow_table()
        if not len(found):
            raise PrepareError(f"no session of two clicks began in the last {test_days:g} day(s)")
        session, item = (found[name].combine_chunks().dictionary_encode() for name in ("session", "item"))
        names = item.dictionary.to_pylist()
        index, unknown = _index(names, data.items)
        lengths = np.bincount(session.indices.to_numpy())
        np.save(directory / "items.npy", index[item.indices.to_numpy()])
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        np.save(directory / "offsets.npy", offsets)
        np.save(directory / BEGINS, found["begins"].to_numpy()[offsets[:-1]])
        write_items(directory / ITEMS, unknown)
        if output.exists():
            shutil.rmtree(output)
        directory.rename(output)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return HeldOut(test_days, _time(cutoff), _time(newest))


def _newest_sessions(
    con: duckdb.DuckDBPyConnection,
    files: Sequence[LogFile],
    log_format: LogFormat,
    days: float,
    gap_minutes: float,
) -> tuple[str, int, int]:
    """The clicks of the sessions of two or more that began in the last `days`; since when, and until when."""
    log = read_log(con, files, log_format)
    columns = "session, item, time, tick, row"
    con.execute(f"CREATE TABLE clicks AS SELECT {columns} FROM {log.rows} WHERE reason IS NULL")
    gap = round(gap_minutes * 60 * SECOND)
    newest = sql.value(con, "SELECT max(time) FROM clicks")
    if newest is None:
        raise PrepareError("the log holds no click")
    cutoff = newest - round(days * DAY)
    # Whether a session began before the cutoff is told by what was clicked a gap before it.
    con.execute(f"CREATE TABLE recent AS FROM clicks WHERE time >= {cutoff - gap}")
    recent = "recent"
    if log_format.by_visitor:
        recent = "visits"
        con.execute(f"CREATE TABLE visits AS FROM {cut_by_inactivity('recent', gap)}")
    _, late = split_cut(recent, cutoff)
    return drop_short_sessions(late, 2), cutoff, newest


def with_newest_day(data: Dataset, path: Path, since: datetime | None = None) -> Dataset:
    """The data set with the newest days for its test part, and after its own items those that it lacks.

    With `since` only the sessions that began then or later.
    """
    items = [*data.items, *read_items(path / ITEMS)]
    clicked, offsets = (np.load(path / name, mmap_mode="r") for name in ("items.npy", "offsets.npy"))
    if since is not None:
        chosen = np.load(path / BEGINS) >= (since - EPOCH) // timedelta(microseconds=1)
        lengths = np.diff(offsets)
        clicked = clicked[np.repeat(chosen, lengths)]
        offsets = np.concatenate([[0], np.cumsum(lengths[chosen])])
    return replace(data, items=items, test=Sessions(clicked, offsets, len(items)))


def of_known_items(data: Dataset) -> Dataset:
    """Of `with_newest_day`, what is counted on the data set can be measured on: items it lacks become 0."""
    n = data.info.n_items
    known = np.where(data.test.items <= n, data.test.items, 0)
    return replace(data, items=data.items[:n], test=Sessions(known, data.test.offsets, n))


def _time(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)


def _index(names: list[str], items: Sequence[str]) -> tuple[npt.NDArray[np.int32], list[str]]:
    """The item index of each name, and the names that `items` lacks: they are counted on after it."""
    index_of = {item_id: index for index, item_id in enumerate(items, start=1)}
    unknown = [name for name in names if name not in index_of]
    index_of |= {item_id: index for index, item_id in enumerate(unknown, start=len(items) + 1)}
    return np.array([index_of[name] for name in names], dtype=np.int32), unknown
