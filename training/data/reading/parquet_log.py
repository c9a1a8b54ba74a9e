"""Parquet: typed columns as the text of their values, a click a row or an object with several."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import ibis
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend
from ibis.expr.types import Column, StringColumn, Table

from training.data.dataset import SourceFile
from training.data.reading.lines import shortened
from training.data.reading.presets import LogFormat
from training.data.reading.reasons import EXACT, INEXACT, NO_ID
from training.data.reading.tables import check_names, select_fields, source_of


def insert_parquet(con: Backend, number: int, file: Path, format_: LogFormat) -> SourceFile:
    """Insert a file's rows into `log`."""
    table = con.read_parquet(file)  # whatever its name is
    named = format_.columns_among(table.columns)
    check_names(file, table.columns, named.values())
    con.insert("log", _parquet_fields(table, named).mutate(file=number))
    first = table.select(*dict.fromkeys(named.values())).head(1).to_pyarrow().to_pylist()
    return source_of(
        file,
        "parquet",
        format_,
        named,
        lines=table.count().to_pyarrow().as_py(),
        id_types={field: str(table[named[field]].type()) for field in ("session", "item")},
        sample=shortened(", ".join(f"{name}={value!r}" for row in first for name, value in row.items())),
    )


def _parquet_fields(table: Table, named: Mapping[str, str]) -> Table:
    fields = {}
    for field, name in named.items():
        value = table[name]
        if value.type().is_binary():
            # Text of a writer that did not say so; what is no UTF-8 has no characters, and is no id.
            fields[field] = _try(_decode(value))
        elif value.type().is_floating() and field in ("session", "item"):
            # Whole numbers beside a missing one are often stored as floats: 17.0 is the item "17". Where
            # floats skip whole numbers, it may have been another.
            exact = EXACT if value.type().is_float64() else 2**24
            whole = value.try_cast("int64")
            fields[field] = ibis.cases(
                (value.isnan(), None),
                (~(value.abs() < exact), ibis.literal(INEXACT) + value.cast("string")),
                (value == whole, whole.cast("string")),
                else_=value.cast("string"),
            )
        elif value.type().is_decimal() and field in ("session", "item"):
            fields[field] = value.cast("string").re_replace(r"\.0*$", "")
        elif value.type().is_nested() and field in ("session", "item"):
            fields[field] = ibis.literal(NO_ID) + value.cast("string")
        else:
            fields[field] = value.cast("string")
    return select_fields(fields, table)


def insert_parquet_objects(con: Backend, number: int, file: Path, format_: LogFormat) -> SourceFile:
    """Insert a file's rows into `lines`, with the columns that are asked for."""
    schema = pq.read_schema(file)
    beside = [name for field, name in format_.columns.items() if field not in format_.inner]
    names = [re.split(r"[.\[]", name)[0] for name in (*beside, format_.visitor, format_.nested) if name]
    check_names(file, schema.names, names)
    columns = ", ".join(f"'{name}': \"{name}\"" for name in dict.fromkeys(names))
    path = str(file).replace("'", "''")
    con.raw_sql(
        f"INSERT INTO lines (file, line) SELECT {number}, to_json({{{columns}}})::VARCHAR "
        f"FROM read_parquet('{path}')"
    )
    lines = con.table("lines")
    lines = lines.filter(lines.file == number)
    sample = lines.head(1).line.to_pyarrow().to_pylist()
    return source_of(
        file,
        "parquet",
        format_,
        format_.columns,
        lines=lines.count().to_pyarrow().as_py(),
        sample=shortened("".join(sample)),
    )


@ibis.udf.scalar.builtin(name="decode", signature=(("binary",), "string"))  # type: ignore[untyped-decorator]
def _decode(value: Column) -> StringColumn: ...


@ibis.udf.scalar.builtin(name="try", signature=(("string",), "string"))  # type: ignore[untyped-decorator]
def _try(value: StringColumn) -> StringColumn: ...
