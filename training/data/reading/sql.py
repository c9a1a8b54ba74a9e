"""SQL for DuckDB, as text: values, names, and what a query finds.

A *query*, here and wherever click logs are prepared, is text that may stand after FROM: the name of a table,
or a SELECT in parentheses. So queries are made of one another, and run when a table is made of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import duckdb
import pyarrow as pa

WHITE_SPACE = " \t\n\r\v\f"


def text(value: str | None) -> str:
    """A string, or NULL."""
    return "NULL::VARCHAR" if value is None else "'" + value.replace("'", "''") + "'"


def texts(values: Iterable[str]) -> str:
    """Strings between commas."""
    return ", ".join(map(text, values))


def named(name: str) -> str:
    """The name of a table or a column, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def stripped(value: str) -> str:
    """The value of a text without the white space around it."""
    return f"trim({value}, {text(WHITE_SPACE)})"


def cases(*cases: tuple[str, str], otherwise: str = "NULL") -> str:
    """The value beside the first condition that holds."""
    return f"CASE {' '.join(f'WHEN {when} THEN {then}' for when, then in cases)} ELSE {otherwise} END"


def connect(**config: str | bool | int | float | list[str]) -> duckdb.DuckDBPyConnection:
    """A database in memory, to which times without an offset are UTC wherever it runs."""
    con = duckdb.connect(config=config)
    con.execute("SET TimeZone = 'UTC'")
    return con


def found(con: duckdb.DuckDBPyConnection, select: str) -> list[dict[str, Any]]:
    """The rows that a SELECT finds, all of them in memory."""
    rows: list[dict[str, Any]] = con.execute(select).to_arrow_table().to_pylist()
    return rows


def value(con: duckdb.DuckDBPyConnection, select: str) -> Any:
    """The only value of the only row that a SELECT finds."""
    [(only,)] = con.execute(select).fetchall()
    return only


def insert(con: duckdb.DuckDBPyConnection, table: str, columns: Mapping[str, Iterable[Any]]) -> None:
    """Put rows, given column by column, into a table; what columns it has beside are null."""
    con.register("given", pa.table(dict(columns)))
    con.execute(f"INSERT INTO {table} BY NAME FROM given")
    con.unregister("given")
