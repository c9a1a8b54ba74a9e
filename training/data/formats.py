"""Click logs: from files of several formats to one table of rows, each a click or the reason why it is none.

Every field is read as text into DuckDB and given its meaning there, so that a bad row is named, counted and
set aside instead of stopping the read. Every line is accounted for.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import duckdb

from training.data.dataset import SourceFile
from training.data.reading import sql
from training.data.reading.csv_log import insert_csv
from training.data.reading.detect import detect_format, is_json, is_parquet
from training.data.reading.files import check_file, log_files, reading
from training.data.reading.json_log import read_json
from training.data.reading.lines import PrepareError, plain_text
from training.data.reading.parquet_log import insert_parquet
from training.data.reading.presets import (
    DIGINETICA,
    EVENT,
    FIELDS,
    GA4,
    NOTHING,
    OTTO,
    REES46,
    RETAILROCKET,
    SEGMENT,
    SESSIONS,
    SNOWPLOW,
    YOOCHOOSE,
    LogFormat,
)
from training.data.reading.reasons import is_bad_id, is_blank, judged_log, raw_of
from training.data.reading.remote import LogFile
from training.data.reading.session_rows import read_session_rows
from training.data.reading.tables import (
    Log,
    begins_of,
    insert_left_out,
    lines_query,
    make_file_table,
    new_tables,
    plain_source,
)
from training.data.reading.times import SECOND, check_time_format

__all__ = [
    "DIGINETICA",
    "EVENT",
    "GA4",
    "NOTHING",
    "OTTO",
    "REES46",
    "RETAILROCKET",
    "SECOND",
    "SEGMENT",
    "SESSIONS",
    "SNOWPLOW",
    "YOOCHOOSE",
    "Log",
    "LogFile",
    "LogFormat",
    "PrepareError",
    "check_file",
    "detect_format",
    "is_json",
    "is_parquet",
    "log_files",
    "read_any",
    "read_json",
    "read_log",
    "read_sessions",
]


def read_any(
    con: duckdb.DuckDBPyConnection, files: Sequence[LogFile], format_: LogFormat, work: Path | None = None
) -> Log:
    """Read logs with one click a row, or with what `format_` says of a line. Raises `PrepareError`."""
    if format_.name == "sessions":
        return read_session_rows(con, files)
    check_time_format(format_.time_format)
    in_lines = is_json(files[0]) or (format_.nested and (format_.visitor or format_.name == "snowplow"))
    if not in_lines:
        return read_log(con, files, format_, work)
    paths = [file for file in files if isinstance(file, Path)]
    if remote := [file for file in files if not isinstance(file, Path)]:
        raise PrepareError(
            f"{remote[0]}: of an object store, Parquet with a click or a session a row is read"
        )
    return read_json(con, paths, format_, work)


def read_log(
    con: duckdb.DuckDBPyConnection, files: Sequence[LogFile], format_: LogFormat, work: Path | None = None
) -> Log:
    """Read logs with one click a row, CSV or Parquet. Copies made on the way lie in `work`.

    Raises `PrepareError`.
    """
    new_tables(con, FIELDS)
    first_lines, sources, by_line = list[int](), list[SourceFile](), list[Path]()
    with tempfile.TemporaryDirectory(dir=work) as directory:
        for number, file in enumerate(files):
            with reading(file):
                if is_parquet(file):
                    sources.append(insert_parquet(con, number, file, format_))
                    first_lines.append(1)
                    continue
                assert isinstance(file, Path)  # others are Parquet
                if is_json(file):
                    raise PrepareError(f"{file}: has a JSON object on its first line, other than {files[0]}")
                with plain_text(file, Path(directory), format_.encoding) as plain:
                    begin, source, is_by_line = insert_csv(con, number, file, plain, format_)
                    by_line += [file] * is_by_line
                    first_lines.append(begin)
                    sources.append(source)
    make_file_table(con, files, begins_of(con, "log", len(files)), first_lines)
    rows = f"(SELECT *, rowid AS row, {raw_of(format_)} AS raw FROM log)"
    return replace(judged_log(con, rows, format_, sources), by_line=tuple(by_line))


def read_sessions(con: duckdb.DuckDBPyConnection, files: Sequence[LogFile], work: Path | None = None) -> Log:
    """Read text with one session a line, in time order, its items between spaces. Raises `PrepareError`."""
    new_tables(con, ["line"])
    sources: list[SourceFile] = []
    format_ = LogFormat("line", "word", "line", name="sessions")
    with tempfile.TemporaryDirectory(dir=work) as directory:
        for number, file in enumerate(files):
            if not isinstance(file, Path) or is_parquet(file):
                raise PrepareError(f"{file}: is Parquet, other than {files[0]}")
            with reading(file), plain_text(file, Path(directory)) as plain:
                con.execute(f"INSERT INTO log SELECT {number}, line FROM {lines_query(con, plain)}")
                insert_left_out(con, number, plain)
                sources.append(plain_source(file, "text", format_, {}, plain))
    make_file_table(con, files, begins_of(con, "log", len(files)), [1] * len(files))
    words = rf"string_split_regex({sql.stripped('line')}, '\s+')"
    reason = sql.cases((is_blank("item"), "'missing_item'"), (is_bad_id("item"), "'bad_item_id'"))
    rows = f"""(
        SELECT *, row::VARCHAR AS session, row AS time, {reason} AS reason, item AS raw FROM (
            SELECT file, row, unnest(words) AS item, unnest(range(len(words))) AS tick
            FROM (SELECT file, rowid AS row, {words} AS words FROM log)
        )
    )"""
    return Log(con, rows, tuple(sources), {}, rows_are_lines=True)
