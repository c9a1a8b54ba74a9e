"""From split clicks to the item table and the arrays of a data set, sessions and clicks in time order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from numpy.lib.format import open_memmap

from service.ranking.bundle import write_items
from training.data.dataset import ITEMS
from training.data.reading import sql
from training.data.sessions import ORDER

BATCH = 1_000_000  # clicks or sessions in memory at a time
SPLITS = ("train", "test")


def write_arrays(con: duckdb.DuckDBPyConnection, directory: Path) -> None:
    """Write the clicks of the tables `train` and `test`, their items named by `item_ids` (item, item_id).

    An item that no training session holds becomes PAD.
    """
    for split in SPLITS:
        _put_in_order(con, split)
    _make_vocabulary(con)
    names = "SELECT item_id FROM vocabulary JOIN item_ids USING (item) ORDER BY vocabulary.rowid"
    write_items(directory / ITEMS, con.execute(names).to_arrow_table()["item_id"].to_pylist())
    for split in SPLITS:
        _write_items(con, directory / f"{split}.items.npy", f"{split}_in_order")
        _write_offsets(con, directory / f"{split}.offsets.npy", f"{split}_in_order")


def _put_in_order(con: duckdb.DuckDBPyConnection, split: str) -> None:
    """Make the table of (position, item) of every click, in order; `position` is that of its session.

    Sessions are ordered by their last click, as the split goes; of equals, the first in the log is first. The
    order lies in the tables themselves: DuckDB keeps that of insertion, and `rowid` counts it.
    """
    con.execute(
        f"""
        CREATE TABLE {split}_sessions AS
        SELECT session FROM {split} GROUP BY session ORDER BY max(time), min(row);
        CREATE TABLE {split}_in_order AS
        SELECT position, item
        FROM {split} JOIN (SELECT session, rowid AS position FROM {split}_sessions) USING (session)
        ORDER BY position, {ORDER}
        """
    )


def _make_vocabulary(con: duckdb.DuckDBPyConnection) -> None:
    """The items by descending popularity; of equals, the first that was clicked is first."""
    con.execute(
        """
        CREATE TABLE vocabulary AS
        SELECT item FROM train_in_order GROUP BY item ORDER BY count(*) DESC, min(rowid)
        """
    )


def _write_items(con: duckdb.DuckDBPyConnection, file: Path, clicks: str) -> None:
    indexed = f"""
        SELECT coalesce(index, 0) AS index
        FROM (SELECT item, rowid AS place FROM {clicks})
        LEFT JOIN (SELECT item, rowid + 1 AS index FROM vocabulary) USING (item) ORDER BY place
    """
    n_clicks = sql.value(con, f"SELECT count(*) FROM {clicks}")
    array = open_memmap(file, mode="w+", dtype=np.int32, shape=(n_clicks,))
    end = 0
    for batch in _batches(con, indexed):
        start, end = end, end + len(batch)
        array[start:end] = batch.column("index").to_numpy()
    array.flush()


def _write_offsets(con: duckdb.DuckDBPyConnection, file: Path, clicks: str) -> None:
    n_sessions = sql.value(con, f"SELECT count(DISTINCT position) FROM {clicks}")
    array = open_memmap(file, mode="w+", dtype=np.int64, shape=(n_sessions + 1,))
    array[0] = end = 0
    lengths = f"SELECT count(*) AS length FROM {clicks} GROUP BY position ORDER BY position"
    for batch in _batches(con, lengths):
        start, end = end, end + len(batch)
        array[start + 1 : end + 1] = array[start] + np.cumsum(batch.column("length").to_numpy())
    array.flush()


def _batches(con: duckdb.DuckDBPyConnection, select: str) -> Iterator[pa.RecordBatch]:
    yield from con.execute(select).to_arrow_reader(BATCH)
