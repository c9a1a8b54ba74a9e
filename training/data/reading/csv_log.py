"""CSV: read by DuckDB, and where that loses a line, line by line.

`lines.py` counts the lines before DuckDB reads; when its CSV reader yields another number of rows, or gives
up, as it does at a quote that is never closed, the file is read again, and each line split by itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np

from training.data.dataset import SourceFile
from training.data.reading import sql
from training.data.reading.detect import find_header
from training.data.reading.lines import LONGEST_LINE, Plain, PrepareError
from training.data.reading.presets import EVENT, EVENT_COLUMNS, LogFormat
from training.data.reading.reasons import float_id, is_blank, is_nothing
from training.data.reading.tables import (
    check_names,
    csv_query,
    insert_fields,
    insert_left_out,
    insert_malformed,
    lines_query,
    plain_source,
)

_FLOAT = r"^\s*-?(0|[1-9]\d*)\.0\s*$"  # a whole number
_MOST_JOINED = 100  # lines of one record
_MOST_BROKEN = 100_000  # lines that are looked at for such records


def insert_csv(
    con: duckdb.DuckDBPyConnection, number: int, file: Path, plain: Plain, format_: LogFormat
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
            con.execute(f"DELETE FROM {table} WHERE file = {number}")
        is_by_line = True
        n_read = _insert_by_line(con, number, plain, split, places, n_header)
        if n_read != plain.lines - n_header:
            raise PrepareError(f"{file}: has {plain.lines - n_header:,} lines, of which {n_read:,} were read")
    source = source.model_copy(update={"id_types": _tidy_ids(con, number, named, format_)})
    return n_header + 1, source, is_by_line


def _tidy_ids(
    con: duckdb.DuckDBPyConnection, number: int, named: Mapping[str, str], format_: LogFormat
) -> dict[str, str]:
    """Take from a column's ids what each of them has beside the id; tells which are floats.

    A space before it, as where one follows every separator; and `.0`, as of programs that have whole numbers
    beside a missing one.
    """
    floats = dict[str, str]()
    for field in ("session", "item"):
        is_id = f"NOT {is_blank(field)} AND NOT {is_nothing(field, format_)}"
        is_id += f" AND {sql.stripped(field)} <> {sql.text(named[field].strip())}"  # a header may be repeated
        ids = f"log WHERE file = {number} AND {is_id}"
        is_spaced, is_float = (rf"regexp_matches({field}, '{form}')" for form in (r"^\s", _FLOAT))
        as_float = float_id(f"TRY_CAST({field} AS DOUBLE)", field)
        for is_so, tidy in ((is_spaced, sql.stripped(field)), (is_float, as_float)):
            first = con.execute(f"SELECT {is_so} FROM {ids} LIMIT 1").fetchall()  # of most logs it tells
            if first == [(True,)] and sql.value(con, f"SELECT bool_and({is_so}) FROM {ids}"):
                con.execute(f"UPDATE log SET {field} = {tidy} WHERE file = {number} AND {is_id}")
                if is_so == is_float:
                    floats[field] = "float"
    return floats


def _insert_at_once(
    con: duckdb.DuckDBPyConnection,
    number: int,
    plain: Plain,
    split: _Splitter,
    places: Mapping[str, int],
    n_header: int,
) -> int | None:
    """Insert what DuckDB's reader makes of a file; how many lines that were, if it did not give up."""
    # By place: the names of columns that are not asked for may be repeated, or empty.
    columns = [f"column{place}" for place in range(split.n_fields)]
    quote = '"' if split.has_quotes else ""
    try:
        query = csv_query(
            con, plain.path, columns, delim=split.separator, quote=quote, escape=quote, skip=n_header
        )
        insert_fields(con, number, {field: columns[place] for field, place in places.items()}, query)
        # One line may be refused for several of its columns; blank ones, which are passed over, come with it.
        refused = r"""(
            SELECT line, min(regexp_replace(csv_line, '^[\r\n]+', '', 'g')) AS raw FROM refused GROUP BY line
        )"""
        insert_malformed(con, number, refused, "malformed_row")
        _insert_blank(con, number, plain, n_header)
    except (duckdb.InvalidInputException, duckdb.ConversionException):
        return None
    return _count(con, number)


def _insert_by_line(
    con: duckdb.DuckDBPyConnection,
    number: int,
    plain: Plain,
    split: _Splitter,
    places: Mapping[str, int],
    n_header: int,
) -> int:
    """Insert a file's lines, each split by itself; how many they were."""
    con.execute(f"CREATE OR REPLACE TABLE lines AS SELECT line AS raw FROM {lines_query(con, plain)}")
    _join_records(con, n_header, split)
    numbered = f"(SELECT rowid + 1 AS line, raw FROM lines WHERE rowid >= {n_header})"
    records = f"(SELECT *, {split.is_record('raw')} AS is_record FROM {numbered} WHERE raw IS NOT NULL)"
    parts = f"(SELECT line, {split.fields('raw')} AS parts FROM {records} WHERE is_record)"
    fields = {field: split.unquoted(f"parts[{place + 1}]") for field, place in places.items()}
    insert_fields(con, number, fields, parts, "ORDER BY line")
    insert_malformed(con, number, f"{records} WHERE NOT is_record", "malformed_row")
    insert_left_out(con, number, plain)
    left_out = f"(SELECT line FROM malformed WHERE file = {number})"
    blank = f"{numbered} WHERE raw IS NULL AND line NOT IN {left_out}"
    insert_malformed(con, number, blank, None)
    con.execute("DROP TABLE lines")
    return _count(con, number)


def _insert_blank(con: duckdb.DuckDBPyConnection, number: int, plain: Plain, n_header: int) -> None:
    """Insert the lines that the reader passes over: they are blank, or left out."""
    insert_left_out(con, number, plain)
    blank = plain.blank[plain.blank > n_header]
    blank = blank[~np.isin(blank, [out.line for out in plain.left_out])]
    sql.insert(con, "malformed", {"file": np.full(len(blank), number), "line": blank})


def _count(con: duckdb.DuckDBPyConnection, number: int) -> int:
    """How many lines of a file are accounted for."""
    of_file = f"WHERE file = {number}"
    n_lines: int = sql.value(
        con,
        f"SELECT (SELECT count(*) FROM log {of_file}) + (SELECT count(*) FROM malformed {of_file})",
    )
    return n_lines


def _csv_header(file: Path, plain: Plain, format_: LogFormat) -> tuple[list[str], str, int]:
    """The names of the columns, what separates them, and how many lines that takes."""
    if format_.header:
        return list(format_.header), ",", 0
    wanted = {*format_.columns.values(), *(EVENT_COLUMNS if format_.event == EVENT else ())}
    with plain.path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        header = find_header(stream.readlines(LONGEST_LINE), format_.item, wanted)
    for out in plain.left_out:
        if header is None or out.line <= header.number:
            raise PrepareError(f"{file}: line {out.line}, the header, cannot be read: {out.reason}")
    if header is None:
        raise PrepareError(f"{file}: the file is empty")
    names = _without_spaces(header.names, wanted)
    check_names(file, names, format_.columns_among(names), format_)
    return names, header.separator, header.number


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
        return f'[{other}]({self._quoted}|[^"{other}][^{other}]*|)'

    @property
    def _quoted(self) -> str:
        """What is in quotes, around which DuckDB overlooks spaces."""
        return '"(?:[^"]|"")*"' if self.separator == " " else ' ?"(?:[^"]|"")*" *'

    def fields(self, line: str) -> str:
        if not self.has_quotes:
            return f"string_split({line}, {sql.text(self.separator)})"
        return f"regexp_extract_all({self._begun(line)}, {sql.text(self._field)}, 1)"

    def is_record(self, line: str, field: str | None = None) -> str:
        is_record = f"len({self.fields(line)}) = {self.n_fields}"
        if not self.has_quotes:
            return f"({is_record})"
        whole = sql.text(f"^(?:{field or self._field})*$")
        return f"({is_record} AND regexp_matches({self._begun(line)}, {whole}))"

    def _begun(self, line: str) -> str:
        """A line that has a separator before each of its fields."""
        return f"({sql.text(self.separator)} || {line})"

    @property
    def tidy_field(self) -> str:
        """A field as it should be: in one that is not quoted there is no quote."""
        other = re.escape(self.separator)
        return f'[{other}]({self._quoted}|[^"{other}]*)'

    def unquoted(self, field: str) -> str:
        if not self.has_quotes:
            return field
        inner = f"""replace(trim({field}, ' ')[2:-2], '""', '"')"""
        is_quoted = f"regexp_full_match({field}, {sql.text(self._quoted)})"
        return sql.cases((is_quoted, inner), otherwise=field)

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


def _join_records(con: duckdb.DuckDBPyConnection, n_header: int, split: _Splitter) -> None:
    """Put a record that goes over several lines of the table `lines` on its first one."""
    if not split.has_quotes:
        return
    lines = "(SELECT rowid + 1 AS n, coalesce(raw, '') AS line FROM lines)"
    is_tidy = split.is_record("line", split.tidy_field)
    broken = f"SELECT n, line FROM {lines} WHERE n > {n_header} AND NOT {is_tidy}"
    joined = split.joined(con.execute(f"{broken} ORDER BY n LIMIT {_MOST_BROKEN}").fetchall())
    if joined:
        con.execute("CREATE OR REPLACE TABLE joined (n BIGINT, raw VARCHAR)")
        sql.insert(con, "joined", {"n": list(joined), "raw": list(joined.values())})
        con.execute("UPDATE lines SET raw = joined.raw FROM joined WHERE lines.rowid = joined.n - 1")
        con.execute("DROP TABLE joined")
