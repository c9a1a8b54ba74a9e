"""JSON lines: an object a line, which is a click or has a list of them."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import duckdb

from training.data.dataset import SourceFile
from training.data.reading import sql
from training.data.reading.detect import is_json, is_parquet, json_object
from training.data.reading.files import reading
from training.data.reading.lines import PrepareError, first_line, plain_text
from training.data.reading.parquet_log import insert_parquet_objects
from training.data.reading.presets import FIELDS, LogFormat
from training.data.reading.reasons import (
    INEXACT,
    NO_ID,
    chosen,
    float_id,
    is_blank,
    is_nothing,
    judged_log,
    raw_of,
)
from training.data.reading.snowplow import MACRO, snowplow_object
from training.data.reading.tables import (
    Log,
    begins_of,
    insert_left_out,
    lines_query,
    make_file_table,
    new_tables,
    plain_source,
)


def read_json(
    con: duckdb.DuckDBPyConnection, files: Sequence[Path], format_: LogFormat, work: Path | None = None
) -> Log:
    """Read logs with a JSON object a line, a click or an object with a list of them.

    A name `a.b` is `b` within `a`, and `a[k].b` within that of the list `a` whose `key` is `k`. Rows of
    Parquet and lines of Snowplow are made such objects first. Raises `PrepareError`.
    """
    new_tables(con, ["line"], "lines")
    con.execute(MACRO)
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
                    line = "line" if is_object else snowplow_object("line")
                    con.execute(f"INSERT INTO lines SELECT {number}, {line} FROM {lines_query(con, plain)}")
                    insert_left_out(con, number, plain)
                    kind = "json" if is_object else "tsv"
                    sources.append(plain_source(file, kind, format_, format_.columns, plain))
    # Rows are numbered over all files, as the lines are.
    first_rows = begins_of(con, "lines", len(files))
    make_file_table(con, files, first_rows, [1] * len(files))
    text = """(
        SELECT file, rowid AS row, line, json_valid(line) AND regexp_matches(line, '^\\s*\\{') AS is_object
        FROM lines WHERE line IS NOT NULL
    )"""
    nested = format_.nested
    if nested and json_object(sources[0].sample and first_line(files[0])).keys() >= {format_.item}:
        nested = None
    others = _make_json_log(con, f"(SELECT * FROM {text} WHERE is_object)", format_, nested)
    con.execute(
        f"""INSERT INTO malformed SELECT file, row + row_to_line, reason, line FROM (
            SELECT file, row, line, 'malformed_row' AS reason FROM {text} WHERE NOT is_object
            UNION ALL SELECT file, row, line, 'no_events' FROM without_clicks
        ) JOIN files USING (file)"""
    )
    con.execute("DROP TABLE lines; DROP TABLE without_clicks")
    _check_found(con, sources[0], format_)
    rows = f"(SELECT *, {raw_of(format_)} AS raw FROM log)"
    if nested and not format_.tick:
        format_ = replace(format_, tick="place")  # in the list
    read = judged_log(con, rows, format_, sources, rows_are_lines=True)
    return replace(read, other_events=Counter(read.other_events) + Counter(others))


def _make_json_log(
    con: duckdb.DuckDBPyConnection, text: str, format_: LogFormat, nested: str | None
) -> dict[int, int]:
    """Make the table `log` of the fields of every click, and count other events by file.

    And the table `without_clicks` of the lines whose list of clicks is empty.
    """
    columns, inner = format_.columns, format_.inner if nested else ()
    beside = {f: _json_text("line", name, f) for f, name in columns.items() if f not in inner}
    if format_.visitor:
        parts = _json_text("line", format_.visitor, "session"), beside["session"]
        is_nobody = " OR ".join(f"{is_blank(part)} OR {is_nothing(part, format_)}" for part in parts)
        marked = (
            (f"starts_with({part}, {sql.text(mark)})", part) for part in parts for mark in (INEXACT, NO_ID)
        )
        beside["session"] = sql.cases(*marked, (is_nobody, "NULL"), otherwise=" || '.' || ".join(parts))
    con.execute("CREATE TABLE without_clicks (file BIGINT, row BIGINT, line VARCHAR)")
    if not nested:
        fields = ", ".join(f"{beside.get(field, 'NULL::VARCHAR')} AS {field}" for field in FIELDS)
        con.execute(f"CREATE TABLE log AS SELECT file, row, {fields} FROM {text}")
        return {}
    others: dict[int, int] = {}
    fields = ", ".join(f"{value} AS {field}" for field, value in beside.items())
    clicks = f"json_extract(line, {sql.text(_json_path(nested) + '[*]')})"
    listed = f"(SELECT file, row, line, {fields}, {clicks} AS clicks FROM {text})"
    if "event" in beside:
        listed, others = chosen(con, listed, format_, has_header=False)
    con.execute(f"INSERT INTO without_clicks SELECT file, row, line FROM {listed} WHERE len(clicks) = 0")
    values = {field: field for field in beside} | {"tick": "place::VARCHAR"}
    values |= {field: _json_text("click", columns[field], field) for field in inner}
    fields = ", ".join(f"{values.get(field, 'NULL::VARCHAR')} AS {field}" for field in FIELDS)
    con.execute(
        f"""CREATE TABLE log AS SELECT file, row, {fields} FROM (
            SELECT * EXCLUDE (line, clicks), unnest(clicks) AS click, unnest(range(len(clicks))) AS place
            FROM {listed}
        )"""
    )
    return others


def _json_text(value: str, name: str, field: str) -> str:
    """What a name stands for within JSON; of an id, nothing that a number would make up."""
    keyed = re.fullmatch(r"(.+)\[(.+)\]\.(.+)", name)
    if keyed:
        path, key, name = keyed.groups()
        entries = f"json_extract({value}, {sql.text(_json_path(path) + '[*]')})"
        keys = f"json_extract_string({value}, {sql.text(_json_path(path) + '[*].key')})"
        value = f"{entries}[list_position({keys}, {sql.text(key)})]"
    path = sql.text(_json_path(name))
    found = f"json_extract_string({value}, {path})"
    if field not in ("session", "item"):
        return found
    kind = f"json_type({value}, {path})"
    return sql.cases(
        (f"{kind} = 'DOUBLE'", float_id(f"TRY_CAST({found} AS DOUBLE)", found)),
        (f"{kind} IN ('ARRAY', 'OBJECT', 'BOOLEAN')", f"{sql.text(NO_ID)} || {found}"),
        otherwise=found,
    )


def _json_path(name: str) -> str:
    return "$" + "".join(f'."{part}"' for part in name.replace('"', "").split("."))


def _check_found(con: duckdb.DuckDBPyConnection, first: SourceFile, format_: LogFormat) -> None:
    """Of the names that are asked for, each must be somewhere; what single lines lack is missing there."""
    counted = ", ".join(f"count({field}) AS {field}" for field in FIELDS[:3])
    [counts] = sql.found(con, f"SELECT count(*) AS rows, {counted} FROM log")
    for field in FIELDS[:3]:
        if counts["rows"] and not counts[field]:
            path = Path(first.path)
            names = [] if is_parquet(path) else json_object(first_line(path))
            seen = ", ".join(map(repr, names)) or first.sample
            name = format_.columns[field]
            raise PrepareError(f"{path}: no line has {name!r}; the first has {seen}{format_.naming(field)}")
