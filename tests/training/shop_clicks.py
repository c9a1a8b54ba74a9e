"""The clicks of a small shop in Parquet files by day, as they are when they were collected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet
from pydantic import JsonValue

from service.catalogue.attributes import Schema
from service.process.settings import Settings
from training.bundling.content import Attributes
from training.data.demo_store import DAY, write_demo_store
from training.data.formats import LogFormat
from training.data.items import all_items
from training.learn.checkpoint import Phase
from training.learn.train import Progress
from training.loop.retrain import RetrainConfig

DAYS = 4
FORMAT = LogFormat(
    session="session_id",
    item="item_id",
    time="timestamp",
    time_format="seconds",
    event="type",
    events=("click",),
    by_visitor=True,
)


@dataclass(frozen=True)
class Files:
    """A source that has nothing left to collect."""

    directory: Path
    log_format: LogFormat = FORMAT

    def collect(self) -> Mapping[str, JsonValue]:
        return {"clicks": 0}

    def files(self, days: int) -> list[Path]:
        return sorted(self.directory.glob("*.parquet"))[-days:]

    def attributes(self) -> Attributes | None:
        items = self.directory / "items.csv"
        schema = Schema()
        return Attributes(schema.kinds, all_items(items, schema)) if items.exists() else None


class Silent:
    """Watches a training and says nothing."""

    def on_phase(self, phase: Phase, epochs: int) -> None: ...
    def on_progress(self, progress: Progress) -> None: ...
    def on_epoch(self, phase: Phase, record: dict[str, float]) -> None: ...
    def on_step(self, text: str) -> None: ...


def write_shop(directory: Path, *, sessions: int = 2000) -> Files:
    """The demo store's clicks; an hour into the next day belongs to the visitors of the last one."""
    directory.mkdir(parents=True)
    write_demo_store(directory / "clicks.csv", sessions=sessions, days=DAYS, seed=3)
    clicks = csv.read_csv(directory / "clicks.csv")
    seconds = pc.divide(pc.cast(clicks["timestamp"], pa.float64()), 1000.0)
    clicks = clicks.set_column(2, "timestamp", seconds)
    clicks = clicks.append_column("type", pa.array(["click"] * len(clicks)))
    return write_days(directory, clicks)


def write_days(directory: Path, clicks: pa.Table) -> Files:
    """One file a UTC day."""
    directory.mkdir(parents=True, exist_ok=True)
    day = np.floor(clicks["timestamp"].to_numpy() / DAY).astype(np.int64)
    for number in np.unique(day):
        parquet.write_table(clicks.filter(pa.array(day == number)), directory / f"{number}.parquet")
    return Files(directory)


def read_clicks(files: Sequence[Path]) -> pa.Table:
    """All clicks of some files."""
    return pa.concat_tables(parquet.read_table(file) for file in files)


def shuffled(files: Files, directory: Path) -> Files:
    """The same clicks, but the items of all but the last 1.5 days dealt out anew: popular, and senseless."""
    clicks = read_clicks(files.files(DAYS + 2))
    seconds = clicks["timestamp"].to_numpy()
    old = np.flatnonzero(seconds < seconds.max() - 1.5 * DAY)
    items = clicks["item_id"].to_numpy(zero_copy_only=False).copy()
    items[old] = np.random.default_rng(0).permutation(items[old])
    place = clicks.schema.get_field_index("item_id")
    return write_days(directory, clicks.set_column(place, "item_id", pa.array(items)))


def settings(artifacts: Path) -> Settings:
    return Settings(artifacts_dir=artifacts)


def config(model: str = "vmis_knn", *sets: str, **sections: dict[str, object]) -> RetrainConfig:
    """A config that a small shop passes, on any machine; sections are changed by name."""
    defaults: dict[str, dict[str, object]] = {
        "prepare": {"min_sessions": 100, "min_item_support": 2},
        # Not auto: which index is measured to be the fastest is the machine's to say, and its size with it.
        "train": {"model": model, "set": list(sets), "threads": 1, "index": "flat"},
        "gate": {"max_answer_ms": 10_000.0, "replay_sessions": 200},
        "publish": {},
    }
    merged = {name: section | sections.get(name, {}) for name, section in defaults.items()}
    return RetrainConfig.model_validate(merged)


GRU = config("gru", "dim=8", "epochs=2", "batch_size=128")
