"""Parquet: typed columns as the text of their values, a click a row or an object with several."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from training.data.dataset import SourceFile
from training.data.reading import sql
from training.data.reading.lines import shortened
from training.data.reading.presets import LogFormat
from training.data.reading.reasons import EXACT, INEXACT, NO_ID
from training.data.reading.tables import check_names, insert_fields, source_of

_NESTED = ("list", "array", "struct", "map", "union")


def insert_parquet(con: duckdb.DuckDBPyConnection, number: int, file: Path, format_: LogFormat) -> SourceFile:
    """Insert a file's rows into `log`."""
    query = f"read_parquet({sql.text(str(file))})"  # whatever its name is
    table = con.sql(f"FROM {query}")
    named = format_.columns_among(table.columns)
    check_names(file, table.columns, named.values())
    types = dict(zip(table.columns, table.types, strict=True))
    fields = {field: _as_text(sql.named(name), types[name].id, field) for field, name in named.items()}
    insert_fields(con, number, fields, query)
    asked = ", ".join(map(sql.named, dict.fromkeys(named.values())))
    first = sql.found(con, f"SELECT {asked} FROM {query} LIMIT 1")
    return source_of(
        file,
        "parquet",
        format_,
        named,
        lines=sql.value(con, f"SELECT count(*) FROM {query}"),
        id_types={field: str(types[named[field]]).lower() for field in ("session", "item")},
        sample=shortened(", ".join(f"{name}={value!r}" for row in first for name, value in row.items())),
    )


def _as_text(value: str, kind: str, field: str) -> str:
    """A column's value as text; `kind` is what DuckDB calls its type."""
    if kind == "blob":
        # Text of a writer that did not say so; what is no UTF-8 has no characters, and is no id.
        return f"try(decode({value}))"
    if field not in ("session", "item"):
        return f"CAST({value} AS VARCHAR)"
    if kind in ("float", "double"):
        # Whole numbers beside a missing one are often stored as floats: 17.0 is the item "17". Where
        # floats skip whole numbers, it may have been another.
        exact = EXACT if kind == "double" else 2**24
        whole = f"TRY_CAST({value} AS BIGINT)"
        return sql.cases(
            (f"isnan({value})", "NULL"),
            (f"NOT (abs({value}) < {exact})", f"{sql.text(INEXACT)} || CAST({value} AS VARCHAR)"),
            (f"{value} = {whole}", f"CAST({whole} AS VARCHAR)"),
            otherwise=f"CAST({value} AS VARCHAR)",
        )
    if kind == "decimal":
        return rf"regexp_replace(CAST({value} AS VARCHAR), '\.0*$', '')"
    if kind in _NESTED:
        return f"{sql.text(NO_ID)} || CAST({value} AS VARCHAR)"
    return f"CAST({value} AS VARCHAR)"


def insert_parquet_objects(
    con: duckdb.DuckDBPyConnection, number: int, file: Path, format_: LogFormat
) -> SourceFile:
    """Insert a file's rows into `lines`, with the columns that are asked for."""
    schema = pq.read_schema(file)
    beside = [name for field, name in format_.columns.items() if field not in format_.inner]
    names = [re.split(r"[.\[]", name)[0] for name in (*beside, format_.visitor, format_.nested) if name]
    check_names(file, schema.names, names)
    columns = ", ".join(f"{sql.text(name)}: {sql.named(name)}" for name in dict.fromkeys(names))
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
