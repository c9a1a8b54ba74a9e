"""The collected clicks: Parquet by UTC day, and the commit file that says which of it exists.

clicks/
├── commit.json                          replaced atomically; a file that it does not list does not exist
├── day=2026-11-24/00000007-000.parquet  clicks of that day, written by generation 7
├── rejected/00000007-001.parquet        entries of the log that are no clicks, as they were
└── .lock                                held by the collector

No file is ever changed; days that are older than they are to be kept leave the commit as a whole. What a
commit replaces or leaves out stays until the next collection starts: whoever has read commit.json can read
the files it lists until then.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from training.data.formats import LogFormat

DIRECTORY = "clicks"  # below the artifacts
COMMIT = "commit.json"
REJECTED = "rejected"

# A session id may be one visitor's for months: a session ends after a pause, not with its id.
COLLECTED = LogFormat(
    "session_id",
    "item_id",
    "timestamp",
    "seconds",
    by_visitor=True,
    event="type",
    events=("click",),
    name="clicks",
    nothing=(),  # what the service took for an id is one
)


class ClicksError(ValueError):
    """The collected clicks cannot be read or added to; the message names the file and what to do."""


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Position(_Stored):
    """Up to where a shard's log is collected: an entry's stream id and its sequence number."""

    id: str = "0-0"
    seq: int = 0


class StoredFile(_Stored):
    """A Parquet file; `path` is relative to the clicks' directory."""

    path: str
    rows: int
    bytes: int


class ClickFile(StoredFile):
    """One that holds clicks of one UTC day."""

    day: date


class Gap(_Stored):
    """Two neighbours in a shard's log whose sequence numbers are not."""

    shard: int
    after_seq: int
    next_seq: int
    noticed_at: AwareDatetime

    @property
    def missing(self) -> int:
        """How many entries are lost; none when the numbers went back: the log was restored or replaced."""
        return max(0, self.next_seq - self.after_seq - 1)


class Totals(_Stored):
    """Of all collections. The listed files hold `clicks` - `erased_clicks` rows."""

    clicks: int = 0  # duplicates left out
    duplicates: int = 0
    erased_sessions: int = 0  # requests to erase one
    erased_clicks: int = 0
    rejected: int = 0
    missing: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(**{name: getattr(self, name) + getattr(other, name) for name in Totals.model_fields})

    def __sub__(self, other: Totals) -> Totals:
        return Totals(**{name: getattr(self, name) - getattr(other, name) for name in Totals.model_fields})


class Commit(_Stored):
    """What is collected, and up to where; empty when nothing is."""

    format_version: Literal[1] = 1
    generation: int = 0  # counts the commits
    shards: int | None = None  # None until a log was seen
    positions: dict[int, Position] = {}
    files: tuple[ClickFile, ...] = ()  # by day, then by age
    rejected: tuple[StoredFile, ...] = ()
    gaps: tuple[Gap, ...] = ()
    totals: Totals = Totals()

    @property
    def listed(self) -> Iterator[StoredFile]:
        """Every file there is."""
        yield from self.files
        yield from self.rejected

    @property
    def days(self) -> int:
        """How many days hold clicks."""
        return len({file.day for file in self.files})


def read_commit(clicks: Path) -> Commit:
    """The last commit; an empty one when there is none. Raises `ClicksError` when it is damaged."""
    file = clicks / COMMIT
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return Commit()
    except OSError as error:
        raise ClicksError(f"{file}: cannot be read: {error.strerror}") from error
    return parsed_commit(content, str(file))


def parsed_commit(content: bytes, told: str) -> Commit:
    """What commit.json says, which is `told` of where it lies. Raises `ClicksError` when it is damaged."""
    try:
        return Commit.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "the whole file"
        raise ClicksError(f"{told}: is damaged: {field}: {first['msg']}: restore it from a backup") from error


def files_of_newest_days(clicks: Path, days: int | None) -> list[Path]:
    """The files of the newest `days` days, or of all, in order; days without a click count as well.

    Raises `ClicksError` when no clicks are collected yet.
    """
    files = read_commit(clicks).files
    if not files:
        raise ClicksError(f"{clicks}: no clicks are collected yet: run `nextclick collect`")
    newest = files[-1].day
    return [clicks / file.path for file in files if days is None or (newest - file.day).days < days]
