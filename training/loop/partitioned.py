"""Clicks that another engine writes: partitioned Parquet in a directory or an object store.

What is there is listed once a run, with the time of each file's newest click, and the list is kept in
partitioned.json below the artifacts: so every step of a run reads the same files, also after a kill.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue, ValidationError

from service.live.deployment import replace_file
from training.bundling.content import Attributes
from training.data.formats import LogFile, LogFormat, PrepareError, check_file, is_parquet, log_files
from training.data.reading.files import reading
from training.data.reading.remote import RemoteFile, is_url
from training.data.reading.times import SIZES
from training.loop.click_source import CollectedClicks

LISTING = "partitioned.json"
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


@dataclass(frozen=True)
class PartitionedClicks:
    """A `ClickSource` of what lies below `clicks`, and of what was `collected` if that is wanted, too."""

    clicks: str
    own: CollectedClicks
    collected: bool = False

    @property
    def log_format(self) -> LogFormat:
        """As of collected clicks, but for the time, which may be a timestamp or a number."""
        return replace(self.own.log_format, time_format="auto")

    def collect(self) -> Mapping[str, JsonValue]:
        """List what is there. Raises `PrepareError`, and what `CollectedClicks.collect` raises."""
        found = dict(self.own.collect()) if self.collected else {}
        listing = list_files(self.clicks, self.log_format)
        replace_file(self._listing, listing.model_dump_json(indent=1).encode() + b"\n")
        told: dict[str, JsonValue] = {
            "from": self.clicks,
            "files": len(listing.files),
            "rows": sum(file.rows for file in listing.files),
            "first": min(file.first for file in listing.files).isoformat(),
            "last": listing.files[-1].last.isoformat(),
        }
        return {**found, "partitioned": told}

    def files(self, days: int) -> list[LogFile]:
        """The files that hold clicks of the newest days. Raises `PrepareError`."""
        listed = self._read().files
        newest = listed[-1].day
        found: list[LogFile] = []
        if self.collected:
            own = self.own.dated_files()
            newest = max([newest, *(day for day, _ in own)])
            found = [file for day, file in own if (newest - day).days < days]
        return [*found, *(each.file for each in listed if (newest - each.day).days < days)]

    def attributes(self) -> Attributes | None:
        """See `ClickSource`."""
        return self.own.attributes()

    @property
    def _listing(self) -> Path:
        return self.own.settings.artifacts_dir / LISTING

    def _read(self) -> Listing:
        try:
            listing = Listing.model_validate_json(self._listing.read_bytes())
        except (OSError, ValidationError) as error:
            raise PrepareError(f"{self._listing}: cannot be read: begin a new run: --new") from error
        if listing.clicks != self.clicks:
            raise PrepareError(
                f"{self._listing}: lists {listing.clicks}, not {self.clicks}: begin a new run: --new"
            )
        return listing


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
