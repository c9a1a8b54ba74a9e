"""Parquet files of collected clicks: written once, and on disk for good before a commit lists them."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from service.live.artifacts import Artifacts
from service.live.deployment import replace_file
from service.live.object_store import Object, ObjectStore
from training.data.clicks import (
    COMMIT,
    DIRECTORY,
    REJECTED,
    ClicksError,
    Commit,
    StoredFile,
    parsed_commit,
    read_commit,
)


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
_OURS = re.compile(r"\.?\d+-\d+(-[0-9a-f]{8})?\.parquet(\.tmp)?")
_GENERATION = re.compile(r"(\d+)-\d+(-[0-9a-f]{8})?\.parquet")


class ConflictError(RuntimeError):
    """Another collection has committed meanwhile; nothing of this one counts."""


class Generation:
    """Writes the new files of the next commit."""

    def __init__(self, commits: Commits, number: int) -> None:
        self.number = number
        self._commits = commits
        self._clicks = commits.clicks
        self._written = 0
        self._folders = {self._clicks}

    def write(self, folder: str, layout: Layout, batches: Iterable[pa.RecordBatch]) -> StoredFile:
        """Write one file; without any rows, there is none afterwards."""
        name = f"{self.number:08}-{self._written:03}{self._commits.suffix()}.parquet"
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
        self._commits.write(commit)


class Commits:
    """The commits of a directory alone."""

    def __init__(self, clicks: Path) -> None:
        self.clicks = clicks

    @property
    def begun(self) -> bool:
        """Whether there is any."""
        return (self.clicks / COMMIT).exists()

    def last(self) -> Commit:
        """The last one, all whose files were seen to be there. Raises `ClicksError`."""
        return checked_commit(self.clicks)

    def write(self, commit: Commit) -> None:
        """Make `commit` the one that counts; its files are on disk."""
        write_commit(self.clicks, commit)

    def remove_unlisted(self, commit: Commit) -> None:
        """Delete what a killed collection has left, and what earlier commits have replaced."""
        remove_unlisted(self.clicks, commit)

    def suffix(self) -> str:
        """What file names end with."""
        return ""


class SharedCommits(Commits):
    """Those of a store, which a directory mirrors. Every method raises `ObjectStoreError`, too.

    Files have names of their own, so that of two collectors none writes over the other's; which of them
    counts is decided when commit.json is replaced, by compare-and-swap.
    """

    def __init__(self, clicks: Path, store: ObjectStore) -> None:
        super().__init__(clicks)
        self._store = store
        self._read: Object | None = None
        self._there: set[str] = set()  # files that the store has

    @property
    def begun(self) -> bool:
        """Whether the store has any: what the directory has goes there with the first."""
        return self._read is not None

    def last(self) -> Commit:
        """The store's, its files fetched; the directory's, if the store has none yet."""
        self._read = self._store.read(_name(COMMIT))
        if self._read is None:
            return super().last()
        commit = parsed_commit(self._read.content, f"{self._store.url}/{_name(COMMIT)}")
        for file in commit.listed:
            self._fetch(file)
        self._there = {file.path for file in commit.listed}
        write_commit(self.clicks, commit)
        return super().last()

    def _fetch(self, file: StoredFile) -> None:
        final = self.clicks / file.path
        if final.exists() and final.stat().st_size == file.bytes:
            return
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f".{final.name}.tmp")
        self._store.download(_name(file.path), temporary)
        temporary.replace(final)

    def write(self, commit: Commit) -> None:
        """Upload its new files, then let it count. Raises `ConflictError`."""
        for file in commit.listed:
            if file.path not in self._there:
                self._store.upload(_name(file.path), self.clicks / file.path)
        content = _written(commit)
        if not self._store.replace(_name(COMMIT), content, self._read):
            raise self._conflict(
                "another collection has committed meanwhile, and nothing of this batch counts"
            )
        self._read = self._store.read(_name(COMMIT))
        if self._read is None or self._read.content != content:
            raise self._conflict("another collection has gone on from this one")
        self._there = {file.path for file in commit.listed}
        super().write(commit)

    def _conflict(self, what: str) -> ConflictError:
        place = f"{self._store.url}/{_name(COMMIT)}"
        return ConflictError(f"{place}: {what}: run it again, and in one place at a time")

    def remove_unlisted(self, commit: Commit) -> None:
        """The same in the store, but what a generation after the last has: its collector may be at work."""
        super().remove_unlisted(commit)
        listed = {_name(file.path) for file in commit.listed}
        self._store.delete(
            each.name
            for each in self._store.list(DIRECTORY)
            if each.name not in listed
            and (found := _GENERATION.fullmatch(each.name.rpartition("/")[2])) is not None
            and int(found[1]) <= commit.generation
        )

    def suffix(self) -> str:
        """Nobody else's."""
        return f"-{secrets.token_hex(4)}"


def commits_of(artifacts: Artifacts) -> Commits:
    """Where these artifacts' collected clicks are committed. Raises `ObjectStoreError`."""
    clicks = artifacts.directory / DIRECTORY
    return Commits(clicks) if artifacts.store is None else SharedCommits(clicks, artifacts.store)


def _name(path: str) -> str:
    return f"{DIRECTORY}/{path}"


def _written(commit: Commit) -> bytes:
    return commit.model_dump_json(indent=1).encode() + b"\n"


def write_commit(clicks: Path, commit: Commit) -> None:
    """Replace commit.json, and return once that is on disk."""
    replace_file(clicks / COMMIT, _written(commit))
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
