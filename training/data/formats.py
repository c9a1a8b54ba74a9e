"""Click logs: from files of five formats to one table of rows, each a click or the reason why it is none.

Every field is read as text into DuckDB and given its meaning there, so that a bad row is named, counted and
set aside instead of stopping the read.
"""

from __future__ import annotations

import csv
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb
import ibis
import pyarrow as pa
from ibis.backends.duckdb import Backend
from ibis.expr.types import BooleanColumn, Column, IntegerColumn, StringColumn, Table

from service.ranking.bundle import MAX_ITEM_ID_LENGTH

FormatName = Literal["csv", "yoochoose", "diginetica", "retailrocket", "sessions"]
TimeFormat = Literal["auto", "seconds", "milliseconds", "iso"]

SECOND = 1_000_000  # times are whole microseconds: float seconds would put a click on the wrong side of a cut
_YEAR_10000 = 253_402_300_800 * SECOND
_FIELDS = ("session", "item", "time", "tick", "event")
_SEPARATORS = (",", "\t", ";", "|")


class PrepareError(ValueError):
    """The data set cannot be prepared; the message says which file, column or option is wrong."""


@dataclass(frozen=True)
class LogFormat:
    """Which columns of a log make a click, and how they are read."""

    session: str
    item: str
    time: str
    time_format: TimeFormat = "auto"
    by_visitor: bool = False  # `session` names a visitor, whose clicks are yet to be cut into sessions
    by_day: bool = False  # times are whole days
    tick: str | None = None  # orders the clicks of a session that share a time
    event: str | None = None
    events: tuple[str, ...] = ()  # the values of `event` that are clicks
    header: tuple[str, ...] = ()  # names the columns of a file without a header line

    @property
    def columns(self) -> dict[str, str]:
        """Field of the log table -> column of the file."""
        columns = {field: getattr(self, field) for field in _FIELDS}
        return {field: column for field, column in columns.items() if column}


YOOCHOOSE = LogFormat(
    "session", "item", "timestamp", "iso", header=("session", "timestamp", "item", "category")
)
DIGINETICA = LogFormat("sessionId", "itemId", "eventdate", "iso", by_day=True, tick="timeframe")
RETAILROCKET = LogFormat(
    "visitorid", "itemid", "timestamp", "milliseconds", by_visitor=True, event="event", events=("view",)
)


@dataclass(frozen=True)
class Log:
    """What the files hold; `rows` is an expression over the text that was read, not a table yet.

    `rows`: file, row, session, item (text), time (epoch microseconds), tick, reason, raw. A row without a
    `reason` is a click; (time, tick, row) is the order of clicks. `row` counts on from file to file.
    `malformed`: file, line, raw of the lines that could not be split into fields.
    `files`: file, path, row_to_line.
    `other_events`: how many rows are not in `rows` because they are no clicks, and rightly so.
    """

    rows: Table
    malformed: Table
    files: Table
    other_events: int = 0

    @property
    def rejected(self) -> Table:
        """file, line, reason, raw of every row that is no click; blank lines do not count as lines."""
        bad = self.rows.filter(self.rows.reason.notnull()).join(self.files, "file")
        bad = bad.mutate(line=bad.row + bad.row_to_line)
        # Each malformed line pushes the rows after it one line down.
        before = ibis.row_number().over(group_by=self.malformed.file, order_by=self.malformed.line)
        pushes = self.malformed.select("file", pushed_from=self.malformed.line - before, push=before + 1)
        bad = bad.asof_join(pushes, bad.line >= pushes.pushed_from, "file")
        malformed = self.malformed.join(self.files, "file")
        return ibis.union(
            bad.select("reason", "raw", file="path", line=bad.line + bad.push.fill_null(0)),
            malformed.select("raw", "line", file="path", reason=ibis.literal("malformed_row")),
        ).select("file", "line", "reason", "raw")


def detect_format(file: Path) -> FormatName:
    """Tell the format by the first line; what no other format claims is read as `csv`."""
    check_file(file)
    if file.suffix == ".parquet":
        return "csv"
    line = _first_line(file)
    if re.fullmatch(r"\d+( \d+)*\s*", line):
        return "sessions"
    if re.match(r"\d+,\d{4}-\d\d-\d\dT[\d:.]+Z,\d+", line):
        return "yoochoose"
    if set(DIGINETICA.columns.values()) <= set(line.split(";")):
        return "diginetica"
    if set(RETAILROCKET.columns.values()) <= set(line.split(",")):
        return "retailrocket"
    return "csv"


def check_file(file: Path) -> None:
    """Raises `PrepareError` that says why there is nothing to read."""
    try:
        status = file.stat()
        if stat.S_ISDIR(status.st_mode):
            empty_name = ", which an empty name stands for, too" if file == Path() else ""
            raise PrepareError(
                f"{file}: is a directory{empty_name}: name the files in it; what `collect` wrote is read "
                "with --format clicks"
            )
        if not stat.S_ISREG(status.st_mode):
            raise PrepareError(f"{file}: is a pipe or a device, and a log is read twice: write it to a file")
        with file.open("rb"):
            pass
    except FileNotFoundError:
        if file.is_symlink():
            raise PrepareError(f"{file}: is a link to {file.readlink()}, which does not exist") from None
        raise PrepareError(f"{file}: there is no such file") from None
    except NotADirectoryError:
        above = next(parent for parent in file.parents if parent.is_file())
        raise PrepareError(f"{file}: there is no such file: {above} is a file, not a directory") from None
    except OSError as error:
        raise PrepareError(f"{file}: cannot be read: {error.strerror}") from error
    if not status.st_size:
        raise PrepareError(f"{file}: the file is empty")


def read_log(con: Backend, files: Sequence[Path], format_: LogFormat) -> Log:
    """Read logs with one click a row, CSV or Parquet. Raises `PrepareError`."""
    log, malformed = _new_tables(con, _FIELDS)
    first_rows = []
    for number, file in enumerate(files):
        first_rows.append(log.count().to_pyarrow().as_py())
        with _reading(file):
            if file.suffix == ".parquet":
                con.insert("log", _parquet_fields(con, file, format_).mutate(file=number))
            else:
                con.insert("log", _csv_fields(con, file, format_).mutate(file=number))
                con.insert("malformed", _refused_lines(con).mutate(file=number))
    first_lines = [1 if file.suffix == ".parquet" or format_.header else 2 for file in files]
    rows = log.mutate(row=log.rowid(), raw=_joined(log, format_))
    other_events = 0
    if format_.events:
        is_click = rows.event.isin(format_.events).fill_null(False)
        other_events = (~is_click).sum().to_pyarrow().as_py() or 0
        rows = rows.filter(is_click)
    time_format = _detect_time_format(rows) if format_.time_format == "auto" else format_.time_format
    return Log(
        _judged(rows, format_, time_format),
        malformed,
        _file_table(con, files, first_rows, first_lines),
        other_events,
    )


def read_sessions(con: Backend, files: Sequence[Path]) -> Log:
    """Read text with one session a line, in time order, its items between spaces. Raises `PrepareError`."""
    log, malformed = _new_tables(con, ["line"])
    first_rows = []
    for number, file in enumerate(files):
        first_rows.append(log.count().to_pyarrow().as_py())
        with _reading(file):
            # The unit separator stands for none at all: a line is one field.
            lines = _read_csv(
                con, file, ["line"], header=False, delim="\x1f", quote="", escape="", strict_mode=False
            )
            con.insert("log", lines.mutate(file=number))
            con.insert("malformed", _refused_lines(con).mutate(file=number))
    words = log.select("file", row=log.rowid(), words=log.line.strip().re_split(r"\s+"))
    clicks = words.select(
        "file", "row", item=words.words.unnest(), tick=ibis.range(words.words.length()).unnest()
    )
    rows = clicks.mutate(
        session=clicks.row.cast("string"),
        time=clicks.row,
        reason=ibis.cases((_is_blank(clicks.item), "missing_item"), (_is_bad_id(clicks.item), "bad_item_id")),
        raw=clicks.item,
    )
    return Log(rows, malformed, _file_table(con, files, first_rows, [1] * len(files)))


def _new_tables(con: Backend, fields: Sequence[str]) -> tuple[Table, Table]:
    """The tables `log` and `malformed`, which take file after file: a row's id is its place in the log."""
    log = con.create_table("log", schema=ibis.schema({"file": "int64", **dict.fromkeys(fields, "string")}))
    malformed = ibis.schema({"file": "int64", "line": "int64", "raw": "string"})
    return log, con.create_table("malformed", schema=malformed)


def _file_table(
    con: Backend, files: Sequence[Path], first_rows: Sequence[int], first_lines: Sequence[int]
) -> Table:
    numbers = range(len(files))
    columns = {
        "file": pa.array(numbers, pa.int64()),
        "path": pa.array([str(file) for file in files], pa.string()),
        "row_to_line": pa.array([first_lines[i] - first_rows[i] for i in numbers], pa.int64()),
    }
    return con.create_table("files", pa.table(columns))


def _csv_fields(con: Backend, file: Path, format_: LogFormat) -> Table:
    names, separator = _csv_header(file, format_)
    # By place: the names of columns that are not asked for may be repeated, or empty.
    columns = [f"column{place}" for place in range(len(names))]
    text = _read_csv(con, file, columns, header=not format_.header, delim=separator, quote='"', escape='"')
    return _fields({field: text[columns[names.index(name)]] for field, name in format_.columns.items()}, text)


def _csv_header(file: Path, format_: LogFormat) -> tuple[list[str], str]:
    """The names of the columns, and what separates them: that which yields the columns asked for."""
    if format_.header:
        return list(format_.header), ","
    line, wanted = _first_line(file), set(format_.columns.values())
    headers = {separator: next(csv.reader([line], delimiter=separator), []) for separator in _SEPARATORS}
    separator = max(headers, key=lambda s: (len(wanted & set(headers[s])), len(headers[s])))
    _check_columns(file, headers[separator], format_)
    return headers[separator], separator


def _parquet_fields(con: Backend, file: Path, format_: LogFormat) -> Table:
    table = con.read_parquet(file)
    _check_columns(file, table.columns, format_)
    fields = {}
    for field, name in format_.columns.items():
        value = table[name]
        if value.type().is_floating() and field in ("session", "item"):
            # Whole numbers beside a missing one are often stored as floats: 17.0 is the item "17".
            whole = value.try_cast("int64")
            fields[field] = ibis.cases(
                (value.isnan(), None), (value == whole, whole.cast("string")), else_=value.cast("string")
            )
        else:
            fields[field] = value.cast("string")
    return _fields(fields, table)


def _fields(fields: Mapping[str, StringColumn], table: Table) -> Table:
    return table.select(**{field: fields.get(field, ibis.null("string")) for field in _FIELDS})


def _check_columns(file: Path, names: Sequence[str], format_: LogFormat) -> None:
    for name in format_.columns.values():
        if name not in names:
            raise PrepareError(f"{file}: there is no column {name!r}, but {', '.join(map(repr, names))}")
        if names.count(name) > 1:
            raise PrepareError(f"{file}: more than one column is called {name!r}")


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise PrepareError(f"{file}: cannot be read: {str(error).splitlines()[0]}") from error


def _read_csv(con: Backend, file: Path, columns: Sequence[str], **options: bool | str) -> Table:
    """A file's columns as text; lines that do not fit go to the table `refused` when it is read."""
    con.drop_table("refused", force=True)
    con.drop_table("refused_scans", force=True)
    return con.read_csv(
        file,
        columns=dict.fromkeys(columns, "VARCHAR"),
        store_rejects=True,
        rejects_limit=0,
        rejects_table="refused",
        rejects_scan="refused_scans",
        **options,
    )


def _refused_lines(con: Backend) -> Table:
    # One line may be refused for several of its columns.
    refused = con.table("refused")
    return refused.group_by(line=refused.line.cast("int64")).agg(raw=refused.csv_line.min())


def _judged(rows: Table, format_: LogFormat, time_format: TimeFormat) -> Table:
    """Give every row its time, its tick, and the reason why it is no click, where there is one."""
    if time_format == "iso":
        time = _iso_microseconds(rows.time)
        is_finite = ibis.literal(True)
    else:
        number = rows.time.try_cast("float64")
        time = (number * (SECOND if time_format == "seconds" else SECOND / 1000)).try_cast("int64")
        is_finite = ~(number.isnan() | number.isinf())
    tick = rows.tick.try_cast("int64") if format_.tick else ibis.literal(0)
    reason = ibis.cases(
        (_is_blank(rows.session), "missing_visitor" if format_.by_visitor else "missing_session"),
        (_is_blank(rows.item), "missing_item"),
        (_is_bad_id(rows.item), "bad_item_id"),
        (_is_blank(rows.time), "missing_time"),
        (~is_finite, "time_not_finite"),
        (time.isnull() | tick.isnull(), "unparsable_time"),
        (time < 0, "negative_time"),
        (time >= _YEAR_10000, "time_out_of_range"),
    )
    return rows.mutate(time=time, tick=tick, reason=reason)


def _detect_time_format(rows: Table) -> TimeFormat:
    """The one format that fits any row; numbers are told apart by size, from the year 1973 to 5138."""
    number = rows.time.try_cast("float64")
    fits: dict[TimeFormat, BooleanColumn] = {
        "seconds": (number >= 1e8) & (number < 1e11),
        "milliseconds": (number >= 1e11) & (number < 1e14),
        "iso": _iso_microseconds(rows.time).notnull(),
    }
    counts = rows.aggregate(rows.count().name("rows"), **{name: fit.sum() for name, fit in fits.items()})
    found = counts.to_pyarrow().to_pylist()[0]
    likely = [name for name in fits if found[name]]
    if not found["rows"]:
        return "iso"  # any will do
    if len(likely) != 1:
        seen = ", ".join(f"{found[name]:,} like {name}" for name in likely) or "none like any"
        raise PrepareError(f"the format of the times is not clear ({seen}): say --time-format")
    return likely[0]


def _iso_microseconds(time: StringColumn) -> IntegerColumn:
    """Epoch microseconds; a time without an offset is UTC."""
    # DuckDB's TIMESTAMP overlooks offsets, and its TIMESTAMPTZ may take what has none for local time.
    is_local = time.re_search(r"^\s*\d{4}-\d\d-\d\d([T ][\d:.,]+)?\s*$")
    has_offset = time.re_search(r"^\s*\d{4}-\d\d-\d\d[T ][\d:.,]+(Z|[+-]\d\d(:?\d\d)?)\s*$")
    return ibis.cases(
        (is_local, _epoch_us(time.try_cast("timestamp"))),
        (has_offset, _epoch_us(time.try_cast("timestamp('UTC')"))),
    )


# DuckDB's own function, which Ibis lacks.
@ibis.udf.scalar.builtin(name="epoch_us", signature=(("timestamp",), "int64"))  # type: ignore[untyped-decorator]
def _epoch_us(timestamp: Column) -> IntegerColumn: ...


def _is_blank(text: StringColumn) -> BooleanColumn:
    return ~text.re_search(r"\S").fill_null(False)


def _is_bad_id(item: StringColumn) -> BooleanColumn:
    """`service.ranking.bundle.item_id_problem`, out of core: too long, or holding a control character."""
    return (item.length() > MAX_ITEM_ID_LENGTH) | item.re_search(r"\p{Cc}")


def _joined(log: Table, format_: LogFormat) -> StringColumn:
    return ibis.literal(",").join([log[field].fill_null("") for field in format_.columns])


def _first_line(file: Path) -> str:
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        return stream.readline(1 << 20).rstrip("\r\n")
