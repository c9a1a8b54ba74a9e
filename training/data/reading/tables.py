"""The tables that take file after file, with the fields of every row as text, and the log they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ibis
import pyarrow as pa
from ibis.backends.duckdb import Backend
from ibis.expr.types import StringColumn, Table

from training.data.dataset import SourceFile
from training.data.reading.lines import Plain, PrepareError
from training.data.reading.presets import FIELDS, LogFormat


@dataclass(frozen=True)
class Log:
    """What the files hold; `rows` is an expression over the text that was read, not a table yet.

    `rows`: file, row, session, item (text), time (epoch microseconds), tick, reason, raw. A row without a
    `reason` is a click; (time, tick, row) is the order of clicks. `row` counts on from file to file.
    `malformed`: file, line, reason, raw of the lines that could not be split into fields; those without a
    reason are blank, or belong to the record that began before.
    `files`: file, path, row_to_line.
    `other_events`: by file, how many rows are not in `rows` because they are no clicks, and rightly so.
    `by_line`: the files that were read line by line, which takes longer.
    `sources`: what was detected of each file; what is to be counted is not, yet.
    """

    rows: Table
    malformed: Table
    files: Table
    sources: tuple[SourceFile, ...]
    other_events: Mapping[int, int]
    by_line: tuple[Path, ...] = ()
    rows_are_lines: bool = False  # those that hold nothing, too

    @property
    def rejected(self) -> Table:
        """file, line, reason, raw of every row that is no click."""
        bad = self.rows.filter(self.rows.reason.notnull()).join(self.files, "file")
        bad = bad.mutate(line=bad.row + bad.row_to_line)
        # Each malformed line pushes the rows after it one line down.
        before = ibis.row_number().over(group_by=self.malformed.file, order_by=self.malformed.line)
        pushes = self.malformed.select("file", pushed_from=self.malformed.line - before, push=before + 1)
        pushes = pushes.group_by("file", "pushed_from").agg(push=pushes.push.max())
        if self.rows_are_lines:
            pushes = pushes.filter(ibis.literal(False))
        bad = bad.asof_join(pushes, bad.line >= pushes.pushed_from, "file")
        malformed = self.malformed.filter(self.malformed.reason.notnull()).join(self.files, "file")
        return ibis.union(
            bad.select("reason", "raw", file="path", line=bad.line + bad.push.fill_null(0)),
            malformed.select("reason", "raw", "line", file="path"),
        ).select("file", "line", "reason", "raw")


def new_tables(con: Backend, fields: Sequence[str], name: str = "log") -> tuple[Table, Table]:
    """The tables `log` and `malformed`, which take file after file: a row's id is its place in the log."""
    log = con.create_table(name, schema=ibis.schema({"file": "int64", **dict.fromkeys(fields, "string")}))
    malformed = ibis.schema({"file": "int64", "line": "int64", "reason": "string", "raw": "string"})
    return log, con.create_table("malformed", schema=malformed)


def file_table(
    con: Backend, files: Sequence[Path], first_rows: Sequence[int], first_lines: Sequence[int]
) -> Table:
    """The table `files`, from the first row and the first line of rows of each."""
    numbers = range(len(files))
    columns = {
        "file": pa.array(numbers, pa.int64()),
        "path": pa.array([str(file) for file in files], pa.string()),
        "row_to_line": pa.array([first_lines[i] - first_rows[i] for i in numbers], pa.int64()),
    }
    return con.create_table("files", pa.table(columns))


def begins_of(log: Table, n_files: int) -> list[int]:
    """The row at which each file begins; one that has none begins anywhere."""
    found = log.group_by("file").agg(row=log.rowid().min()).to_pyarrow().to_pylist()
    rows = {begin["file"]: begin["row"] for begin in found}
    return [rows.get(number, 0) for number in range(n_files)]


def select_fields(fields: Mapping[str, StringColumn], table: Table) -> Table:
    """A table of all the fields; those that are not given are null."""
    return table.select(**{field: fields.get(field, ibis.null("string")) for field in FIELDS})


def read_csv(con: Backend, file: Path, columns: Sequence[str], **options: bool | int | str) -> Table:
    """A file's columns as text; lines that do not fit go to the table `refused` when it is read."""
    con.drop_table("refused", force=True)
    con.drop_table("refused_scans", force=True)
    return con.read_csv(
        file,
        columns=dict.fromkeys(columns, "VARCHAR"),
        auto_detect=False,
        header=False,
        comment="",
        store_rejects=True,
        rejects_limit=0,
        rejects_table="refused",
        rejects_scan="refused_scans",
        **options,
    )


def read_lines(con: Backend, plain: Plain) -> Table:
    """The lines as they are, in the column `line`; it is null where they are empty."""
    # The unit separator stands for none at all: a line is one field.
    return read_csv(con, plain.path, ["line"], delim="\x1f", quote="", escape="", strict_mode=False)


def malformed_rows(number: int, lines: Table, reason: str | None) -> Table:
    """Rows for the table `malformed` from lines and what they hold."""
    return lines.select(
        "line", "raw", file=ibis.literal(number, "int64"), reason=ibis.literal(reason, "string")
    )


def insert_left_out(con: Backend, number: int, plain: Plain) -> None:
    """Insert into `malformed` the lines that are too long, or no text."""
    if plain.left_out:
        columns = {
            "file": pa.array([number] * len(plain.left_out), pa.int64()),
            "line": pa.array([out.line for out in plain.left_out], pa.int64()),
            "reason": pa.array([out.reason for out in plain.left_out], pa.string()),
            "raw": pa.array([out.raw for out in plain.left_out], pa.string()),
        }
        con.insert("malformed", pa.table(columns))


def source_of(
    file: Path,
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


def check_names(file: Path, names: Sequence[str], wanted: Iterable[str]) -> None:
    """Raises `PrepareError` when a column that is wanted is not there, or there twice."""
    for name in wanted:
        if name not in names:
            raise PrepareError(f"{file}: there is no column {name!r}, but {', '.join(map(repr, names))}")
        if names.count(name) > 1:
            raise PrepareError(f"{file}: more than one column is called {name!r}")
