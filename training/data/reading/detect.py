"""What a file holds, told by its content: its first bytes and its first line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq

from training.data.reading.files import check_file, reading
from training.data.reading.lines import PrepareError, first_line, magic
from training.data.reading.presets import (
    DIGINETICA,
    OTTO,
    REES46,
    RETAILROCKET,
    SEPARATORS,
    SNOWPLOW_COLUMNS,
    FormatName,
    LogFormat,
)


def detect_format(file: Path) -> FormatName:
    """Tell the format by the first line; what no other format claims is read as `csv`."""
    check_file(file)
    if is_parquet(file):
        with reading(file):
            names = pq.read_schema(file).names
        return "ga4" if {"event_timestamp", "user_pseudo_id", "items"} <= set(names) else "csv"
    line = first_line(file)
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
    for separator in SEPARATORS:
        columns = {column.strip(' "') for column in line.split(separator)}
        for name, preset in headers.items():
            if columns >= set(preset.columns.values()):
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


def is_json(file: Path) -> bool:
    """Whether a file has a JSON object a line."""
    return not is_parquet(file) and first_line(file).lstrip().startswith("{")


def is_parquet(file: Path) -> bool:
    """Whether a file is Parquet, by its content. Raises `PrepareError` where only its name says so."""
    is_parquet = magic(file).startswith(b"PAR1")
    if file.suffix == ".parquet" and not is_parquet:
        raise PrepareError(f"{file}: cannot be read: it is no Parquet, whatever its name says")
    return is_parquet


def json_object(line: str) -> dict[str, object]:
    """The JSON object in a line; an empty one, if there is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
