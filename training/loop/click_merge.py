"""From a batch of the click log to new files, and to the commit that lists them.

Order within the batch: sessions that are to be erased go first, from the files and from the batch, so that a
click after the request finds no trace of those before it; then come duplicates, of which the first one stays.

A duplicate is looked for among the clicks of its own day and of the days around it, not in all that was ever
collected: so a commit costs what its batch does, however long the shop has been collecting. Only a request to
erase reads the session ids of every file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TypeVar

import duckdb
import numpy as np
import pyarrow as pa

from training.data.clicks import REJECTED, ClickFile, Commit, Gap, StoredFile, Totals
from training.loop.click_files import CLICKS, REJECTS, Commits, Generation, Layout
from training.loop.click_log import Batch

MAX_FILES_OF_A_DAY = 32
NEAR_DAYS = 7  # a click that is sent again lies within so many days of the first, by their timestamps
ROWS = 100_000  # of a file in memory at a time
DAY_SECONDS = 86_400
EPOCH = date(1970, 1, 1)

_SCAN = "read_parquet(?, hive_partitioning = false)"
_TABLES = """
CREATE OR REPLACE TEMP TABLE erased AS
    SELECT session_id, max(place) AS place FROM entries WHERE erased AND reason IS NULL GROUP BY session_id;
CREATE OR REPLACE TEMP TABLE kept AS
    SELECT entries.* FROM entries LEFT JOIN erased USING (session_id)
    WHERE (reason IS NOT NULL OR NOT entries.erased)
        AND (erased.place IS NULL OR entries.place > erased.place);
CREATE OR REPLACE TEMP TABLE clicks AS
    SELECT * FROM kept WHERE reason IS NULL
    QUALIFY event_id IS NULL OR row_number() OVER (PARTITION BY session_id, event_id ORDER BY place) = 1;
CREATE OR REPLACE TEMP TABLE known (session_id VARCHAR, event_id VARCHAR);
"""
# The small side is what is joined to: so only the batch is held in memory.
_KNOWN = f"""
INSERT INTO known SELECT session_id, event_id FROM {_SCAN} SEMI JOIN clicks USING (session_id, event_id)
"""
_DAYS = f"""
SELECT DISTINCT CAST(floor(timestamp / {DAY_SECONDS}) AS INTEGER) FROM clicks WHERE event_id IS NOT NULL
"""
_NEW = f"""
SELECT *, CAST(floor(timestamp / {DAY_SECONDS}) AS INTEGER) AS day
FROM clicks ANTI JOIN known USING (session_id, event_id) ORDER BY {CLICKS.order}
"""
# A stream id begins with the time at which the entry was logged.
_LOGGED = f"""
SELECT filename, max(CAST(split_part(id, '-', 1) AS UBIGINT)) // {1000 * DAY_SECONDS}
FROM {_SCAN} GROUP BY filename
"""
_COUNTS = """
SELECT
    count(*) FILTER (reason IS NULL AND erased) AS erased_sessions,
    count(*) FILTER (reason IS NOT NULL) AS rejected,
    count(*) FILTER (reason IS NULL AND NOT erased) AS read,
    (SELECT count(*) FROM kept WHERE reason IS NULL) AS kept
FROM entries
"""

File = TypeVar("File", bound=StoredFile)


class Merge:
    """Writes batches to the files beside the commits; joins them in a database of its own."""

    def __init__(
        self,
        commits: Commits,
        database: duckdb.DuckDBPyConnection,
        max_files_of_a_day: int = MAX_FILES_OF_A_DAY,
    ) -> None:
        """A day with more files than that has them merged into one."""
        self._commits = commits
        self._clicks = commits.clicks
        self._database = database
        self._max_files_of_a_day = max_files_of_a_day

    def commit(self, commit: Commit, batch: Batch) -> Commit:
        """Add a batch to what `commit` lists; the commit that is returned is on disk."""
        new = Generation(self._commits, commit.generation + 1)
        self._database.register("entries", batch.entries)
        self._database.execute(_TABLES)
        files = self._without_erased(new, commit.files, CLICKS)
        rejected = self._without_erased(new, commit.rejected, REJECTS)
        if near := self._near(files):
            self._database.execute(_KNOWN, [self._paths(near)])
        clicks = self._database.execute(_NEW).to_arrow_table()
        totals = self._totals(len(clicks), _rows(commit.files) - _rows(files), batch.gaps)
        files = self._compacted(new, [*files, *_written_by_day(new, clicks)])
        rejected += self._written_rejected(new)
        self._database.unregister("entries")
        merged = commit.model_copy(
            update={
                "generation": new.number,
                "positions": batch.positions,
                "files": tuple(files),
                "rejected": tuple(rejected),
                "gaps": (*commit.gaps, *batch.gaps),
                "totals": commit.totals + totals,
            }
        )
        new.commit(merged)
        return merged

    def without_days_before(self, commit: Commit, first: date) -> Commit:
        """`commit` without the days before `first`, and what was rejected then; what is returned is on disk.

        The files themselves go when the next collection starts, as all that a commit replaces.
        """
        logged = self._logged_on(commit.rejected)
        files = tuple(file for file in commit.files if file.day >= first)
        rejected = tuple(file for file in commit.rejected if logged[file.path] >= (first - EPOCH).days)
        if (files, rejected) == (commit.files, commit.rejected):
            return commit
        new = Generation(self._commits, commit.generation + 1)
        kept = commit.model_copy(
            update={"generation": new.number, "files": files, "rejected": rejected},
        )
        new.commit(kept)
        return kept

    def _logged_on(self, rejected: Sequence[StoredFile]) -> dict[str, int]:
        """The day of each file's newest entry, counted from 1970 on."""
        if not rejected:
            return {}
        found = self._database.execute(_LOGGED, [self._paths(rejected)]).fetchall()
        return {str(Path(path).relative_to(self._clicks)): day for path, day in found}

    def _near(self, files: Sequence[ClickFile]) -> list[ClickFile]:
        """The files in which a click of the batch may lie already."""
        near = {
            day + away
            for (day,) in self._database.execute(_DAYS).fetchall()
            for away in range(-NEAR_DAYS, NEAR_DAYS + 1)
        }
        return [file for file in files if (file.day - EPOCH).days in near]

    def _without_erased(self, new: Generation, files: Sequence[File], layout: Layout) -> list[File]:
        """The files; those that hold an erased session are written anew without it."""
        holding = self._holding_erased(files)
        kept: list[File] = []
        for file in files:
            if file.path not in holding:
                kept.append(file)
                continue
            rest = self._read([file], layout, "ANTI JOIN erased USING (session_id)")
            stored = new.write(str(Path(file.path).parent), layout, rest)
            if stored.rows:
                kept.append(file.model_copy(update=stored.model_dump()))
        return kept

    def _holding_erased(self, files: Sequence[StoredFile]) -> set[str]:
        if not (files and self._database.execute("FROM erased").fetchone()):
            return set()
        query = f"SELECT DISTINCT filename FROM {_SCAN} SEMI JOIN erased USING (session_id)"
        found = self._database.execute(query, [self._paths(files)]).fetchall()
        return {str(Path(path).relative_to(self._clicks)) for (path,) in found}

    def _compacted(self, new: Generation, files: Sequence[ClickFile]) -> list[ClickFile]:
        """The files by day, then by age; those of a day that has too many become one."""
        of_days: defaultdict[date, list[ClickFile]] = defaultdict(list)
        for file in sorted(files, key=lambda file: file.path):
            of_days[file.day].append(file)
        for day, of_day in of_days.items():
            if len(of_day) > self._max_files_of_a_day:
                of_days[day] = [_written_day(new, day, self._read(of_day, CLICKS))]
        return [file for of_day in of_days.values() for file in of_day]

    def _written_rejected(self, new: Generation) -> list[StoredFile]:
        columns = ", ".join(REJECTS.schema.names)
        query = f"SELECT {columns} FROM kept WHERE reason IS NOT NULL ORDER BY {REJECTS.order}"
        rejected = self._database.execute(query).to_arrow_table()
        return [new.write(REJECTED, REJECTS, rejected.to_batches())] if len(rejected) else []

    def _totals(self, new_clicks: int, erased_from_files: int, gaps: Sequence[Gap]) -> Totals:
        found = self._database.execute(_COUNTS).fetchone()
        assert found is not None
        erased_sessions, rejected, read, kept = found
        erased = read - kept  # by a request in the same batch
        return Totals(
            clicks=new_clicks + erased,
            duplicates=kept - new_clicks,
            erased_sessions=erased_sessions,
            erased_clicks=erased + erased_from_files,
            rejected=rejected,
            missing=sum(gap.missing for gap in gaps),
        )

    def _read(self, files: Sequence[StoredFile], layout: Layout, filtered: str = "") -> pa.RecordBatchReader:
        columns = ", ".join(layout.schema.names)
        query = f"SELECT {columns} FROM {_SCAN} {filtered} ORDER BY {layout.order}"
        return self._database.execute(query, [self._paths(files)]).to_arrow_reader(ROWS)

    def _paths(self, files: Sequence[StoredFile]) -> list[str]:
        return [str(self._clicks / file.path) for file in files]


def _written_by_day(new: Generation, clicks: pa.Table) -> list[ClickFile]:
    """One file for each day of clicks that are in order of time."""
    days, starts, counts = np.unique(clicks["day"].to_numpy(), return_index=True, return_counts=True)
    clicks = clicks.select(CLICKS.schema.names)
    return [
        _written_day(new, EPOCH + timedelta(days=int(day)), clicks.slice(start, count).to_batches())
        for day, start, count in zip(days, starts, counts, strict=True)
    ]


def _written_day(new: Generation, day: date, batches: Iterable[pa.RecordBatch]) -> ClickFile:
    return ClickFile(**new.write(f"day={day}", CLICKS, batches).model_dump(), day=day)


def _rows(files: Sequence[StoredFile]) -> int:
    return sum(file.rows for file in files)
