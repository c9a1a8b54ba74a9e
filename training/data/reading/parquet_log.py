"""Parquet: typed columns as the text of their values, a click a row or an object with several."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from training.data.dataset import SourceFile
from training.data.reading import sql
from training.data.reading.detect import parquet_schema
from training.data.reading.lines import shortened
from training.data.reading.presets import EXACT, LogFormat
from training.data.reading.reasons import NO_ID, float_id
from training.data.reading.remote import LogFile
from training.data.reading.tables import check_names, insert_fields, source_of

BATCH = 100_000  # rows of an object in memory at a time
_NO_IDS = ("boolean", "list", "array", "struct", "map", "union")


def insert_parquet(
    con: duckdb.DuckDBPyConnection, number: int, file: LogFile, format_: LogFormat
) -> SourceFile:
    """Insert a file's rows into `log`."""
    schema = parquet_schema(file)
    named = format_.columns_among(schema.names)
    check_names(file, schema.names, named, format_)
    with parquet_rows(con, file, list(dict.fromkeys(named.values()))) as rows:
        fields = {field: _as_text(sql.named(name), rows.types[name], field) for field, name in named.items()}
        insert_fields(con, number, fields, rows.query)
    return source_of(
        file,
        "parquet",
        format_,
        named,
        lines=rows.count,
        id_types={field: str(schema.field(named[field]).type) for field in ("session", "item")},
        sample=rows.sample,
    )


@dataclass(frozen=True)
class Rows:
    """The rows of a Parquet file, with the columns that are asked for."""

    query: str  # to be used once
    types: Mapping[str, str]  # as DuckDB calls them
    count: int
    sample: str


@contextmanager
def parquet_rows(con: duckdb.DuckDBPyConnection, file: LogFile, columns: Sequence[str]) -> Iterator[Rows]:
    """The rows of a file; of an object of a store they are fetched while the query runs, batch by batch."""
    if isinstance(file, Path):
        # Whatever its name is: a directory `item_id=7` above it adds no column.
        query = f"read_parquet({sql.text(str(file))}, hive_partitioning = false)"
        asked = f"SELECT {', '.join(map(sql.named, columns))} FROM {query}"
        first = sql.found(con, f"{asked} LIMIT 1")
        count = sql.value(con, f"SELECT count(*) FROM {query}")
        yield Rows(query, _types(con, f"({asked})"), count, _sample(first))
        return
    with file.parquet() as opened:
        schema = pa.schema([opened.schema_arrow.field(name) for name in columns])
        batches = opened.iter_batches(BATCH, columns=list(columns))
        head = list(itertools.islice(batches, 1))
        con.register("described", schema.empty_table())
        types = _types(con, "described")
        con.unregister("described")
        ordered = (batch.select(list(columns)) for batch in itertools.chain(head, batches))
        con.register("fetched", pa.RecordBatchReader.from_batches(schema, ordered))
        try:
            first = [row for batch in head for row in batch.slice(0, 1).to_pylist()]
            yield Rows("fetched", types, opened.metadata.num_rows, _sample(first))
        finally:
            con.unregister("fetched")


def _types(con: duckdb.DuckDBPyConnection, query: str) -> dict[str, str]:
    table = con.sql(f"FROM {query}")
    return {name: kind.id for name, kind in zip(table.columns, table.types, strict=True)}


def _sample(rows: Sequence[Mapping[str, object]]) -> str:
    return shortened(", ".join(f"{name}={value!r}" for row in rows for name, value in row.items()))


def _as_text(value: str, kind: str, field: str) -> str:
    """A column's value as text; `kind` is what DuckDB calls its type."""
    if kind == "blob":
        # Text of a writer that did not say so; what is no UTF-8 has no characters, and is no id.
        return f"try(decode({value}))"
    if field not in ("session", "item"):
        return f"CAST({value} AS VARCHAR)"
    if kind in ("float", "double"):
        return float_id(value, f"CAST({value} AS VARCHAR)", EXACT if kind == "double" else 2**24)
    if kind == "decimal":
        return rf"regexp_replace(CAST({value} AS VARCHAR), '\.0*$', '')"
    if kind in _NO_IDS:
        return f"{sql.text(NO_ID)} || CAST({value} AS VARCHAR)"
    return f"CAST({value} AS VARCHAR)"


def insert_parquet_objects(
    con: duckdb.DuckDBPyConnection, number: int, file: Path, format_: LogFormat
) -> SourceFile:
    """Insert a file's rows into `lines`, with the columns that are asked for."""
    schema = pq.read_schema(file)
    beside = {field: name for field, name in format_.columns.items() if field not in format_.inner}
    wanted = {**beside, "visitor": format_.visitor, "nested": format_.nested}
    named = {field: re.split(r"[.\[]", name)[0] for field, name in wanted.items() if name}
    check_names(file, schema.names, named, format_)
    columns = ", ".join(f"{sql.text(name)}: {sql.named(name)}" for name in dict.fromkeys(named.values()))
    con.execute(
        f"INSERT INTO lines (file, line) SELECT {number}, to_json({{{columns}}})::VARCHAR "
        f"FROM read_parquet({sql.text(str(file))})"
    )
    lines = f"FROM lines WHERE file = {number}"
    sample = con.execute(f"SELECT line {lines} LIMIT 1").fetchall()
    return source_of(
        file,
        "parquet",
        format_,
        format_.columns,
        lines=sql.value(con, f"SELECT count(*) {lines}"),
        sample=shortened("".join(line for (line,) in sample)),
    )
