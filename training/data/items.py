"""Items in files: CSV, TSV, lines of JSON, Parquet; each row an item or the reason why it is none.

In CSV and TSV everything is text, lists are joined by a separator, and an empty cell is nothing. Times
without a zone are UTC there, and in Parquet. Lines of JSON are what the HTTP API takes.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from datetime import time as clock_time
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from service.catalogue.attributes import InvalidItem, Item, Kind, Schema, Value, Values
from training.data.reading.detect import find_header
from training.data.reading.lines import PrepareError, opened_text
from training.data.reading.presets import EXACT, ROUNDED, SEPARATORS

Format = Literal["csv", "tsv", "jsonl", "parquet"]

ITEM_ID = "item_id"
SEPARATOR = "|"
FORMATS: Mapping[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
PACKED = (".gz", ".zst", ".bz2", ".xz")
NO_TEXT = "is no text in UTF-8, or in what import is told by --encoding, such as windows-1252"
ROWS_AT_ONCE = 1000
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
ARROW_TYPES: Mapping[Kind, pa.DataType] = {
    "text": pa.string(),
    "string": pa.string(),
    "strings": pa.list_(pa.string()),
    "number": pa.float64(),
    "numbers": pa.list_(pa.float64()),
    "bool": pa.bool_(),
    "time": pa.float64(),  # seconds since 1970, as they are stored
}


class ItemsFileError(ValueError):
    """A file of items cannot be read or written; the message names it, and what is wrong with it."""


class BadRow(NamedTuple):
    """A row that is no item; `line` counts from 1, the header of a CSV is one; of Parquet it is the row."""

    line: int
    item_id: str | None
    reason: str


class Columns(NamedTuple):
    """Which column is which attribute, and which are none."""

    attributes: Mapping[str, str]  # column -> attribute, or item_id
    unknown: tuple[str, ...]


def format_of(file: Path, packed: Sequence[str] = ()) -> Format:
    """By the name, which may end in one of `packed`, too. Raises `ItemsFileError`."""
    name = file.stem if file.suffix.lower() in packed else file.name
    suffix = Path(name).suffix.lower()
    if suffix not in FORMATS:
        also = f", packed or not ({', '.join(packed)})" if packed else ""
        raise ItemsFileError(f"{file}: the name must end in one of {', '.join(FORMATS)}{also}")
    return FORMATS[suffix]


def read_items(
    file: Path,
    schema: Schema,
    *,
    renamed: Mapping[str, str] | None = None,
    separator: str = SEPARATOR,
    encoding: str = "auto",
    on_unknown: Callable[[Sequence[str]], object] = lambda _: None,
) -> Iterator[Item | BadRow]:
    """Each row of a file; `renamed`: attribute -> column; `on_unknown` is told of columns that are ignored.

    `encoding`: of text; auto tells UTF-8, 16 and 32. Raises `ItemsFileError`.
    """
    renamed = renamed or {}
    for attribute in renamed:
        if attribute != ITEM_ID and attribute not in schema.kinds:
            raise ItemsFileError(f"{attribute}: no such attribute: catalogue.toml declares a shop's own")
    kind = format_of(file, PACKED)
    try:
        if kind == "parquet":
            yield from _read_parquet(file, schema, renamed, separator, on_unknown)
            return
        with opened_text(file, encoding) as text:
            if kind == "jsonl":
                yield from _read_lines(text, schema, renamed, on_unknown)
            else:
                delimiter = "\t" if kind == "tsv" else None
                yield from _read_csv(text, file, schema, renamed, separator, on_unknown, delimiter)
    except PrepareError as error:
        raise ItemsFileError(str(error)) from error
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise ItemsFileError(f"{file}: {error}") from error


def all_items(file: Path, schema: Schema) -> dict[str, Values]:
    """What a file says of each item, the last row of each. Raises `ItemsFileError`, for a bad row as well."""
    items: dict[str, Values] = {}
    for row in read_items(file, schema):
        if isinstance(row, BadRow):
            raise ItemsFileError(f"{file}:{row.line}: {row.reason}")
        items[row.item_id] = row.values
    return items


def _columns(names: Sequence[str], schema: Schema, renamed: Mapping[str, str], file: Path) -> Columns:
    for name in {ITEM_ID, *schema.kinds, *renamed.values()}:  # others may be called alike, or nothing
        if names.count(name) > 1:
            raise ItemsFileError(f"{file}: two columns are called {name!r}")
    for attribute, column in renamed.items():
        if column not in names:
            raise ItemsFileError(
                f"{file}: no column is called {column!r}, which was to be {attribute}, but {_listed(names)}"
            )
    attributes = {column: attribute for attribute, column in renamed.items()}
    for name in names:
        if (name == ITEM_ID or name in schema.kinds) and name not in renamed:
            attributes.setdefault(name, name)
    if ITEM_ID not in attributes.values():
        raise ItemsFileError(
            f"{file}: no column is called item_id, but {_listed(names)}: name it with --column item_id=..."
        )
    others = dict.fromkeys(name for name in names if name and name not in attributes)
    return Columns(attributes, tuple(others))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _read_csv(
    text: IO[str],
    file: Path,
    schema: Schema,
    renamed: Mapping[str, str],
    separator: str,
    on_unknown: Callable[[Sequence[str]], object],
    delimiter: str | None,
) -> Iterator[Item | BadRow]:
    key, wanted = renamed.get(ITEM_ID, ITEM_ID), {ITEM_ID, *schema.kinds, *renamed.values()}
    found = find_header(iter(text.readline, ""), key, wanted, [delimiter] if delimiter else SEPARATORS)
    if found is None:
        raise ItemsFileError(f"{file}: is empty: its first line must name the columns")
    # A space after each separator is in the rows as in the header.
    is_spaced = f"{found.separator} " in found.line
    rows = csv.reader(chain([f"{found.line}\n"], text), delimiter=found.separator, skipinitialspace=is_spaced)
    header = [name.strip() for name in next(rows)]  # one may go over several lines
    columns = _columns(header, schema, renamed, file)
    on_unknown(columns.unknown)
    while True:
        line = found.number + rows.line_num
        try:
            cells = next(rows, None)
        except csv.Error as error:
            yield BadRow(line, None, f"cannot be read: {error}")
            continue
        if cells is None:
            return
        if not cells:  # a blank line
            continue
        if not _is_text("".join(cells)):
            yield BadRow(line, None, NO_TEXT)
            continue
        if len(cells) != len(header):
            yield BadRow(line, None, f"has {len(cells)} fields: the header has {len(header)}")
            continue
        yield _item(dict(zip(header, cells, strict=True)), columns, schema, separator, line)


def _is_text(line: str) -> bool:
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_lines(
    text: IO[str], schema: Schema, renamed: Mapping[str, str], on_unknown: Callable[[Sequence[str]], object]
) -> Iterator[Item | BadRow]:
    attributes = {column: attribute for attribute, column in renamed.items()}
    known = {ITEM_ID, *schema.kinds} - renamed.keys()
    told: set[str] = set()
    for line, content in enumerate(text, 1):
        content = content.removeprefix("\ufeff")
        if not content.strip():
            continue
        if not _is_text(content):
            yield BadRow(line, None, NO_TEXT)
            continue
        try:
            row = msgspec.json.decode(content, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError) as error:
            yield BadRow(line, None, f"not a JSON object: {error}")
            continue
        unknown = [name for name in row if name not in attributes and name not in known]
        if fresh := [name for name in unknown if name not in told]:
            told.update(fresh)
            on_unknown(fresh)
        yield _checked(
            {attributes.get(name, name): value for name, value in row.items() if name not in unknown},
            schema,
            line,
        )


def _read_parquet(
    file: Path,
    schema: Schema,
    renamed: Mapping[str, str],
    separator: str,
    on_unknown: Callable[[Sequence[str]], object],
) -> Iterator[Item | BadRow]:
    with pq.ParquetFile(file) as parquet:
        columns = _columns(parquet.schema_arrow.names, schema, renamed, file)
        on_unknown(columns.unknown)
        line = 0
        for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=list(columns.attributes)):
            for row in batch.to_pylist():
                line += 1
                yield _item(row, columns, schema, separator, line)


def _item(
    row: Mapping[str, Any], columns: Columns, schema: Schema, separator: str, line: int
) -> Item | BadRow:
    values: dict[str, Any] = {}
    for column, attribute in columns.attributes.items():
        cell = row[column]
        try:
            if attribute == ITEM_ID:
                values[attribute] = _id(cell)
            else:
                values[attribute] = _value(schema.kinds[attribute], cell, separator)
        except (ValueError, OverflowError) as error:
            item_id = values.get(ITEM_ID) or row.get(_column_of(columns, ITEM_ID))
            return BadRow(line, None if item_id is None else str(item_id), f"{attribute}: {error}")
    return _checked(values, schema, line)


def _column_of(columns: Columns, attribute: str) -> str:
    return next(column for column, each in columns.attributes.items() if each == attribute)


def _checked(values: Mapping[str, Any], schema: Schema, line: int) -> Item | BadRow:
    try:
        return schema.item(values, "item")
    except InvalidItem as error:
        reason = f"{error.field.removeprefix('item.')}: {error.message}"
        return BadRow(line, error.item_id, reason)


def _id(cell: Any) -> Any:
    """An item's id, as `prepare` reads it in a log. Raises `ValueError`; the schema finds the rest."""
    if isinstance(cell, str) and re.fullmatch(ROUNDED, cell.strip()):
        raise ValueError(f"{cell.strip()} is a number that a spreadsheet has rounded")
    if isinstance(cell, float):
        if math.isnan(cell):
            return None
        if not abs(cell) < EXACT:
            raise ValueError(f"{cell:g} is a float, and they do not hold numbers as large exactly")
        cell = Decimal(repr(cell))
    if isinstance(cell, Decimal):
        return re.sub(r"\.0*$", "", f"{cell:f}")
    return str(cell) if isinstance(cell, int) and not isinstance(cell, bool) else cell


def _value(kind: Kind, cell: Any, separator: str) -> Any:
    """What a cell means. Raises `ValueError`; the schema finds what this leaves."""
    if cell is None or cell == "" or cell != cell:
        return None
    if isinstance(cell, str):
        return _from_text(kind, cell, separator)
    if isinstance(cell, list):
        return [_value("string" if kind == "strings" else "number", each, separator) for each in cell]
    if isinstance(cell, Decimal):
        return float(cell)
    if isinstance(cell, datetime):
        return cell if cell.tzinfo is not None else cell.replace(tzinfo=UTC)
    if isinstance(cell, date):
        return datetime.combine(cell, clock_time(), UTC)
    if isinstance(cell, int) and not isinstance(cell, bool) and kind in ("text", "string"):
        return str(cell)
    return cell


def _from_text(kind: Kind, text: str, separator: str) -> Any:
    if kind in ("text", "string"):
        return text
    if kind in ("strings", "numbers"):
        parts = [part.strip() for part in text.split(separator)]
        return [part if kind == "strings" else _number(part) for part in parts if part]
    text = text.strip()
    if not text:
        return None
    if kind == "number":
        return _number(text)
    if kind == "bool":
        if text.lower() not in BOOLS:
            raise ValueError(f"must be one of {', '.join(BOOLS)}")
        return BOOLS[text.lower()]
    if NUMBER.fullmatch(text):
        return float(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("is no ISO 8601 time, and not seconds since 1970") from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _number(text: str) -> float:
    if not NUMBER.fullmatch(text):
        raise ValueError("is no number")
    return float(text)


def write_items(
    file: Path, items: Iterable[tuple[str, Values]], schema: Schema, *, separator: str = SEPARATOR
) -> int:
    """Write items, and return how many; the file is there when it is whole. Raises `ItemsFileError`.

    CSV and Parquet have a column for each attribute that the schema has; lines of JSON have what there is.
    """
    kind = format_of(file)
    try:
        with _written_whole(file) as unfinished:
            if kind == "jsonl":
                return _write_lines(unfinished, items)
            if kind == "parquet":
                return _write_parquet(unfinished, items, schema)
            return _write_csv(unfinished, items, schema, separator, "\t" if kind == "tsv" else ",")
    except (OSError, pa.ArrowException) as error:
        raise ItemsFileError(f"{file}: {error}") from error


@contextmanager
def _written_whole(file: Path) -> Iterator[Path]:
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        yield unfinished
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_lines(file: Path, items: Iterable[tuple[str, Values]]) -> int:
    count = 0
    with file.open("wb") as stream:
        for item_id, values in items:
            stream.write(msgspec.json.encode({ITEM_ID: item_id, **values}) + b"\n")
            count += 1
    return count


def _write_parquet(file: Path, items: Iterable[tuple[str, Values]], schema: Schema) -> int:
    fields = {ITEM_ID: pa.string(), **{name: ARROW_TYPES[kind] for name, kind in schema.kinds.items()}}
    count = 0
    with pq.ParquetWriter(file, pa.schema(fields)) as writer:
        rows: list[dict[str, object]] = []
        for item_id, values in items:
            rows.append({ITEM_ID: item_id, **values})
            count += 1
            if len(rows) == 50 * ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(rows, pa.schema(fields)))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, pa.schema(fields)))
    return count


def _write_csv(
    file: Path, items: Iterable[tuple[str, Values]], schema: Schema, separator: str, delimiter: str
) -> int:
    count = 0
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
        writer.writerow([ITEM_ID, *schema.kinds])
        for item_id, values in items:
            cells = [item_id]
            for name, kind in schema.kinds.items():
                value = values.get(name)
                cell = "" if value is None else _text(value, separator)
                if value is not None and _reads(kind, cell, separator) != value:
                    raise ItemsFileError(
                        f"item {item_id}: {name} would be another one when it is read again: "
                        "export it as .jsonl or .parquet, or with another --separator"
                    )
                cells.append(cell)
            writer.writerow(cells)
            count += 1
    return count


def _text(value: Value, separator: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return separator.join(_text(each, separator) for each in value)
    return value if isinstance(value, str) else repr(value)


def _reads(kind: Kind, cell: str, separator: str) -> object:
    try:
        return _from_text(kind, cell, separator)
    except ValueError:
        return None
