"""Click logs: from files of several formats to one table of rows, each a click or the reason why it is none.

Every field is read as text into DuckDB and given its meaning there, so that a bad row is named, counted and
set aside instead of stopping the read.

Every line is accounted for. `lines.py` counts them before DuckDB reads; when its CSV reader yields another
number of rows, or gives up, as it does at a quote that is never closed, the file is read again line by line,
and each line split by itself.
"""

from __future__ import annotations

import csv
import functools
import glob
import json
import operator
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import duckdb
import ibis
import numpy as np
import pyarrow as pa
from ibis.backends.duckdb import Backend
from ibis.expr.types import (
    ArrayColumn,
    BooleanColumn,
    Column,
    FloatingColumn,
    IntegerColumn,
    StringColumn,
    Table,
)

from service.ranking.bundle import MAX_ITEM_ID_LENGTH
from training.data.dataset import SourceFile
from training.data.lines import LONGEST_LINE, Plain, first_line, magic, plain_text, shortened
from training.data.lines import PrepareError as PrepareError

FormatName = Literal["csv", "yoochoose", "diginetica", "retailrocket", "otto", "rees46", "sessions"]
TimeFormat = Literal["auto", "seconds", "milliseconds", "microseconds", "nanoseconds", "iso"]

SECOND = 1_000_000  # times are whole microseconds: float seconds would put a click on the wrong side of a cut
_YEAR_10000 = 253_402_300_800 * SECOND
_FIELDS = ("session", "item", "time", "tick", "event")
_SEPARATORS = (",", "\t", ";", "|")
EVENT = "*event*"  # stands for the first of those that a file has
_EVENTS = ("event_type", "event_name", "event", "type")
_MOST_JOINED = 100  # lines of one record
_NEARLY_ALL = 0.99  # of a file's times
_MOST_BROKEN = 100_000  # lines that are looked at for such records
# What stands for nothing in logs as people export them: R, pandas, SQL, MySQL, BigQuery, GA4, JavaScript.
NOTHING = ("NA", "N/A", "NaN", "nan", "NULL", "null", "None", "\\N", "(null)", "(not set)", "undefined")


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
    nothing: tuple[str, ...] = NOTHING  # what stands for no id, and for no time
    nobody_alone: bool = False  # a click of nobody is a session of its own, instead of none
    encoding: str = "auto"
    nested: str | None = None  # of a JSON line: the list of its clicks, which `session` stands beside
    name: str = "csv"

    @property
    def columns(self) -> dict[str, str]:
        """Field of the log table -> column of the file."""
        columns = {field: getattr(self, field) for field in _FIELDS}
        return {field: column for field, column in columns.items() if column}


YOOCHOOSE = LogFormat(
    "session",
    "item",
    "timestamp",
    "iso",
    header=("session", "timestamp", "item", "category"),
    name="yoochoose",
)
DIGINETICA = LogFormat(
    "sessionId",
    "itemId",
    "eventdate",
    "iso",
    by_day=True,
    tick="timeframe",
    name="diginetica",
)
RETAILROCKET = LogFormat(
    "visitorid",
    "itemid",
    "timestamp",
    "milliseconds",
    by_visitor=True,
    event="event",
    events=("view",),
    name="retailrocket",
)
OTTO = LogFormat("session", "aid", "ts", "milliseconds", event="type", nested="events", name="otto")
REES46 = LogFormat("user_session", "product_id", "event_time", "iso", event="event_type", name="rees46")


@dataclass(frozen=True)
class Log:
    """What the files hold; `rows` is an expression over the text that was read, not a table yet.

    `rows`: file, row, session, item (text), time (epoch microseconds), tick, reason, raw. A row without a
    `reason` is a click; (time, tick, row) is the order of clicks. `row` counts on from file to file.
    `malformed`: file, line, reason, raw of the lines that could not be split into fields; those without a
    reason are blank, or belong to the record that began before.
    `files`: file, path, row_to_line.
    `other_events`: by file, how many rows are not in `rows` because they are no clicks, and rightly so.
    `sources`: what was detected of each file; what is to be counted is not, yet.
    """

    rows: Table
    malformed: Table
    files: Table
    sources: tuple[SourceFile, ...]
    other_events: Mapping[int, int]
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


def detect_format(file: Path) -> FormatName:
    """Tell the format by the first line; what no other format claims is read as `csv`."""
    check_file(file)
    if _is_parquet(file):
        return "csv"
    line = first_line(file)
    if re.fullmatch(r"\d+( \d+)*\s*", line):
        return "sessions"
    if re.match(r"\d+,\d{4}-\d\d-\d\dT[\d:.]+Z,\d+", line):
        return "yoochoose"
    if set(DIGINETICA.columns.values()) <= set(line.split(";")):
        return "diginetica"
    if set(RETAILROCKET.columns.values()) <= set(line.split(",")):
        return "retailrocket"
    for name, preset in (("otto", OTTO), ("rees46", REES46)):
        if set(preset.columns.values()) <= set(line.split(",")):
            return name  # type: ignore[return-value]
    if {"session", "events"} <= set(_object(line)):
        return "otto"
    return "csv"


def _is_parquet(file: Path) -> bool:
    is_parquet = magic(file).startswith(b"PAR1")
    if file.suffix == ".parquet" and not is_parquet:
        raise PrepareError(f"{file}: cannot be read: it is no Parquet, whatever its name says")
    return is_parquet


def log_files(paths: Sequence[Path], tell: Callable[[str], None] = lambda word: None) -> list[Path]:
    """The files that `paths` name: a directory stands for all files in it, and `*` for those that match.

    Of such, names that begin with `_` or `.` are marks of who wrote them; a part without a byte is told of
    and skipped. Raises `PrepareError`.
    """
    files: list[Path] = []
    for path in paths:
        # Of os.path, for which a name that is too long is one that does not exist.
        is_directory = path != Path() and os.path.isdir(path) and not (path / "commit.json").exists()
        if is_directory:
            parts = sorted(part for part in path.rglob("*") if part.is_file())
            parts = [part for part in parts if not _is_mark(part.relative_to(path))]
        elif glob.has_magic(str(path)) and not os.path.exists(path):
            parts = [Path(part) for part in sorted(glob.glob(str(path), recursive=True))]
            parts = [part for part in parts if part.is_file() and not _is_mark(Path(part.name))]
            if not parts:
                raise PrepareError(f"{path}: no file matches")
        else:
            files.append(path)
            continue
        empty = [part for part in parts if not part.stat().st_size]
        for part in empty:
            tell(f"{part}: is empty, and skipped")
        if parts and len(empty) == len(parts):
            raise PrepareError(f"{path}: every file of it is empty")
        files += [part for part in parts if part not in empty] or [path]
    return files


def _is_mark(path: Path) -> bool:
    return any(part.startswith(("_", ".")) for part in path.parts)


def check_file(file: Path) -> None:
    """Raises `PrepareError` that says why there is nothing to read."""
    try:
        status = file.stat()
        if stat.S_ISDIR(status.st_mode):
            empty_name = ", which an empty name stands for, too" if file == Path() else ""
            raise PrepareError(
                f"{file}: is a directory{empty_name or ' without a log'}: name the files; what `collect` "
                "wrote is read with --format clicks"
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


def read_log(con: Backend, files: Sequence[Path], format_: LogFormat, work: Path | None = None) -> Log:
    """Read logs with one click a row, CSV or Parquet. Copies made on the way lie in `work`.

    Raises `PrepareError`.
    """
    log, malformed = _new_tables(con, _FIELDS)
    first_lines, sources = list[int](), list[SourceFile]()
    with tempfile.TemporaryDirectory(dir=work) as directory:
        for number, file in enumerate(files):
            with _reading(file):
                if _is_parquet(file):
                    sources.append(_insert_parquet(con, number, file, format_))
                    first_lines.append(1)
                    continue
                if is_json(file):
                    raise PrepareError(f"{file}: has a JSON object on its first line, other than {files[0]}")
                with plain_text(file, Path(directory), format_.encoding) as plain:
                    begin, source = _insert_csv(con, number, file, plain, format_)
                    first_lines.append(begin)
                    sources.append(source)
    rows = log.mutate(row=log.rowid(), raw=_joined(log, format_))
    files_ = _file_table(con, files, _first_rows(log, len(files)), first_lines)
    return _log(rows, malformed, files_, format_, sources)


def _log(
    rows: Table,
    malformed: Table,
    files: Table,
    format_: LogFormat,
    sources: Sequence[SourceFile],
    rows_are_lines: bool = False,
) -> Log:
    """The log, when every file is in the table `log`."""
    rows, other_events = _chosen(rows, format_)
    units = _time_units(rows, [source.path for source in sources], format_)
    sources = [source.model_copy(update={"time_unit": units[n]}) for n, source in enumerate(sources)]
    return Log(_judged(rows, format_, units), malformed, files, tuple(sources), other_events, rows_are_lines)


def _source(
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


def _plain_source(
    file: Path, kind: str, format_: LogFormat, columns: Mapping[str, str], plain: Plain, n_header: int = 0
) -> SourceFile:
    return _source(
        file,
        kind,
        format_,
        columns,
        compression=plain.packed,
        encoding=plain.encoding,
        lines=plain.lines,
        sample=plain.sample(n_header),
    )


def is_json(file: Path) -> bool:
    """Whether a file has a JSON object a line."""
    return not _is_parquet(file) and first_line(file).lstrip().startswith("{")


def read_json(con: Backend, files: Sequence[Path], format_: LogFormat, work: Path | None = None) -> Log:
    """Read logs with a JSON object a line, a click or a session of clicks; a name `a.b` is `b` within `a`.

    Raises `PrepareError`.
    """
    lines, malformed = _new_tables(con, ["line"], "lines")
    sources: list[SourceFile] = []
    with tempfile.TemporaryDirectory(dir=work) as directory:
        for number, file in enumerate(files):
            if not is_json(file):
                raise PrepareError(f"{file}: has no JSON object on its first line, other than the first file")
            nested = format_.nested if format_.nested in _object(first_line(file)) else None
            _check_json(file, format_, nested)
            with _reading(file), plain_text(file, Path(directory), format_.encoding) as plain:
                con.insert("lines", _read_lines(con, plain).mutate(file=number))
                _insert_left_out(con, number, plain)
                sources.append(_plain_source(file, "json", format_, format_.columns, plain))
    # Rows are numbered over all files, as the lines are.
    first_rows = _first_rows(lines, len(files))
    text = lines.mutate(row=lines.rowid()).filter(lines.line.notnull())
    is_object = _json_valid(text.line).cast("boolean") & text.line.re_search(r"^\s*\{")
    log, has_none = _json_fields(con, text.filter(is_object), format_, nested)
    begins = pa.table(
        {"file": pa.array(range(len(files)), pa.int64()), "first": pa.array(first_rows, pa.int64())}
    )
    for bad, reason in ((text.filter(~is_object), "malformed_row"), (has_none, "no_events")):
        if bad is not None:
            bad = bad.join(ibis.memtable(begins), "file")
            bad = bad.select("file", line=bad.row - bad.first + 1, reason=ibis.literal(reason), raw=bad.line)
            con.insert("malformed", bad)
    con.drop_table("lines")
    rows = log.mutate(raw=_joined(log, format_))
    if nested and not format_.tick:
        format_ = replace(format_, tick="place")  # in the list
    files_ = _file_table(con, files, first_rows, [1] * len(files))
    return _log(rows, malformed, files_, format_, sources, rows_are_lines=True)


def _json_fields(
    con: Backend, text: Table, format_: LogFormat, nested: str | None
) -> tuple[Table, Table | None]:
    """The table `log` of the fields of every click, and the lines whose list of clicks is empty."""
    has_none = None
    click = text.line
    columns = format_.columns
    fields = {}
    if nested:
        listed = text.mutate(clicks=_json_extract(text.line, f"{_json_path(nested)}[*]"))
        has_none = listed.filter(listed.clicks.length() == 0).select("file", "row", "line")
        text = listed.select(
            "file",
            "row",
            session=_json_extract_string(listed.line, _json_path(columns.pop("session"))),
            click=listed.clicks.unnest(),
            tick=ibis.range(listed.clicks.length()).unnest(),
        )
        click, fields = text.click, {"session": text.session, "tick": text.tick.cast("string")}
    fields |= {field: _json_extract_string(click, _json_path(name)) for field, name in columns.items()}
    fields = {field: fields.get(field, ibis.null("string")) for field in _FIELDS}
    return con.create_table("log", text.select("file", "row", **fields), overwrite=True), has_none


def _json_path(name: str) -> str:
    return "$" + "".join(f'."{part}"' for part in name.replace('"', "").split("."))


def _object(line: str) -> dict[str, object]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _check_json(file: Path, format_: LogFormat, nested: str | None) -> None:
    """The first line must have the names that are asked for; what later ones lack is missing there."""
    first = _object(first_line(file))
    for field, name in format_.columns.items():
        if field in ("session", "item", "time") and not (nested and field != "session"):
            inner: object = first
            for part in name.split("."):
                inner = inner.get(part, first) if isinstance(inner, dict) else first
            if inner is first:
                names = ", ".join(map(repr, first))
                raise PrepareError(
                    f"{file}: line 1 has no {name!r}, but {names or 'is no whole JSON object'}"
                )


def _chosen(rows: Table, format_: LogFormat) -> tuple[Table, dict[int, int]]:
    """The rows with the events that are clicks, and how many others there are by file."""
    if not format_.events:
        return rows, {}
    is_click = rows.event.isin(format_.events).fill_null(False)
    others = rows.filter(~is_click).group_by("file").agg(others=lambda table: table.count())
    return rows.filter(is_click), {row["file"]: row["others"] for row in others.to_pyarrow().to_pylist()}


def read_sessions(con: Backend, files: Sequence[Path], work: Path | None = None) -> Log:
    """Read text with one session a line, in time order, its items between spaces. Raises `PrepareError`."""
    log, malformed = _new_tables(con, ["line"])
    sources: list[SourceFile] = []
    format_ = LogFormat("line", "word", "line", name="sessions")
    with tempfile.TemporaryDirectory(dir=work) as directory:
        for number, file in enumerate(files):
            with _reading(file), plain_text(file, Path(directory)) as plain:
                con.insert("log", _read_lines(con, plain).mutate(file=number))
                _insert_left_out(con, number, plain)
                sources.append(_plain_source(file, "text", format_, {}, plain))
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
    files_ = _file_table(con, files, _first_rows(log, len(files)), [1] * len(files))
    return Log(rows, malformed, files_, tuple(sources), {}, rows_are_lines=True)


def _new_tables(con: Backend, fields: Sequence[str], name: str = "log") -> tuple[Table, Table]:
    """The tables `log` and `malformed`, which take file after file: a row's id is its place in the log."""
    log = con.create_table(name, schema=ibis.schema({"file": "int64", **dict.fromkeys(fields, "string")}))
    malformed = ibis.schema({"file": "int64", "line": "int64", "reason": "string", "raw": "string"})
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


def _first_rows(log: Table, n_files: int) -> list[int]:
    """The row at which each file begins; one that has none begins anywhere."""
    found = log.group_by("file").agg(row=log.rowid().min()).to_pyarrow().to_pylist()
    rows = {begin["file"]: begin["row"] for begin in found}
    return [rows.get(number, 0) for number in range(n_files)]


def _insert_csv(
    con: Backend, number: int, file: Path, plain: Plain, format_: LogFormat
) -> tuple[int, SourceFile]:
    """Insert a file's rows into `log`, and its other lines into `malformed`; which line its rows begin at."""
    names, separator, n_header = _csv_header(file, plain, format_)
    columns = [f"column{place}" for place in range(len(names))]
    named = _columns_of(format_, names)
    wanted = {field: columns[names.index(name)] for field, name in named.items()}
    source = _plain_source(file, "csv", format_, named, plain, n_header)
    source = source.model_copy(update={"separator": separator})
    # By place: the names of columns that are not asked for may be repeated, or empty.
    quote = '"' if plain.has_quotes else ""
    options: dict[str, bool | int | str] = {
        "delim": separator,
        "quote": quote,
        "escape": quote,
        "skip": n_header,
    }
    try:
        text = _read_csv(con, plain.path, columns, **options)
        con.insert("log", _fields({f: text[c] for f, c in wanted.items()}, text).mutate(file=number))
        refused = con.table("refused")
        # One line may be refused for several of its columns; blank ones, which are passed over, come with it.
        lines = refused.group_by(line=refused.line.cast("int64")).agg(
            raw=refused.csv_line.re_replace(r"^[\r\n]+", "").min()
        )
        con.insert("malformed", _malformed(number, lines, "malformed_row"))
        _insert_blank(con, number, plain, n_header)
        n_read = sum(_count(con, table, number) for table in ("log", "malformed"))
    except (duckdb.InvalidInputException, duckdb.ConversionException):
        n_read = None
    if n_read == plain.lines - n_header:
        return n_header + 1, source
    for table in ("log", "malformed"):
        con.raw_sql(f"DELETE FROM {table} WHERE file = {number}")
    split = _Splitter(separator, len(names), plain.has_quotes)
    lines = con.create_table("lines", _read_lines(con, plain), overwrite=True)
    records = lines.mutate(n=lines.rowid() + 1)
    records = records.filter((records.n > n_header) & records.line.notnull())
    _join_records(con, records, split)
    is_record = split.is_record(records.line)
    good, broken = records.filter(is_record), records.filter(~is_record)
    parts = good.select("n", parts=split.fields(good.line))
    places = {field: names.index(name) for field, name in named.items()}
    fields = {field: split.unquoted(parts.parts[place]) for field, place in places.items()}
    con.insert("log", _fields(fields, parts.order_by("n")).mutate(file=number))
    con.insert("malformed", _malformed(number, broken.select(line="n", raw="line"), "malformed_row"))
    _insert_left_out(con, number, plain)
    blank = lines.mutate(n=lines.rowid() + 1).filter(lines.line.isnull())
    left_out = con.table("malformed").filter(lambda table: table.file == number)
    blank = blank.filter(blank.n > n_header).anti_join(left_out, blank.n == left_out.line)
    con.insert("malformed", _malformed(number, blank.select(line="n", raw=ibis.null("string")), None))
    n_read = sum(_count(con, table, number) for table in ("log", "malformed"))
    if n_read != plain.lines - n_header:
        raise PrepareError(f"{file}: has {plain.lines - n_header:,} lines, of which {n_read:,} were read")
    con.drop_table("lines")
    return n_header + 1, source


def _csv_header(file: Path, plain: Plain, format_: LogFormat) -> tuple[list[str], str, int]:
    """The names of the columns, what separates them, and how many lines that takes.

    That is taken for the separator which yields the columns asked for, unless the file says it: `sep=;`.
    """
    if format_.header:
        return list(format_.header), ",", 0
    with plain.path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        begin = stream.readlines(LONGEST_LINE)
    n_header = next((n for n, line in enumerate(begin, 1) if line.strip("\r\n")), len(begin))
    line = begin[n_header - 1].rstrip("\r\n")
    said = re.fullmatch(r'"?sep=(.)"?', line)
    if said:
        n_header += 1
        line = begin[n_header - 1].rstrip("\r\n") if len(begin) >= n_header else ""
    for out in plain.left_out:
        if out.line <= n_header:
            raise PrepareError(f"{file}: line {out.line}, the header, cannot be read: {out.reason}")
    wanted = set(format_.columns.values())
    separators = [said[1]] if said else _SEPARATORS
    headers = {separator: next(csv.reader([line], delimiter=separator), []) for separator in separators}
    separator = max(headers, key=lambda s: (len(wanted & set(headers[s])), len(headers[s])))
    _check_columns(file, headers[separator], format_)
    return headers[separator], separator, n_header


@dataclass(frozen=True)
class _Splitter:
    """Splits single lines into fields, each line by itself: what is wrong in one does not touch the next."""

    separator: str
    n_fields: int
    has_quotes: bool

    @property
    def _field(self) -> str:
        other = re.escape(self.separator)
        return f'[{other}]("(?:[^"]|"")*"|[^"{other}][^{other}]*|)'

    def fields(self, line: StringColumn) -> ArrayColumn:
        if not self.has_quotes:
            return line.split(self.separator)
        return _regexp_extract_all(ibis.literal(self.separator) + line, self._field, 1)

    def is_record(self, line: StringColumn, field: str | None = None) -> BooleanColumn:
        is_record = self.fields(line).length() == self.n_fields
        if not self.has_quotes:
            return is_record
        return is_record & (ibis.literal(self.separator) + line).re_search(f"^(?:{field or self._field})*$")

    @property
    def tidy_field(self) -> str:
        """A field as it should be: in one that is not quoted there is no quote."""
        other = re.escape(self.separator)
        return f'[{other}]("(?:[^"]|"")*"|[^"{other}]*)'

    def unquoted(self, field: StringColumn) -> StringColumn:
        if not self.has_quotes:
            return field
        inner = field.substr(1, field.length() - 2).replace('""', '"')
        return field.startswith('"').ifelse(inner, field)

    def joined(self, lines: Sequence[tuple[int, str]]) -> dict[int, str | None]:
        """The records that go over several lines, none of which is one by itself; the rest of their lines."""
        field, joined = re.compile(self.tidy_field), dict[int, str | None]()
        for place, (begin, text) in enumerate(lines):
            if begin in joined or text.count('"') % 2 == 0:
                continue
            for n, line in lines[place + 1 : place + _MOST_JOINED]:
                if n != begin + text.count("\n") + 1:
                    break
                text += f"\n{line}"
                whole = self.separator + text
                if text.count('"') % 2 == 0 and re.fullmatch(f"(?:{self.tidy_field})*", whole):
                    if len(field.findall(whole)) == self.n_fields:
                        joined |= {begin: text, **dict.fromkeys(range(begin + 1, n + 1))}
                    break
        return joined


def _join_records(con: Backend, records: Table, split: _Splitter) -> None:
    """Put a record that goes over several lines of the table `lines` on its first one."""
    if not split.has_quotes:
        return
    is_tidy = split.is_record(records.line, split.tidy_field)
    broken = records.filter(~is_tidy).order_by("n").limit(_MOST_BROKEN)
    joined = split.joined([(row["n"], row["line"]) for row in broken.to_pyarrow().to_pylist()])
    if joined:
        columns = {"n": pa.array(joined, pa.int64()), "line": pa.array(joined.values(), pa.string())}
        con.create_table("joined", pa.table(columns), overwrite=True)
        con.raw_sql("UPDATE lines SET line = joined.line FROM joined WHERE lines.rowid = joined.n - 1")
        con.drop_table("joined")


def _malformed(number: int, lines: Table, reason: str | None) -> Table:
    """Rows for the table `malformed` from lines and what they hold."""
    return lines.select(
        "line", "raw", file=ibis.literal(number, "int64"), reason=ibis.literal(reason, "string")
    )


def _insert_left_out(con: Backend, number: int, plain: Plain) -> None:
    if plain.left_out:
        columns = {
            "file": pa.array([number] * len(plain.left_out), pa.int64()),
            "line": pa.array([out.line for out in plain.left_out], pa.int64()),
            "reason": pa.array([out.reason for out in plain.left_out], pa.string()),
            "raw": pa.array([out.raw for out in plain.left_out], pa.string()),
        }
        con.insert("malformed", pa.table(columns))


def _insert_blank(con: Backend, number: int, plain: Plain, n_header: int) -> None:
    """Insert the lines that the reader passes over: they are blank, or left out."""
    _insert_left_out(con, number, plain)
    blank = plain.blank[plain.blank > n_header]
    blank = blank[~np.isin(blank, [out.line for out in plain.left_out])]
    if len(blank):
        table = ibis.memtable(pa.table({"line": blank}))
        con.insert("malformed", _malformed(number, table.mutate(raw=ibis.null("string")), None))


def _count(con: Backend, table: str, number: int) -> int:
    rows = con.table(table)
    count: int = rows.filter(rows.file == number).count().to_pyarrow().as_py()
    return count


def _insert_parquet(con: Backend, number: int, file: Path, format_: LogFormat) -> SourceFile:
    """Insert a file's rows into `log`."""
    table = con.read_parquet(file)  # whatever its name is
    _check_columns(file, table.columns, format_)
    named = _columns_of(format_, table.columns)
    con.insert("log", _parquet_fields(table, named).mutate(file=number))
    first = table.select(*dict.fromkeys(named.values())).head(1).to_pyarrow().to_pylist()
    return _source(
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
        elif (value.type().is_floating() or value.type().is_decimal()) and field in ("session", "item"):
            # Whole numbers beside a missing one are often stored as floats: 17.0 is the item "17".
            whole = value.try_cast("int64")
            is_nan = value.isnan() if value.type().is_floating() else ibis.literal(False)
            fields[field] = ibis.cases(
                (is_nan, None), (value == whole, whole.cast("string")), else_=value.cast("string")
            )
        else:
            fields[field] = value.cast("string")
    return _fields(fields, table)


def _fields(fields: Mapping[str, StringColumn], table: Table) -> Table:
    return table.select(**{field: fields.get(field, ibis.null("string")) for field in _FIELDS})


def _columns_of(format_: LogFormat, names: Sequence[str]) -> dict[str, str]:
    """Field of the log table -> column of a file with these columns."""
    columns = format_.columns
    if format_.event == EVENT:
        columns["event"] = next((name for name in _EVENTS if name in names), _EVENTS[0])
    return columns


def _check_columns(file: Path, names: Sequence[str], format_: LogFormat) -> None:
    for name in _columns_of(format_, names).values():
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


def _read_csv(con: Backend, file: Path, columns: Sequence[str], **options: bool | int | str) -> Table:
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


def _read_lines(con: Backend, plain: Plain) -> Table:
    """The lines as they are, in the column `line`; it is null where they are empty."""
    # The unit separator stands for none at all: a line is one field.
    return _read_csv(con, plain.path, ["line"], delim="\x1f", quote="", escape="", strict_mode=False)


def _judged(rows: Table, format_: LogFormat, units: Mapping[int, TimeFormat]) -> Table:
    """Give every row its time, its tick, and the reason why it is no click, where there is one."""
    files_of: dict[TimeFormat, list[int]] = {}
    for number, unit in units.items():
        files_of.setdefault(unit, []).append(number)
    times = {unit: _microseconds(rows.time, unit) for unit in files_of}
    number, [first, *_] = rows.time.try_cast("float64"), times
    is_finite = ~(number.isnan() | number.isinf())
    is_other = ibis.literal(False)
    time = times[first]
    if len(times) > 1:
        time = ibis.cases(*((rows.file.isin(files), times[unit]) for unit, files in files_of.items()))
    for unit, files in files_of.items():
        if unit == "iso":
            is_finite |= rows.file.isin(files)
        elif format_.time_format == "auto":
            is_other |= rows.file.isin(files) & _is_of_another_unit(number, unit)
    tick = rows.tick.try_cast("int64") if format_.tick else ibis.literal(0)
    who = "visitor" if format_.by_visitor else "session"
    is_nobody = _is_nothing(rows.session, format_)
    session = rows.session
    if format_.nobody_alone:
        is_nobody |= _is_blank(session)
        session = is_nobody.ifelse(ibis.literal("\x1f") + rows.row.cast("string"), session)
        is_nobody = ibis.literal(False)
    reason = ibis.cases(
        (_is_blank(session), f"missing_{who}"),
        (is_nobody, f"no_{who}"),
        (_is_blank(rows.item) | _is_nothing(rows.item, format_), "missing_item"),
        (_is_bad_id(rows.item), "bad_item_id"),
        (_is_blank(rows.time), "missing_time"),
        (~is_finite, "time_not_finite"),
        (_is_nothing(rows.time, format_), "missing_time"),
        (is_other, "other_time_unit"),
        (time.isnull() | tick.isnull(), "unparsable_time"),
        (time < 0, "negative_time"),
        (time >= _YEAR_10000, "time_out_of_range"),
    )
    return rows.select("file", "row", "item", "raw", session=session, time=time, tick=tick, reason=reason)


# Numbers are told apart by size, from the year 1973 to 5138.
_SIZES: dict[TimeFormat, tuple[float, float]] = {
    "seconds": (1e8, 1e11),
    "milliseconds": (1e11, 1e14),
    "microseconds": (1e14, 1e17),
    "nanoseconds": (1e17, 1e19),
}


def _time_units(rows: Table, paths: Sequence[str], format_: LogFormat) -> dict[int, TimeFormat]:
    """The unit of each file's times: the one that nearly all of them are like.

    A file without one time that is like any takes the unit of the others.
    """
    if format_.time_format != "auto":
        return dict.fromkeys(range(len(paths)), format_.time_format)
    number = rows.time.try_cast("float64")
    likes = {unit: (number >= low) & (number < end) for unit, (low, end) in _SIZES.items()}
    likes["iso"] = _iso_microseconds(rows.time).notnull()
    counts = rows.group_by("file").agg(**{unit: like.sum() for unit, like in likes.items()})
    units: dict[int, TimeFormat] = {}
    found = counts.order_by("file").to_pyarrow().to_pylist()
    for row in found:
        likely: dict[TimeFormat, int] = {unit: row[unit] for unit in likes if row[unit]}
        unit = max(likely, key=lambda unit: likely[unit], default=None)
        if unit is None:
            continue
        if likely[unit] < _NEARLY_ALL * sum(likely.values()):
            seen = ", ".join(f"{count:,} like {unit}" for unit, count in likely.items())
            raise PrepareError(
                f"{paths[row['file']]}: the format of the times is not clear ({seen}): say --time-format"
            )
        units[row["file"]] = unit
    if found and not units:
        raise PrepareError("the format of the times is not clear (none like any): say --time-format")
    usual: TimeFormat = max(units.values(), key=list(units.values()).count, default="iso")
    return {number: units.get(number, usual) for number in range(len(paths))}


def _is_of_another_unit(number: FloatingColumn, unit: TimeFormat) -> BooleanColumn:
    sizes = [size for other, size in _SIZES.items() if other != unit]
    return functools.reduce(operator.or_, ((number >= low) & (number < end) for low, end in sizes))


def _microseconds(time: StringColumn, unit: TimeFormat) -> IntegerColumn:
    if unit == "iso":
        return _iso_microseconds(time)
    if unit in ("microseconds", "nanoseconds"):  # a float cannot hold them
        whole = time.try_cast("int64")
        return whole if unit == "microseconds" else whole // 1000
    return (time.try_cast("float64") * (SECOND if unit == "seconds" else SECOND / 1000)).try_cast("int64")


def _iso_microseconds(time: StringColumn) -> IntegerColumn:
    """Epoch microseconds; a time without an offset is UTC."""
    # DuckDB's TIMESTAMP overlooks offsets, and its TIMESTAMPTZ may take what has none for local time.
    is_local = time.re_search(r"^\s*\d{4}-\d\d-\d\d([T ][\d:.,]+)?\s*$")
    has_offset = time.re_search(r"^\s*\d{4}-\d\d-\d\d[T ][\d:.,]+(Z|[+-]\d\d(:?\d\d)?)\s*$")
    says_utc = time.re_search(r"^\s*\d{4}-\d\d-\d\d[T ][\d:.,]+ ?(UTC|GMT)\s*$")
    trimmed = time.strip()
    return ibis.cases(
        (is_local, _epoch_us(time.try_cast("timestamp"))),
        (has_offset, _epoch_us(time.try_cast("timestamp('UTC')"))),
        (says_utc, _epoch_us(trimmed.substr(0, trimmed.length() - 3).try_cast("timestamp"))),
    )


# DuckDB's own function, which Ibis lacks.
@ibis.udf.scalar.builtin(name="epoch_us", signature=(("timestamp",), "int64"))  # type: ignore[untyped-decorator]
def _epoch_us(timestamp: Column) -> IntegerColumn: ...


@ibis.udf.scalar.builtin(name="decode", signature=(("binary",), "string"))  # type: ignore[untyped-decorator]
def _decode(value: Column) -> StringColumn: ...


@ibis.udf.scalar.builtin(name="try", signature=(("string",), "string"))  # type: ignore[untyped-decorator]
def _try(value: StringColumn) -> StringColumn: ...


@ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator]
    name="regexp_extract_all", signature=(("string", "string", "int64"), "array<string>")
)
def _regexp_extract_all(text: StringColumn, pattern: str, group: int) -> ArrayColumn: ...


@ibis.udf.scalar.builtin(name="json_valid", signature=(("string",), "boolean"))  # type: ignore[untyped-decorator]
def _json_valid(text: StringColumn) -> BooleanColumn: ...


@ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator]
    name="json_extract", signature=(("string", "string"), "array<string>")
)
def _json_extract(text: StringColumn, path: str) -> ArrayColumn: ...


@ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator]
    name="json_extract_string", signature=(("string", "string"), "string")
)
def _json_extract_string(text: StringColumn, path: str) -> StringColumn: ...


def _is_blank(text: StringColumn) -> BooleanColumn:
    return ~text.re_search(r"\S").fill_null(False)


def _is_nothing(text: StringColumn, format_: LogFormat) -> BooleanColumn:
    return text.strip().isin(format_.nothing).fill_null(False) if format_.nothing else ibis.literal(False)


def _is_bad_id(item: StringColumn) -> BooleanColumn:
    """`service.ranking.bundle.item_id_problem`, out of core: too long, or holding a control character."""
    return (item.length() > MAX_ITEM_ID_LENGTH) | item.re_search(r"\p{Cc}")


def _joined(log: Table, format_: LogFormat) -> StringColumn:
    return ibis.literal(",").join([log[field].fill_null("") for field in format_.columns])
