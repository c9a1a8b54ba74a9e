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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import duckdb
import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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

FormatName = Literal[
    "csv",
    "yoochoose",
    "diginetica",
    "retailrocket",
    "otto",
    "rees46",
    "ga4",
    "snowplow",
    "segment",
    "sessions",
]
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
EXACT = 2**53  # from here on, whole numbers are not all floats
_INEXACT, _NO_ID = "\x1f~", "\x1f{"  # before what stands for an id and is none
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
    nested: str | None = None  # of a JSON line: the list of its clicks
    inner: tuple[str, ...] = ()  # the fields that are taken from within the list, not beside it
    visitor: str | None = None  # of a JSON line: whose session it is, where sessions are numbered by visitor
    separator: str | None = None  # to be found, if it is not said
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
OTTO = LogFormat(
    "session",
    "aid",
    "ts",
    "milliseconds",
    event="type",
    nested="events",
    inner=("item", "time", "event"),
    name="otto",
)
REES46 = LogFormat("user_session", "product_id", "event_time", "iso", event="event_type", name="rees46")
# The tables that Google Analytics 4 exports to BigQuery, taken out as JSON lines or as Parquet.
GA4 = LogFormat(
    "event_params[ga_session_id].value.int_value",
    "item_id",
    "event_timestamp",
    "microseconds",
    event="event_name",
    events=("view_item",),
    nested="items",
    inner=("item",),
    visitor="user_pseudo_id",
    name="ga4",
)
# Calls of `track`, named as Segment's specification of a shop's events names them.
SEGMENT = LogFormat(
    "anonymousId",
    "properties.product_id",
    "timestamp",
    "iso",
    by_visitor=True,
    event="event",
    events=("Product Viewed", "Product Clicked"),
    name="segment",
)
_SNOWPLOW = "com_snowplowanalytics_snowplow_ecommerce"
# Enriched events, as they are (131 columns between tabs) or as the analytics SDKs make JSON of them: what the
# plugin for shops tracks, an action with its products.
SNOWPLOW = LogFormat(
    "domain_sessionid",
    "id",
    "derived_tstamp",
    "iso",
    event=f"unstruct_event_{_SNOWPLOW}_snowplow_ecommerce_action_1.type",
    events=("product_view",),
    nested=f"contexts_{_SNOWPLOW}_product_1",
    inner=("item",),
    name="snowplow",
)
_SNOWPLOW_COLUMNS = """
app_id platform etl_tstamp collector_tstamp dvce_created_tstamp event event_id txn_id name_tracker
v_tracker v_collector v_etl user_id user_ipaddress user_fingerprint domain_userid domain_sessionidx
network_userid geo_country geo_region geo_city geo_zipcode geo_latitude geo_longitude geo_region_name
ip_isp ip_organization ip_domain ip_netspeed page_url page_title page_referrer page_urlscheme
page_urlhost page_urlport page_urlpath page_urlquery page_urlfragment refr_urlscheme refr_urlhost
refr_urlport refr_urlpath refr_urlquery refr_urlfragment refr_medium refr_source refr_term mkt_medium
mkt_source mkt_term mkt_content mkt_campaign contexts se_category se_action se_label se_property se_value
unstruct_event tr_orderid tr_affiliation tr_total tr_tax tr_shipping tr_city tr_state tr_country
ti_orderid ti_sku ti_name ti_category ti_price ti_quantity pp_xoffset_min pp_xoffset_max pp_yoffset_min
pp_yoffset_max useragent br_name br_family br_version br_type br_renderengine br_lang br_features_pdf
br_features_flash br_features_java br_features_director br_features_quicktime br_features_realplayer
br_features_windowsmedia br_features_gears br_features_silverlight br_cookies br_colordepth br_viewwidth
br_viewheight os_name os_family os_manufacturer os_timezone dvce_type dvce_ismobile dvce_screenwidth
dvce_screenheight doc_charset doc_width doc_height tr_currency tr_total_base tr_tax_base tr_shipping_base
ti_currency ti_price_base base_currency geo_timezone mkt_clickid mkt_network etl_tags dvce_sent_tstamp
refr_domain_userid refr_dvce_tstamp derived_contexts domain_sessionid derived_tstamp event_vendor
event_name event_format event_version event_fingerprint true_tstamp
"""
SNOWPLOW_COLUMNS = tuple(_SNOWPLOW_COLUMNS.split())


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


def detect_format(file: Path) -> FormatName:
    """Tell the format by the first line; what no other format claims is read as `csv`."""
    check_file(file)
    if _is_parquet(file):
        with _reading(file):
            names = pq.read_schema(file).names
        return "ga4" if {"event_timestamp", "user_pseudo_id", "items"} <= set(names) else "csv"
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
    if len(line.split("\t")) == len(SNOWPLOW_COLUMNS):
        return "snowplow"
    names = set(_object(line))
    marks: dict[FormatName, set[str]] = {
        "otto": {"session", "events"},
        "ga4": {"event_name", "event_timestamp", "user_pseudo_id"},
        "snowplow": {"derived_tstamp", "collector_tstamp", "event_vendor"},
        "segment": {"anonymousId", "type", "timestamp", "messageId"},
    }
    return next((name for name, marked in marks.items() if marked <= names), "csv")


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
    for file, times in Counter(files).items():
        if times > 1:
            tell(f"{file}: is named {times} times, and read once")
    return list(dict.fromkeys(files))


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
    first_lines, sources, by_line = list[int](), list[SourceFile](), list[Path]()
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
                    begin, source, is_by_line = _insert_csv(con, number, file, plain, format_)
                    by_line += [file] * is_by_line
                    first_lines.append(begin)
                    sources.append(source)
    rows = log.mutate(row=log.rowid(), raw=_joined(log, format_))
    files_ = _file_table(con, files, _first_rows(log, len(files)), first_lines)
    return replace(_log(rows, malformed, files_, format_, sources), by_line=tuple(by_line))


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
    rows = _judged(rows, format_, units)
    return Log(rows, malformed, files, tuple(sources), other_events, rows_are_lines=rows_are_lines)


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


def read_any(con: Backend, files: Sequence[Path], format_: LogFormat, work: Path | None = None) -> Log:
    """Read logs with one click a row, or with what `format_` says of a line. Raises `PrepareError`."""
    in_lines = is_json(files[0]) or (format_.nested and (format_.visitor or format_.name == "snowplow"))
    return (read_json if in_lines else read_log)(con, files, format_, work)


def read_json(con: Backend, files: Sequence[Path], format_: LogFormat, work: Path | None = None) -> Log:
    """Read logs with a JSON object a line, a click or an object with a list of them.

    A name `a.b` is `b` within `a`, and `a[k].b` within that of the list `a` whose `key` is `k`. Rows of
    Parquet and lines of Snowplow are made such objects first. Raises `PrepareError`.
    """
    lines, malformed = _new_tables(con, ["line"], "lines")
    con.raw_sql(_SNOWPLOW_MACRO)
    sources: list[SourceFile] = []
    with tempfile.TemporaryDirectory(dir=work) as directory:
        for number, file in enumerate(files):
            with _reading(file):
                if _is_parquet(file):
                    sources.append(_insert_parquet_objects(con, number, file, format_))
                    continue
                is_object, is_snowplow = is_json(file), format_.name == "snowplow"
                if not is_object and not is_snowplow:
                    raise PrepareError(
                        f"{file}: has no JSON object on its first line, other than the first file"
                    )
                with plain_text(file, Path(directory), format_.encoding) as plain:
                    text = _read_lines(con, plain)
                    text = text if is_object else text.select(line=_snowplow_object(text.line))
                    con.insert("lines", text.mutate(file=number))
                    _insert_left_out(con, number, plain)
                    kind = "json" if is_object else "tsv"
                    sources.append(_plain_source(file, kind, format_, format_.columns, plain))
    # Rows are numbered over all files, as the lines are.
    first_rows = _first_rows(lines, len(files))
    text = lines.mutate(row=lines.rowid()).filter(lines.line.notnull())
    is_object = _json_valid(text.line).cast("boolean") & text.line.re_search(r"^\s*\{")
    nested = format_.nested
    if nested and _object(sources[0].sample and first_line(files[0])).keys() >= {format_.item}:
        nested = None
    log, has_none, others = _json_fields(con, text.filter(is_object), format_, nested)
    begins = pa.table(
        {"file": pa.array(range(len(files)), pa.int64()), "first": pa.array(first_rows, pa.int64())}
    )
    for bad, reason in ((text.filter(~is_object), "malformed_row"), (has_none, "no_events")):
        if bad is not None:
            bad = bad.join(ibis.memtable(begins), "file")
            bad = bad.select("file", line=bad.row - bad.first + 1, reason=ibis.literal(reason), raw=bad.line)
            con.insert("malformed", bad)
    con.drop_table("lines")
    _check_names(log, sources[0], format_)
    rows = log.mutate(raw=_joined(log, format_))
    if nested and not format_.tick:
        format_ = replace(format_, tick="place")  # in the list
    files_ = _file_table(con, files, first_rows, [1] * len(files))
    read = _log(rows, malformed, files_, format_, sources, rows_are_lines=True)
    return replace(read, other_events=Counter(read.other_events) + Counter(others))


def _json_fields(
    con: Backend, text: Table, format_: LogFormat, nested: str | None
) -> tuple[Table, Table | None, dict[int, int]]:
    """The table `log` of the fields of every click; the lines whose list of clicks is empty; other events."""
    columns, inner = format_.columns, format_.inner if nested else ()
    beside = {f: _json_text(text.line, name, f) for f, name in columns.items() if f not in inner}
    if format_.visitor:
        visitor = _json_text(text.line, format_.visitor, "session")
        beside["session"] = visitor + ibis.literal(".") + beside["session"]
    if not nested:
        fields = {field: beside.get(field, ibis.null("string")) for field in _FIELDS}
        return con.create_table("log", text.select("file", "row", **fields), overwrite=True), None, {}
    others: dict[int, int] = {}
    listed = text.mutate(clicks=_json_extract(text.line, f"{_json_path(nested)}[*]"), **beside)
    if "event" in beside:
        listed, others = _chosen(listed, format_)
    clicks = listed.select(
        "file", "row", *beside, click=listed.clicks.unnest(), tick=ibis.range(listed.clicks.length()).unnest()
    )
    fields = {field: clicks[field] for field in beside} | {"tick": clicks.tick.cast("string")}
    fields |= {field: _json_text(clicks.click, columns[field], field) for field in inner}
    fields = {field: fields.get(field, ibis.null("string")) for field in _FIELDS}
    log = con.create_table("log", clicks.select("file", "row", **fields), overwrite=True)
    return log, listed.filter(listed.clicks.length() == 0).select("file", "row", "line"), others


def _json_text(value: StringColumn, name: str, field: str) -> StringColumn:
    """What a name stands for within JSON; of an id, nothing that a number would make up."""
    keyed = re.fullmatch(r"(.+)\[(.+)\]\.(.+)", name)
    if keyed:
        path, key, name = keyed.groups()
        entries = _json_extract(value, f"{_json_path(path)}[*]")
        keys = _json_strings(value, f"{_json_path(path)}[*].key")
        value = entries[keys.index(key)].cast("string")
    path = _json_path(name)
    text = _json_extract_string(value, path)
    if field not in ("session", "item"):
        return text
    kind = _json_type(value, path)
    is_inexact = (kind == "DOUBLE") & ~(text.try_cast("float64").abs() < EXACT)
    return ibis.cases(
        (is_inexact.fill_null(False), ibis.literal(_INEXACT) + text),
        (kind.isin(["ARRAY", "OBJECT"]).fill_null(False), ibis.literal(_NO_ID) + text),
        else_=text,
    )


def _json_path(name: str) -> str:
    return "$" + "".join(f'."{part}"' for part in name.replace('"', "").split("."))


def _object(line: str) -> dict[str, object]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _check_names(log: Table, first: SourceFile, format_: LogFormat) -> None:
    """Of the names that are asked for, each must be somewhere; what single lines lack is missing there."""
    found = log.aggregate(rows=log.count(), **{field: log[field].count() for field in _FIELDS[:3]})
    counts = found.to_pyarrow().to_pylist()[0]
    for field in _FIELDS[:3]:
        if counts["rows"] and not counts[field]:
            path = Path(first.path)
            names = [] if _is_parquet(path) else _object(first_line(path))
            seen = ", ".join(map(repr, names)) or first.sample
            raise PrepareError(f"{path}: no line has {format_.columns[field]!r}; the first has {seen}")


def _insert_parquet_objects(con: Backend, number: int, file: Path, format_: LogFormat) -> SourceFile:
    """Insert a file's rows into `lines`, with the columns that are asked for."""
    schema = pq.read_schema(file)
    beside = [name for field, name in format_.columns.items() if field not in format_.inner]
    names = [re.split(r"[.\[]", name)[0] for name in (*beside, format_.visitor, format_.nested) if name]
    _check_names_of(file, schema.names, names)
    columns = ", ".join(f"'{name}': \"{name}\"" for name in dict.fromkeys(names))
    path = str(file).replace("'", "''")
    con.raw_sql(
        f"INSERT INTO lines (file, line) SELECT {number}, to_json({{{columns}}})::VARCHAR "
        f"FROM read_parquet('{path}')"
    )
    lines = con.table("lines")
    lines = lines.filter(lines.file == number)
    sample = lines.head(1).line.to_pyarrow().to_pylist()
    return _source(
        file,
        "parquet",
        format_,
        format_.columns,
        lines=lines.count().to_pyarrow().as_py(),
        sample=shortened("".join(sample)),
    )


# Of the events of Snowplow's plugin for shops.
_SNOWPLOW_MACRO = f"""
    CREATE OR REPLACE TEMP MACRO snowplow_object(session, derived, collector, contexts, event) AS json_object(
        'domain_sessionid', nullif(session, ''),
        'derived_tstamp', coalesce(nullif(derived, ''), collector),
        '{SNOWPLOW.nested}', CASE WHEN json_valid(contexts) THEN [
            json_extract(context, '$.data') FOR context IN json_extract(contexts, '$.data[*]')
            IF json_extract_string(context, '$.schema')
                LIKE 'iglu:com.snowplowanalytics.snowplow.ecommerce/product/%'
        ] END,
        'unstruct_event_{_SNOWPLOW}_snowplow_ecommerce_action_1', CASE
            WHEN json_valid(event) AND json_extract_string(event, '$.data.schema')
                LIKE 'iglu:com.snowplowanalytics.snowplow.ecommerce/snowplow_ecommerce_action/%'
            THEN json_extract(event, '$.data.data')
        END
    )::VARCHAR
"""


def _snowplow_object(line: StringColumn) -> StringColumn:
    """What is asked for of an enriched event, named as in the SDKs' JSON; other lines stay as they are."""
    fields = line.split("\t")
    field = {name: fields[place] for place, name in enumerate(SNOWPLOW_COLUMNS)}
    of_session = (field["domain_sessionid"], field["derived_tstamp"], field["collector_tstamp"])
    found = _snowplow(*of_session, field["contexts"], field["unstruct_event"])
    return (fields.length() == len(SNOWPLOW_COLUMNS)).ifelse(found, line)


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
) -> tuple[int, SourceFile, bool]:
    """Insert a file's rows into `log`, and its other lines into `malformed`.

    Tells at which line its rows begin, what was detected, and whether it had to be read line by line.
    """
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
        return n_header + 1, source, False
    for table in ("log", "malformed"):
        con.raw_sql(f"DELETE FROM {table} WHERE file = {number}")
    split = _Splitter(separator, len(names), plain.has_quotes)
    lines = con.create_table("lines", _read_lines(con, plain), overwrite=True)
    records = lines.mutate(n=lines.rowid() + 1)
    records = records.filter((records.n > n_header) & records.line.notnull())
    _join_records(con, n_header, split)
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
    return n_header + 1, source, True


def _csv_header(file: Path, plain: Plain, format_: LogFormat) -> tuple[list[str], str, int]:
    """The names of the columns, what separates them, and how many lines that takes.

    That is taken for the separator which yields the columns asked for, unless the file says it: `sep=;`.
    """
    if format_.header:
        return list(format_.header), format_.separator or ",", 0
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


def _join_records(con: Backend, n_header: int, split: _Splitter) -> None:
    """Put a record that goes over several lines of the table `lines` on its first one."""
    if not split.has_quotes:
        return
    lines = con.table("lines")
    lines = lines.select(n=lines.rowid() + 1, line=lines.line.fill_null(""))
    is_tidy = split.is_record(lines.line, split.tidy_field)
    broken = lines.filter((lines.n > n_header) & ~is_tidy).order_by("n").limit(_MOST_BROKEN)
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
        elif value.type().is_floating() and field in ("session", "item"):
            # Whole numbers beside a missing one are often stored as floats: 17.0 is the item "17". Where
            # floats skip whole numbers, it may have been another.
            exact = EXACT if value.type().is_float64() else 2**24
            whole = value.try_cast("int64")
            fields[field] = ibis.cases(
                (value.isnan(), None),
                (~(value.abs() < exact), ibis.literal(_INEXACT) + value.cast("string")),
                (value == whole, whole.cast("string")),
                else_=value.cast("string"),
            )
        elif value.type().is_decimal() and field in ("session", "item"):
            fields[field] = value.cast("string").re_replace(r"\.0*$", "")
        elif value.type().is_nested() and field in ("session", "item"):
            fields[field] = ibis.literal(_NO_ID) + value.cast("string")
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
    _check_names_of(file, names, list(_columns_of(format_, names).values()))


def _check_names_of(file: Path, names: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in names:
            raise PrepareError(f"{file}: there is no column {name!r}, but {', '.join(map(repr, names))}")
        if names.count(name) > 1:
            raise PrepareError(f"{file}: more than one column is called {name!r}")


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise PrepareError(f"{file}: cannot be read: {error}") from error  # how Arrow tells of damage
    except (duckdb.Error, pa.ArrowException, UnicodeDecodeError) as error:
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
        (session.startswith(_INEXACT) | rows.item.startswith(_INEXACT), "inexact_id"),
        (session.startswith(_NO_ID) | rows.item.startswith(_NO_ID), "malformed_id"),
        # Of Google Analytics, where visitors may refuse to be known, no fault of the log.
        (_is_blank(session), "no_session" if format_.visitor else f"missing_{who}"),
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


# Numbers are told apart by size, from the year 1973 to 2128.
_SIZES: dict[TimeFormat, tuple[float, float]] = {
    "seconds": (1e8, 5e9),
    "milliseconds": (1e11, 5e12),
    "microseconds": (1e14, 5e15),
    "nanoseconds": (1e17, 5e18),
}
_WRITTEN_AS_NUMBER = (1900_01_01_00_00_00, 2100_01_01_00_00_00)


def _time_units(rows: Table, paths: Sequence[str], format_: LogFormat) -> dict[int, TimeFormat]:
    """The unit of each file's times: the one that nearly all of them are like.

    A file without one time that is like any takes the unit of the others.
    """
    if format_.time_format != "auto":
        return dict.fromkeys(range(len(paths)), format_.time_format)
    number = rows.time.try_cast("float64")
    likes = {unit: (number >= low) & (number < end) for unit, (low, end) in _SIZES.items()}
    # What is a number is not looked at again: that would take longer than all else.
    low, end = _WRITTEN_AS_NUMBER
    iso = _iso_microseconds(rows.time).notnull()
    likes["iso"] = number.notnull().ifelse((number >= low) & (number < end), iso)
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
        first = rows.time.first().to_pyarrow().as_py()
        raise PrepareError(
            f"{paths[0]}: the format of the times is not clear ({first!r} and the others are neither "
            "ISO-8601 nor seconds or less since 1970): write them so, or say --time-format"
        )
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
    is_compact = time.re_search(r"^\s*(19|20)\d{6}T?\d{6}Z?\s*$")
    digits = trimmed.replace("T", "")
    return ibis.cases(
        (is_local, _epoch_us(time.try_cast("timestamp"))),
        (has_offset, _epoch_us(time.try_cast("timestamp('UTC')"))),
        (says_utc, _epoch_us(trimmed.substr(0, trimmed.length() - 3).try_cast("timestamp"))),
        (is_compact, _epoch_us(_try_strptime(digits.substr(0, 14), "%Y%m%d%H%M%S"))),
    )


# DuckDB's own function, which Ibis lacks.
@ibis.udf.scalar.builtin(name="epoch_us", signature=(("timestamp",), "int64"))  # type: ignore[untyped-decorator]
def _epoch_us(timestamp: Column) -> IntegerColumn: ...


@ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator]
    name="try_strptime", signature=(("string", "string"), "timestamp")
)
def _try_strptime(text: StringColumn, format_: str) -> Column: ...


@ibis.udf.scalar.builtin(name="decode", signature=(("binary",), "string"))  # type: ignore[untyped-decorator]
def _decode(value: Column) -> StringColumn: ...


@ibis.udf.scalar.builtin(name="try", signature=(("string",), "string"))  # type: ignore[untyped-decorator]
def _try(value: StringColumn) -> StringColumn: ...


@ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator]
    name="regexp_extract_all", signature=(("string", "string", "int64"), "array<string>")
)
def _regexp_extract_all(text: StringColumn, pattern: str, group: int) -> ArrayColumn: ...


@ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator]
    name="json_extract_string", signature=(("string", "string"), "array<string>")
)
def _json_strings(text: StringColumn, path: str) -> ArrayColumn: ...


@ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator]
    name="json_type", signature=(("string", "string"), "string")
)
def _json_type(text: StringColumn, path: str) -> StringColumn: ...


@ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator]
    name="snowplow_object", signature=(("string",) * 5, "string")
)
def _snowplow(
    session: StringColumn,
    derived: StringColumn,
    collector: StringColumn,
    contexts: StringColumn,
    event: StringColumn,
) -> StringColumn: ...


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
    fields = [log[field].fill_null("") for field in format_.columns]
    return ibis.literal(",").join(fields).re_replace(f"{_INEXACT[0]}[~{{]", "")
