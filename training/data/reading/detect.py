"""What a file holds, told by its content: its first bytes, its first line, and the names of its columns."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from training.data.reading.files import check_file, reading
from training.data.reading.lines import PrepareError, first_line, first_lines, magic
from training.data.reading.presets import (
    DIGINETICA,
    OTTO,
    REES46,
    RETAILROCKET,
    SEPARATORS,
    SESSIONS,
    SNOWPLOW_COLUMNS,
    FormatName,
    LogFormat,
)
from training.data.reading.remote import LogFile, RemoteFile

COMMENT = "#"


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


class Header(NamedTuple):
    """The line that names the columns: its number from 1, and what separates them there and below."""

    line: str
    number: int
    separator: str

    @property
    def names(self) -> list[str]:
        is_spaced = f'{self.separator} "' in self.line
        try:
            return next(csv.reader([self.line], delimiter=self.separator, skipinitialspace=is_spaced), [])
        except csv.Error:  # it is no such line
            return []


def find_header(
    lines: Iterable[str], key: str, wanted: Collection[str], separators: Sequence[str] = SEPARATORS
) -> Header | None:
    """The first line that is not blank, a comment, or what says the separator: `sep=;`.

    It is taken for separated by what yields the most of the columns `wanted`. A line that begins with `#` is
    a comment unless it names the column `key`, with the mark as a part of the first name or without; where
    there is nothing else, the first comment is the header. None where all is blank.
    """
    comment: Header | None = None
    for number, line in enumerate(lines, 1):
        line = line.removeprefix("\ufeff").rstrip("\r\n")
        if said := re.fullmatch(r'"?sep=(.)"?\s*', line):
            separators = [said[1]]
        elif line.strip():
            forms = (line, line.lstrip(COMMENT)) if line.startswith(COMMENT) else (line,)
            headers = (Header(form, number, each) for form in forms for each in separators)
            header = max(headers, key=lambda header: _found(header, wanted))
            if len(forms) == 1 or key in map(str.strip, header.names):
                return header
            comment = comment or header
    return comment


def _found(header: Header, wanted: Collection[str]) -> tuple[int, int]:
    names = header.names
    return len({name.strip() for name in names} & set(wanted)), len(names)
