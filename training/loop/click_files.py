"""Parquet files of collected clicks: written once, and on disk for good before a commit lists them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from service.live.deployment import replace_file
from training.data.clicks import COMMIT, REJECTED, ClicksError, Commit, StoredFile, read_commit


@dataclass(frozen=True)
class Layout:
    """What a file holds: its columns, and the order of its rows in SQL."""

    schema: pa.Schema
    order: str


CLICKS = Layout(
    pa.schema(
        [
            pa.field("session_id", pa.string(), nullable=False),
            pa.field("item_id", pa.string(), nullable=False),
            pa.field("timestamp", pa.float64(), nullable=False),  # epoch seconds, exactly as acknowledged
            pa.field("type", pa.string(), nullable=False),
            pa.field("event_id", pa.string()),
            pa.field("recommendation_id", pa.string()),
            pa.field("shard", pa.int32(), nullable=False),
            pa.field("seq", pa.int64(), nullable=False),
        ]
    ),
    "timestamp, shard, seq",
)
REJECTS = Layout(
    pa.schema(
        [
            pa.field("session_id", pa.string()),
            pa.field("shard", pa.int32(), nullable=False),
            pa.field("id", pa.string(), nullable=False),  # of the stream
            pa.field("reason", pa.string(), nullable=False),
            pa.field("entry", pa.string(), nullable=False),  # all its fields, as JSON
        ]
    ),
    "shard, id",
)
SPILL = ".spill"  # DuckDB's directory for what its memory cannot hold
_OURS = re.compile(r"\.?\d+-\d+\.parquet(\.tmp)?")


class Generation:
    """Writes the new files of the next commit."""

    def __init__(self, clicks: Path, number: int) -> None:
        self.number = number
        self._clicks = clicks
        self._written = 0
        self._folders = {clicks}

    def write(self, folder: str, layout: Layout, batches: Iterable[pa.RecordBatch]) -> StoredFile:
        """Write one file; without any rows, there is none afterwards."""
        name = f"{self.number:08}-{self._written:03}.parquet"
        final, temporary = self._clicks / folder / name, self._clicks / folder / f".{name}.tmp"
        self._written += 1
        final.parent.mkdir(exist_ok=True)
        self._folders.add(final.parent)
        rows = 0
        with temporary.open("wb") as stream:
            with pq.ParquetWriter(stream, layout.schema, compression="zstd") as writer:
                for batch in batches:
                    writer.write_batch(batch.cast(layout.schema))
                    rows += len(batch)
            stream.flush()
            os.fsync(stream.fileno())
            size = stream.tell()
        if rows:
            temporary.replace(final)
        else:
            temporary.unlink()
        return StoredFile(path=f"{folder}/{name}", rows=rows, bytes=size)

    def commit(self, commit: Commit) -> None:
        """Make `commit` the one that counts, once all that was written is on disk."""
        for folder in self._folders:
            _sync(folder)
        write_commit(self._clicks, commit)


def write_commit(clicks: Path, commit: Commit) -> None:
    """Replace commit.json, and return once that is on disk."""
    replace_file(clicks / COMMIT, commit.model_dump_json(indent=1).encode() + b"\n")
    _sync(clicks)


def checked_commit(clicks: Path) -> Commit:
    """The last commit, once every file that it lists was seen to be there, with all its bytes.

    Raises `ClicksError`, also when commit.json is missing though there are collected clicks.
    """
    commit = read_commit(clicks)
    if not (clicks / COMMIT).exists() and any(clicks.glob("day=*/*.parquet")):
        raise ClicksError(
            f"{clicks / COMMIT}: is missing, though there are collected clicks: restore it from a backup, or "
            f"move {clicks} away to begin anew"
        )
    for file in commit.listed:
        path = clicks / file.path
        size = path.stat().st_size if path.exists() else None
        if size != file.bytes:
            found = "is missing" if size is None else f"has {size:,} bytes instead of {file.bytes:,}"
            raise ClicksError(f"{path}: {found}, though {COMMIT} lists it: restore {clicks} from a backup")
    return commit


def remove_unlisted(clicks: Path, commit: Commit) -> None:
    """Delete what a killed collection has left, and what earlier commits have replaced."""
    listed = {clicks / file.path for file in commit.listed}
    for folder in (*clicks.glob("day=*"), *clicks.glob(REJECTED)):
        for path in folder.iterdir():
            if path not in listed and _OURS.fullmatch(path.name):
                path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
    for path in clicks.glob(f".{COMMIT}.*"):
        path.unlink()
    shutil.rmtree(clicks / SPILL, ignore_errors=True)


def _sync(directory: Path) -> None:
    """Return once the names in a directory are on disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
