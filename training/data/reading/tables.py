"""The tables that take file after file, with the fields of every row as text, and the log they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from training.data.dataset import SourceFile
from training.data.reading import sql
from training.data.reading.lines import Plain, PrepareError
from training.data.reading.presets import FIELDS, LogFormat
from training.data.reading.remote import LogFile


@dataclass(frozen=True)
class Log:
    """What the files hold; `rows` is a query over the text that was read, not a table yet.

    `rows`: file, row, session, item (text), time (epoch microseconds), tick, reason, raw. A row without a
    `reason` is a click; (time, tick, row) is the order of clicks. `row` counts on from file to file.
    The table `malformed`: file, line, reason, raw of the lines that could not be split into fields; those
    without a reason are blank, or belong to the record that began before.
    The table `files`: file, path, row_to_line.
    `other_events`: by file, how many rows are not in `rows` because they are no clicks, and rightly so.
    `by_line`: the files that were read line by line, which takes longer.
    `sources`: what was detected of each file; what is to be counted is not, yet.
    """

    con: duckdb.DuckDBPyConnection
    rows: str
    sources: tuple[SourceFile, ...]
    other_events: Mapping[int, int]
    by_line: tuple[Path, ...] = ()
    rows_are_lines: bool = False  # those that hold nothing, too

    @property
    def rejected(self) -> str:
        """The query of file, line, reason, raw of every row that is no click."""
        # Each malformed line pushes the rows after it one line down.
        return f"""(
            WITH bad AS (
                SELECT file, path, row + row_to_line AS line, reason, raw
                FROM {self.rows} JOIN files USING (file) WHERE reason IS NOT NULL
            ), numbered AS (
                SELECT file, line, row_number() OVER (PARTITION BY file ORDER BY line) AS push FROM malformed
                WHERE {not self.rows_are_lines}
            ), pushes AS (
                SELECT file, line - push + 1 AS pushed_from, max(push) AS push FROM numbered GROUP BY ALL
            )
            SELECT path AS file, line + coalesce(push, 0) AS line, reason, raw
            FROM bad ASOF LEFT JOIN pushes ON bad.file = pushes.file AND bad.line >= pushes.pushed_from
            UNION ALL
            SELECT path, line, reason, raw FROM malformed JOIN files USING (file) WHERE reason IS NOT NULL
        )"""


def new_tables(con: duckdb.DuckDBPyConnection, fields: Sequence[str], name: str = "log") -> None:
    """The tables `log` and `malformed`, which take file after file: a row's id is its place in the log."""
    con.execute(f"CREATE TABLE {name} (file BIGINT, {', '.join(f'{field} VARCHAR' for field in fields)})")
    con.execute("CREATE TABLE malformed (file BIGINT, line BIGINT, reason VARCHAR, raw VARCHAR)")


def make_file_table(
    con: duckdb.DuckDBPyConnection,
    files: Sequence[LogFile],
    first_rows: Sequence[int],
    first_lines: Sequence[int],
) -> None:
    """The table `files`, from the first row and the first line of rows of each."""
    con.execute("CREATE TABLE files (file BIGINT, path VARCHAR, row_to_line BIGINT)")
    begins = zip(first_rows, first_lines, strict=True)
    columns: dict[str, Sequence[object]] = {
        "file": list(range(len(files))),
        "path": [str(file) for file in files],
        "row_to_line": [line - row for row, line in begins],
    }
    sql.insert(con, "files", columns)


def begins_of(con: duckdb.DuckDBPyConnection, table: str, n_files: int) -> list[int]:
    """The row at which each file begins; one that has none begins anywhere."""
    begins = con.execute(f"SELECT file, min(rowid) FROM {table} GROUP BY file").fetchall()
    rows: dict[int, int] = dict(begins)
    return [rows.get(number, 0) for number in range(n_files)]


def insert_fields(
    con: duckdb.DuckDBPyConnection, number: int, fields: Mapping[str, str], query: str, order: str = ""
) -> None:
    """Insert the rows of a query into `log`; fields that are not given are null."""
    values = ", ".join(f"{fields.get(field, 'NULL')} AS {field}" for field in FIELDS)
    con.execute(f"INSERT INTO log BY NAME SELECT {number} AS file, {values} FROM {query} {order}")


def csv_query(
    con: duckdb.DuckDBPyConnection, file: Path, columns: Sequence[str], **options: bool | int | str
) -> str:
    """A file's columns as text; lines that do not fit go to the table `refused` when it is read."""
    con.execute("DROP TABLE IF EXISTS refused; DROP TABLE IF EXISTS refused_scans")
    types = ", ".join(f"{sql.text(column)}: 'VARCHAR'" for column in columns)
    said = "".join(
        f", {name} = {sql.text(value) if isinstance(value, str) else value}"
        for name, value in options.items()
    )
    return f"""read_csv(
        {sql.text(str(file))}, columns = {{{types}}}, auto_detect = false, header = false, comment = '',
        store_rejects = true, rejects_limit = 0, rejects_table = 'refused', rejects_scan = 'refused_scans'
        {said}
    )"""


def lines_query(con: duckdb.DuckDBPyConnection, plain: Plain) -> str:
    """The lines as they are, in the column `line`; it is null where they are empty."""
    # The unit separator stands for none at all: a line is one field.
    return csv_query(con, plain.path, ["line"], delim="\x1f", quote="", escape="", strict_mode=False)


def insert_malformed(
    con: duckdb.DuckDBPyConnection, number: int, query: str, reason: str | None, raw: str = "raw"
) -> None:
    """Insert into `malformed` the lines of a query, and what they hold."""
    con.execute(f"INSERT INTO malformed SELECT {number}, line, {sql.text(reason)}, {raw} FROM {query}")


def insert_left_out(con: duckdb.DuckDBPyConnection, number: int, plain: Plain) -> None:
    """Insert into `malformed` the lines that are too long, or no text."""
    if plain.left_out:
        columns: dict[str, Sequence[object]] = {
            "file": [number] * len(plain.left_out),
            "line": [out.line for out in plain.left_out],
            "reason": [out.reason for out in plain.left_out],
            "raw": [out.raw for out in plain.left_out],
        }
        sql.insert(con, "malformed", columns)


def source_of(
    file: LogFile,
    kind: str,
    format_: LogFormat,
    columns: Mapping[str, str],
    **more: object,
) -> SourceFile:
    """What was detected of a file."""
    name = kind if format_.name == "csv" else f"{format_.name} ({kind})"
    found = {"path": str(file), "format": name, "columns": dict(columns), **more}
    return SourceFile.model_validate(found)


def plain_source(
    file: Path, kind: str, format_: LogFormat, columns: Mapping[str, str], plain: Plain, n_header: int = 0
) -> SourceFile:
    """What was detected of a file of text."""
    return source_of(
        file,
        kind,
        format_,
        columns,
        compression=plain.packed,
        encoding=plain.encoding,
        lines=plain.lines,
        sample=plain.sample(n_header),
    )


def check_names(file: LogFile, names: Sequence[str], wanted: Mapping[str, str], format_: LogFormat) -> None:
    """Raises `PrepareError` when the column wanted for a field is not there, or there twice."""
    for field, name in wanted.items():
        if name not in names:
            there = ", ".join(map(repr, names))
            raise PrepareError(f"{file}: there is no column {name!r}, but {there}{format_.naming(field)}")
        if names.count(name) > 1:
            raise PrepareError(f"{file}: more than one column is called {name!r}")
