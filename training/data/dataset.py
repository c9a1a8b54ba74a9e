"""The prepared data set: what `prepare` writes and everything after it reads.

    dataset.json                     schema, name, counts, options, sha256 of every other file
    items.txt                        external id of item index 1..n, by descending training popularity
    {train,test}.{items,offsets}.npy sessions in time order (see `models.sessions.Sessions`), memory-mapped

The training sessions include the validation sessions: the last `n_validation` of them, in time order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from models.sessions import Sessions
from service.live.deployment import replace_file
from service.ranking.bundle import read_items
from service.ranking.checksums import file_sha256

SCHEMA_VERSION = 1
MANIFEST = "dataset.json"
ITEMS = "items.txt"
ARRAYS = tuple(f"{split}.{part}.npy" for split in ("train", "test") for part in ("items", "offsets"))


class DatasetError(ValueError):
    """A prepared data set cannot be used; the message names the file and what is wrong with it."""


class SourceFile(BaseModel):
    """What was understood of a file of the log.

    `lines`: of the file, its header included; of Parquet, its rows. Each is a click that was `kept`, is
    `rejected` (those that are another event, too), a header, blank, or goes on with a record that began
    before; but a JSON line may hold a session of clicks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    format: str
    compression: str | None = None
    encoding: str | None = None
    separator: str | None = None
    columns: dict[str, str] = {}  # field -> the column that it is taken from
    time_unit: str | None = None
    id_types: dict[str, str] = {}
    lines: int = 0
    kept: int = 0
    rejected: dict[str, int] = {}  # reason -> rows
    first_time: str | None = None  # ISO-8601, of the clicks that were kept
    last_time: str | None = None
    sample: str = ""  # the first line, or row, that is no header


class DatasetInfo(BaseModel):
    """dataset.json: what was prepared, from what, by which options, and what was left."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION
    name: str
    n_items: int
    n_validation: int
    counts: dict[str, int]
    options: dict[str, bool | int | float | str | None]
    files: dict[str, str]
    source: tuple[SourceFile, ...] = ()  # not of data sets from before there was it

    @property
    def fingerprint(self) -> str:
        """One sha256 over the content of every array and the item table."""
        return hashlib.sha256(json.dumps(self.files, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Dataset:
    """A prepared data set, memory-mapped."""

    path: Path
    info: DatasetInfo
    items: list[str]
    train_all: Sessions
    test: Sessions

    @property
    def train(self) -> Sessions:
        """The training sessions without the validation sessions."""
        return self.train_all[: len(self.train_all) - self.info.n_validation]

    @property
    def validation(self) -> Sessions:
        """The last training sessions in time order, held out for every choice that is made."""
        return self.train_all[len(self.train_all) - self.info.n_validation :]

    @classmethod
    def load(cls, path: Path) -> Dataset:
        """Open `path`. Raises `DatasetError`."""
        info = read_info(path)
        splits = {}
        for split in ("train", "test"):
            items, offsets = (
                np.load(path / f"{split}.{part}.npy", mmap_mode="r") for part in ("items", "offsets")
            )
            splits[split] = Sessions(items, offsets, info.n_items)
        return cls(path, info, read_items(path / ITEMS), splits["train"], splits["test"])


def read_info(path: Path) -> DatasetInfo:
    """Read dataset.json alone. Raises `DatasetError`."""
    file = path / MANIFEST
    try:
        info = DatasetInfo.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise DatasetError(f"{file}: missing: run `nextclick prepare` first") from None
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise DatasetError(f"{file}: {error.errors()[0]['msg']}") from error
    if info.schema_version != SCHEMA_VERSION:
        raise DatasetError(f"{file}: schema_version {info.schema_version}, expected {SCHEMA_VERSION}")
    return info


def write_info(
    path: Path,
    *,
    name: str,
    n_items: int,
    n_validation: int,
    counts: dict[str, int],
    options: dict[str, bool | int | float | str | None],
    source: Sequence[SourceFile] = (),
) -> DatasetInfo:
    """Write dataset.json last, over the finished arrays and item table: without it there is no data set."""
    files = {file: file_sha256(path / file) for file in (ITEMS, *ARRAYS)}
    info = DatasetInfo(
        name=name,
        n_items=n_items,
        n_validation=n_validation,
        counts=counts,
        options=options,
        files=files,
        source=tuple(source),
    )
    replace_file(path / MANIFEST, info.model_dump_json(indent=2).encode() + b"\n")
    return info
