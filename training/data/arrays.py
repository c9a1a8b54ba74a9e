"""From split clicks to the item table and the arrays of a data set, sessions and clicks in time order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
from ibis.backends.duckdb import Backend
from ibis.expr.types import Table
from numpy.lib.format import open_memmap

from service.ranking.bundle import write_items
from training.data.dataset import ITEMS
from training.data.sessions import ORDER

BATCH = 1_000_000  # clicks or sessions in memory at a time


def write_arrays(con: Backend, directory: Path, splits: dict[str, Table], item_ids: Table) -> None:
    """Write the clicks of `splits` (train and test), their items named by `item_ids` (item, item_id).

    An item that no training session holds becomes PAD.
    """
    ordered = {split: _in_order(con, split, clicks) for split, clicks in splits.items()}
    items = con.create_table("vocabulary", _vocabulary(ordered["train"]))
    items = items.select("item", index=items.rowid() + 1)
    names = items.join(item_ids, "item").order_by("index").item_id
    write_items(directory / ITEMS, names.to_pyarrow().to_pylist())
    for split, clicks in ordered.items():
        _write_items(con, directory / f"{split}.items.npy", clicks, items)
        _write_offsets(con, directory / f"{split}.offsets.npy", clicks)


def _in_order(con: Backend, split: str, clicks: Table) -> Table:
    """(position, item) of every click, in order; `position` is that of its session.

    Sessions are ordered by their last click, as the split goes; of equals, the first in the log is first. The
    order lies in the tables themselves: DuckDB keeps that of insertion, and `rowid` counts it.
    """
    ends = clicks.group_by("session").agg(end=clicks.time.max(), first_row=clicks.row.min())
    sessions = con.create_table(f"{split} sessions", ends.order_by("end", "first_row").select("session"))
    clicks = clicks.join(sessions.select("session", position=sessions.rowid()), "session")
    return con.create_table(
        f"{split} in order", clicks.order_by("position", *ORDER).select("position", "item")
    )


def _vocabulary(train: Table) -> Table:
    """The items by descending popularity; of equals, the first that was clicked is first."""
    items = train.group_by("item").agg(clicks=train.count(), first_click=train.rowid().min())
    return items.order_by(ibis.desc("clicks"), "first_click").select("item")


def _write_items(con: Backend, file: Path, clicks: Table, items: Table) -> None:
    indexed = clicks.mutate(place=clicks.rowid()).left_join(items, "item").order_by("place")
    array = open_memmap(file, mode="w+", dtype=np.int32, shape=(_count(clicks),))
    end = 0
    for batch in _batches(con, indexed.select(index=indexed.index.fill_null(0))):
        start, end = end, end + len(batch)
        array[start:end] = batch.column("index").to_numpy()
    array.flush()


def _write_offsets(con: Backend, file: Path, clicks: Table) -> None:
    lengths = clicks.group_by("position").agg(length=clicks.count())
    array = open_memmap(file, mode="w+", dtype=np.int64, shape=(_count(lengths) + 1,))
    array[0] = end = 0
    for batch in _batches(con, lengths.order_by("position").select("length")):
        start, end = end, end + len(batch)
        array[start + 1 : end + 1] = array[start] + np.cumsum(batch.column("length").to_numpy())
    array.flush()


def _batches(con: Backend, table: Table) -> Iterator[pa.RecordBatch]:
    # Not Ibis's own `to_pyarrow_batches`: it calls what DuckDB has deprecated.
    yield from con.raw_sql(con.compile(table)).to_arrow_reader(BATCH)


def _count(table: Table) -> int:
    count: int = table.count().to_pyarrow().as_py()
    return count
