"""What a file holds, told by its content: its first bytes and its first line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from training.data.reading.files import check_file, reading
from training.data.reading.header import find_header
from training.data.reading.lines import PrepareError, first_line, first_lines, magic
from training.data.reading.presets import (
    DIGINETICA,
    OTTO,
    REES46,
    RETAILROCKET,
    SESSIONS,
    SNOWPLOW_COLUMNS,
    FormatName,
    LogFormat,
)
from training.data.reading.remote import LogFile, RemoteFile


def detect_format(file: LogFile) -> FormatName:
    """Tell the format by the first line; what no other format claims is read as `csv`."""
    check_file(file)
    if is_parquet(file):
        with reading(file):
            names = set(parquet_schema(file).names)
        if {SESSIONS.session, SESSIONS.item} <= names:
            return "sessions"
        return "ga4" if {"event_timestamp", "user_pseudo_id", "items"} <= names else "csv"
    assert isinstance(file, Path)  # others are Parquet
    lines = first_lines(file)
    line = next(iter(lines), "")
    if re.fullmatch(r"\d+( \d+)*\s*", line):
        return "sessions"
    if re.match(r"\d+,\d{4}-\d\d-\d\dT[\d:.]+Z,\d+", line):
        return "yoochoose"
    headers: dict[FormatName, LogFormat] = {
        "diginetica": DIGINETICA,
        "retailrocket": RETAILROCKET,
        "otto": OTTO,
        "rees46": REES46,
    }
    for name, preset in headers.items():
        header = find_header(lines, preset.item, preset.columns.values())
        if header and {column.strip() for column in header.names} >= set(preset.columns.values()):
            return name
    if len(line.split("\t")) == len(SNOWPLOW_COLUMNS):
        return "snowplow"
    names = set(json_object(line))
    marks: dict[FormatName, set[str]] = {
        "otto": {"session", "events"},
        "ga4": {"event_name", "event_timestamp", "user_pseudo_id"},
        "snowplow": {"derived_tstamp", "collector_tstamp", "event_vendor"},
        "segment": {"anonymousId", "type", "timestamp", "messageId"},
    }
    return next((name for name, marked in marks.items() if marked <= names), "csv")


def is_json(file: LogFile) -> bool:
    """Whether a file has a JSON object a line."""
    return isinstance(file, Path) and not is_parquet(file) and first_line(file).lstrip().startswith("{")


def is_parquet(file: LogFile) -> bool:
    """Whether a file is Parquet, by its content. Raises `PrepareError` where only its name says so."""
    if isinstance(file, RemoteFile):
        return True  # or it cannot be read
    is_parquet = magic(file).startswith(b"PAR1")
    if file.suffix == ".parquet" and not is_parquet:
        raise PrepareError(f"{file}: cannot be read: it is no Parquet, whatever its name says")
    return is_parquet


def parquet_schema(file: LogFile) -> pa.Schema:
    """The columns of a file. Raises `OSError`, `pa.ArrowException`."""
    if isinstance(file, Path):
        return pq.read_schema(file)
    with file.parquet() as opened:
        return opened.schema_arrow


def json_object(line: str) -> dict[str, object]:
    """The JSON object in a line; an empty one, if there is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
