"""JSON lines: an object a line, which is a click or has a list of them."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ibis
import pyarrow as pa
from ibis.backends.duckdb import Backend
from ibis.expr.types import ArrayColumn, BooleanColumn, StringColumn, Table

from training.data.dataset import SourceFile
from training.data.reading.detect import is_json, is_parquet, json_object
from training.data.reading.files import reading
from training.data.reading.lines import PrepareError, first_line, plain_text
from training.data.reading.parquet_log import insert_parquet_objects
from training.data.reading.presets import FIELDS, LogFormat
from training.data.reading.reasons import (
    EXACT,
    INEXACT,
    NO_ID,
    chosen,
    is_blank,
    is_nothing,
    judged_log,
    raw_of,
)
from training.data.reading.snowplow import MACRO, snowplow_object
from training.data.reading.tables import (
    Log,
    begins_of,
    file_table,
    insert_left_out,
    new_tables,
    plain_source,
    read_lines,
)


def read_json(con: Backend, files: Sequence[Path], format_: LogFormat, work: Path | None = None) -> Log:
    """Read logs with a JSON object a line, a click or an object with a list of them.

    A name `a.b` is `b` within `a`, and `a[k].b` within that of the list `a` whose `key` is `k`. Rows of
    Parquet and lines of Snowplow are made such objects first. Raises `PrepareError`.
    """
    lines, malformed = new_tables(con, ["line"], "lines")
    con.raw_sql(MACRO)
    sources: list[SourceFile] = []
    with tempfile.TemporaryDirectory(dir=work) as directory:
        for number, file in enumerate(files):
            with reading(file):
                if is_parquet(file):
                    sources.append(insert_parquet_objects(con, number, file, format_))
                    continue
                is_object, is_snowplow = is_json(file), format_.name == "snowplow"
                if not is_object and not is_snowplow:
                    raise PrepareError(
                        f"{file}: has no JSON object on its first line, other than the first file"
                    )
                with plain_text(file, Path(directory), format_.encoding) as plain:
                    text = read_lines(con, plain)
                    text = text if is_object else text.select(line=snowplow_object(text.line))
                    con.insert("lines", text.mutate(file=number))
                    insert_left_out(con, number, plain)
                    kind = "json" if is_object else "tsv"
                    sources.append(plain_source(file, kind, format_, format_.columns, plain))
    # Rows are numbered over all files, as the lines are.
    first_rows = begins_of(lines, len(files))
    text = lines.mutate(row=lines.rowid()).filter(lines.line.notnull())
    is_object = _json_valid(text.line).cast("boolean") & text.line.re_search(r"^\s*\{")
    nested = format_.nested
    if nested and json_object(sources[0].sample and first_line(files[0])).keys() >= {format_.item}:
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
    _check_found(log, sources[0], format_)
    rows = log.mutate(raw=raw_of(log, format_))
    if nested and not format_.tick:
        format_ = replace(format_, tick="place")  # in the list
    files_ = file_table(con, files, first_rows, [1] * len(files))
    read = judged_log(rows, malformed, files_, format_, sources, rows_are_lines=True)
    return replace(read, other_events=Counter(read.other_events) + Counter(others))


def _json_fields(
    con: Backend, text: Table, format_: LogFormat, nested: str | None
) -> tuple[Table, Table | None, dict[int, int]]:
    """The table `log` of the fields of every click; the lines whose list of clicks is empty; other events."""
    columns, inner = format_.columns, format_.inner if nested else ()
    beside = {f: _json_text(text.line, name, f) for f, name in columns.items() if f not in inner}
    if format_.visitor:
        visitor, session = _json_text(text.line, format_.visitor, "session"), beside["session"]
        is_nobody = ibis.or_(*(is_blank(part) | is_nothing(part, format_) for part in (visitor, session)))
        beside["session"] = ibis.cases(
            *((part.startswith(mark), part) for part in (visitor, session) for mark in (INEXACT, NO_ID)),
            (is_nobody, None),
            else_=visitor + ibis.literal(".") + session,
        )
    if not nested:
        fields = {field: beside.get(field, ibis.null("string")) for field in FIELDS}
        return con.create_table("log", text.select("file", "row", **fields), overwrite=True), None, {}
    others: dict[int, int] = {}
    listed = text.mutate(clicks=_json_extract(text.line, f"{_json_path(nested)}[*]"), **beside)
    if "event" in beside:
        listed, others = chosen(listed, format_)
    clicks = listed.select(
        "file", "row", *beside, click=listed.clicks.unnest(), tick=ibis.range(listed.clicks.length()).unnest()
    )
    fields = {field: clicks[field] for field in beside} | {"tick": clicks.tick.cast("string")}
    fields |= {field: _json_text(clicks.click, columns[field], field) for field in inner}
    fields = {field: fields.get(field, ibis.null("string")) for field in FIELDS}
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
        (is_inexact.fill_null(False), ibis.literal(INEXACT) + text),
        (kind.isin(["ARRAY", "OBJECT"]).fill_null(False), ibis.literal(NO_ID) + text),
        else_=text,
    )


def _json_path(name: str) -> str:
    return "$" + "".join(f'."{part}"' for part in name.replace('"', "").split("."))


def _check_found(log: Table, first: SourceFile, format_: LogFormat) -> None:
    """Of the names that are asked for, each must be somewhere; what single lines lack is missing there."""
    found = log.aggregate(rows=log.count(), **{field: log[field].count() for field in FIELDS[:3]})
    counts = found.to_pyarrow().to_pylist()[0]
    for field in FIELDS[:3]:
        if counts["rows"] and not counts[field]:
            path = Path(first.path)
            names = [] if is_parquet(path) else json_object(first_line(path))
            seen = ", ".join(map(repr, names)) or first.sample
            raise PrepareError(f"{path}: no line has {format_.columns[field]!r}; the first has {seen}")


@ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator]
    name="json_extract_string", signature=(("string", "string"), "array<string>")
)
def _json_strings(text: StringColumn, path: str) -> ArrayColumn: ...


@ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator]
    name="json_type", signature=(("string", "string"), "string")
)
def _json_type(text: StringColumn, path: str) -> StringColumn: ...


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
