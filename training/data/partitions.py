"""Partitioned Parquet of another engine, in a directory or an object store: its files, with their times."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AwareDatetime, BaseModel, ConfigDict

from training.data.formats import LogFile, LogFormat, PrepareError, check_file, is_parquet, log_files
from training.data.reading.files import reading
from training.data.reading.remote import RemoteFile, is_url
from training.data.reading.times import SIZES

LISTING = "partitioned.json"  # below the artifacts
_READERS = 16  # footers that are fetched at a time
_SECONDS = {"seconds": 1.0, "milliseconds": 1e-3, "microseconds": 1e-6, "nanoseconds": 1e-9}


class ListedFile(BaseModel):
    """A file, and what its footer says of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    rows: int
    first: AwareDatetime
    last: AwareDatetime

    @property
    def day(self) -> date:
        """The UTC day of the newest click."""
        return self.last.astimezone(UTC).date()

    @property
    def file(self) -> LogFile:
        return RemoteFile(self.path) if is_url(self.path) else Path(self.path)


class Listing(BaseModel):
    """All files, by the time of their newest click."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clicks: str
    files: tuple[ListedFile, ...]


def list_files(clicks: str, format_: LogFormat) -> Listing:
    """Read the footer of every file. Raises `PrepareError` that names the file."""
    files = log_files([clicks])
    with ThreadPoolExecutor(_READERS) as pool:
        listed = [each for each in pool.map(lambda file: _listed(file, format_), files) if each is not None]
    if not listed:
        raise PrepareError(f"{clicks}: the files hold no click")
    return Listing(clicks=clicks, files=tuple(sorted(listed, key=lambda each: (each.last, each.path))))


def _listed(file: LogFile, format_: LogFormat) -> ListedFile | None:
    check_file(file)
    with reading(file):
        if not is_parquet(file):
            raise PrepareError(f"{file}: is no Parquet")
        opened = file.parquet() if isinstance(file, RemoteFile) else pq.ParquetFile(file)
        with opened:
            metadata, schema = opened.metadata, opened.schema_arrow
    missing = sorted(set(format_.columns.values()) - set(schema.names))
    if missing:
        raise PrepareError(
            f"{file}: there is no column {missing[0]!r}, but {', '.join(map(repr, schema.names))}"
        )
    if not metadata.num_rows:
        return None
    place = schema.names.index(format_.time)
    groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
    times = list[datetime]()
    for group in groups:
        [column] = [
            group.column(n)
            for n in range(group.num_columns)
            if group.column(n).path_in_schema == format_.time
        ]
        if group.num_rows and not (column.is_stats_set and column.statistics.has_min_max):
            raise PrepareError(
                f"{file}: the column {format_.time!r} has no statistics, by which days are told: "
                "let its writer keep them (Spark: spark.sql.parquet.outputTimestampType=TIMESTAMP_MICROS)"
            )
        edges = (column.statistics.min, column.statistics.max) if group.num_rows else ()
        times += [_time(file, edge, schema.field(place).type) for edge in edges]
    return ListedFile(path=str(file), rows=metadata.num_rows, first=min(times), last=max(times))


def _time(file: LogFile, edge: object, kind: pa.DataType) -> datetime:
    if isinstance(edge, datetime):
        return edge if edge.tzinfo else edge.replace(tzinfo=UTC)
    if isinstance(edge, int | float):
        for unit, (low, end) in SIZES.items():
            if low <= edge < end:
                return datetime.fromtimestamp(edge * _SECONDS[unit], UTC)
    raise PrepareError(
        f"{file}: the column 'timestamp' is {kind}, such as {edge!r}, and must be a timestamp or a number of "
        "seconds since 1970"
    )
