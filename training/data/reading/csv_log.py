"""CSV: read by DuckDB, and where that loses a line, line by line.

`lines.py` counts the lines before DuckDB reads; when its CSV reader yields another number of rows, or gives
up, as it does at a quote that is never closed, the file is read again, and each line split by itself.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import ibis
import numpy as np
import pyarrow as pa
from ibis.backends.duckdb import Backend
from ibis.expr.types import ArrayColumn, BooleanColumn, StringColumn

from training.data.dataset import SourceFile
from training.data.reading.lines import LONGEST_LINE, Plain, PrepareError
from training.data.reading.presets import EVENT, EVENT_COLUMNS, SEPARATORS, LogFormat
from training.data.reading.tables import (
    check_names,
    insert_left_out,
    malformed_rows,
    plain_source,
    read_csv,
    read_lines,
    select_fields,
)

_MOST_JOINED = 100  # lines of one record
_MOST_BROKEN = 100_000  # lines that are looked at for such records


def insert_csv(
    con: Backend, number: int, file: Path, plain: Plain, format_: LogFormat
) -> tuple[int, SourceFile, bool]:
    """Insert a file's rows into `log`, and its other lines into `malformed`.

    Tells at which line its rows begin, what was detected, and whether it had to be read line by line.
    """
    names, separator, n_header = _csv_header(file, plain, format_)
    named = format_.columns_among(names)
    places = {field: names.index(name) for field, name in named.items()}
    source = plain_source(file, "csv", format_, named, plain, n_header)
    source = source.model_copy(update={"separator": separator})
    split = _Splitter(separator, len(names), plain.has_quotes)
    is_by_line = False
    if _insert_at_once(con, number, plain, split, places, n_header) != plain.lines - n_header:
        for table in ("log", "malformed"):
            con.raw_sql(f"DELETE FROM {table} WHERE file = {number}")
        is_by_line = True
        n_read = _insert_by_line(con, number, plain, split, places, n_header)
        if n_read != plain.lines - n_header:
            raise PrepareError(f"{file}: has {plain.lines - n_header:,} lines, of which {n_read:,} were read")
    return n_header + 1, source, is_by_line


def _insert_at_once(
    con: Backend, number: int, plain: Plain, split: _Splitter, places: Mapping[str, int], n_header: int
) -> int | None:
    """Insert what DuckDB's reader makes of a file; how many lines that were, if it did not give up."""
    # By place: the names of columns that are not asked for may be repeated, or empty.
    columns = [f"column{place}" for place in range(split.n_fields)]
    quote = '"' if split.has_quotes else ""
    try:
        text = read_csv(
            con, plain.path, columns, delim=split.separator, quote=quote, escape=quote, skip=n_header
        )
        fields = {field: text[columns[place]] for field, place in places.items()}
        con.insert("log", select_fields(fields, text).mutate(file=number))
        refused = con.table("refused")
        # One line may be refused for several of its columns; blank ones, which are passed over, come with it.
        lines = refused.group_by(line=refused.line.cast("int64")).agg(
            raw=refused.csv_line.re_replace(r"^[\r\n]+", "").min()
        )
        con.insert("malformed", malformed_rows(number, lines, "malformed_row"))
        _insert_blank(con, number, plain, n_header)
    except (duckdb.InvalidInputException, duckdb.ConversionException):
        return None
    return _count(con, number)


def _insert_by_line(
    con: Backend, number: int, plain: Plain, split: _Splitter, places: Mapping[str, int], n_header: int
) -> int:
    """Insert a file's lines, each split by itself; how many they were."""
    lines = con.create_table("lines", read_lines(con, plain), overwrite=True)
    _join_records(con, n_header, split)
    numbered = lines.mutate(n=lines.rowid() + 1)
    numbered = numbered.filter(numbered.n > n_header)
    records, blank = numbered.filter(numbered.line.notnull()), numbered.filter(numbered.line.isnull())
    is_record = split.is_record(records.line)
    good, broken = records.filter(is_record), records.filter(~is_record)
    parts = good.select("n", parts=split.fields(good.line))
    fields = {field: split.unquoted(parts.parts[place]) for field, place in places.items()}
    con.insert("log", select_fields(fields, parts.order_by("n")).mutate(file=number))
    con.insert("malformed", malformed_rows(number, broken.select(line="n", raw="line"), "malformed_row"))
    insert_left_out(con, number, plain)
    left_out = con.table("malformed").filter(lambda table: table.file == number)
    blank = blank.anti_join(left_out, blank.n == left_out.line)
    con.insert("malformed", malformed_rows(number, blank.select(line="n", raw=ibis.null("string")), None))
    con.drop_table("lines")
    return _count(con, number)


def _insert_blank(con: Backend, number: int, plain: Plain, n_header: int) -> None:
    """Insert the lines that the reader passes over: they are blank, or left out."""
    insert_left_out(con, number, plain)
    blank = plain.blank[plain.blank > n_header]
    blank = blank[~np.isin(blank, [out.line for out in plain.left_out])]
    if len(blank):
        table = ibis.memtable(pa.table({"line": blank}))
        con.insert("malformed", malformed_rows(number, table.mutate(raw=ibis.null("string")), None))


def _count(con: Backend, number: int) -> int:
    """How many lines of a file are accounted for."""
    tables = [con.table(name) for name in ("log", "malformed")]
    counts = [table.filter(table.file == number).count().to_pyarrow().as_py() for table in tables]
    return sum(counts)


def _csv_header(file: Path, plain: Plain, format_: LogFormat) -> tuple[list[str], str, int]:
    """The names of the columns, what separates them, and how many lines that takes.

    That is taken for the separator which yields the columns asked for, unless the file says it: `sep=;`.
    """
    if format_.header:
        return list(format_.header), ",", 0
    with plain.path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        begin = stream.readlines(LONGEST_LINE)
    if not begin:
        raise PrepareError(f"{file}: the file is empty")
    n_header = next((n for n, line in enumerate(begin, 1) if line.strip("\r\n")), len(begin))
    line = begin[n_header - 1].rstrip("\r\n")
    said = re.fullmatch(r'"?sep=(.)"?', line)
    if said:
        n_header += 1
        line = begin[n_header - 1].rstrip("\r\n") if len(begin) >= n_header else ""
    for out in plain.left_out:
        if out.line <= n_header:
            raise PrepareError(f"{file}: line {out.line}, the header, cannot be read: {out.reason}")
    wanted = {*format_.columns.values(), *(EVENT_COLUMNS if format_.event == EVENT else ())}
    separators = [said[1]] if said else SEPARATORS
    headers = {
        separator: _without_spaces(next(csv.reader([line], delimiter=separator), []), wanted)
        for separator in separators
    }
    separator = max(headers, key=lambda s: (len(wanted & set(headers[s])), len(headers[s])))
    names = headers[separator]
    check_names(file, names, format_.columns_among(names).values())
    return names, separator, n_header


def _without_spaces(names: Sequence[str], wanted: Collection[str]) -> list[str]:
    """The names of columns, of which those that are wanted may have spaces around them."""
    bare = [name.strip() for name in names]
    is_spaced = {name for name in wanted if name not in names and bare.count(name) == 1}
    return [inner if inner in is_spaced else name for name, inner in zip(names, bare, strict=True)]


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


@ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator]
    name="regexp_extract_all", signature=(("string", "string", "int64"), "array<string>")
)
def _regexp_extract_all(text: StringColumn, pattern: str, group: int) -> ArrayColumn: ...
