"""Times as logs write them, their unit found file by file, as whole microseconds since 1970."""

from __future__ import annotations

import re
from collections.abc import Sequence

import duckdb

from training.data.reading import sql
from training.data.reading.lines import PrepareError
from training.data.reading.presets import ROUNDED, TIME_FORMATS, LogFormat

SECOND = 1_000_000  # times are whole microseconds: float seconds would put a click on the wrong side of a cut
_NEARLY_ALL = 0.99  # of a file's times
# Numbers are told apart by size, from the year 1973 to 2128.
SIZES: dict[str, tuple[float, float]] = {
    "seconds": (1e8, 5e9),
    "milliseconds": (1e11, 5e12),
    "microseconds": (1e14, 5e15),
    "nanoseconds": (1e17, 5e18),
}
_DAY_FIRST = "%d/%m/%Y %H:%M"
_DAY_OR_MONTH = r"(?<![\d%])\d\d?(?!\d)"
_PARTS = {
    r"(?<!\d)\d\d?:\d\d:\d\d\.\d+": "%H:%M:%S.%f",
    r"(?<!\d)\d\d?:\d\d:\d\d": "%H:%M:%S",
    r"(?<!\d)\d\d?:\d\d": "%H:%M",
    r"[+-]\d\d:?\d\d$": "%z",
    r"(?i)\b(mon|tues|wednes|thurs|fri|satur|sun)day\b": "%A",
    r"(?i)\b(mon|tue|wed|thu|fri|sat|sun)\b": "%a",
    r"(?i)\b(january|february|march|april|june|july|august|september|october|november|december)\b": "%B",
    r"(?i)\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)\b": "%b",
    r"(?<!\d)(19|20)\d\d(?!\d)": "%Y",
    r"(?i)[ap]m\b": "%p",
}  # of times as people write them -> as strptime calls them
NUMBER = "TRY_CAST(time AS DOUBLE)"  # of a row's time
_WRITTEN_AS_NUMBER = (1900_01_01_00_00_00, 2100_01_01_00_00_00)


def time_units(
    con: duckdb.DuckDBPyConnection, rows: str, paths: Sequence[str], format_: LogFormat
) -> dict[int, str]:
    """The unit of each file's times: the one that nearly all of them are like.

    A file without one time that is like any takes the unit of the others.
    """
    if format_.time_format != "auto":
        return dict.fromkeys(range(len(paths)), format_.time_format)
    likes = {unit: f"number >= {low} AND number < {end}" for unit, (low, end) in SIZES.items()}
    # What is a number is not looked at again: that would take longer than all else.
    low, end = _WRITTEN_AS_NUMBER
    likes["iso"] = sql.cases(
        ("number IS NOT NULL", f"number >= {low} AND number < {end}"),
        otherwise=f"{_iso_microseconds('time')} IS NOT NULL",
    )
    counts = ", ".join(f"count(*) FILTER ({like}) AS {unit}" for unit, like in likes.items())
    numbers = f"SELECT file, time, {NUMBER} AS number FROM {rows}"
    units: dict[int, str] = {}
    found = sql.found(con, f"SELECT file, {counts} FROM ({numbers}) GROUP BY file ORDER BY file")
    for row in found:
        likely: dict[str, int] = {unit: row[unit] for unit in likes if row[unit]}
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
        first = sql.value(con, f"SELECT first(time) FROM {rows} WHERE regexp_matches(time, '\\S')") or ""
        raise PrepareError(
            f"{paths[0]}: the format of the times is not clear ({first!r} and the others are neither "
            "ISO-8601, such as 2026-11-24T16:00:00Z, nor seconds, milliseconds, microseconds or nanoseconds "
            f"since 1970): say --time-format, such as {_pattern_like(con, rows, first)!r}, or write them so"
        )
    usual: str = max(units.values(), key=list(units.values()).count, default="iso")
    return {number: units.get(number, usual) for number in range(len(paths))}


def check_time_format(time_format: str) -> None:
    """Raises `PrepareError` for what is neither a name nor a pattern."""
    if time_format in TIME_FORMATS:
        return
    if "%" not in time_format:
        names = ", ".join(TIME_FORMATS)
        raise PrepareError(
            f"--time-format {time_format}: is none of {names}, and no pattern such as '{_DAY_FIRST}'"
        )
    try:
        duckdb.execute("SELECT try_strptime('', ?)", [time_format])
    except duckdb.Error as error:
        raise PrepareError(f"--time-format {time_format}: {str(error).splitlines()[0]}") from error


def _pattern_like(con: duckdb.DuckDBPyConnection, rows: str, time: str) -> str:
    """A pattern that reads times like this one, as far as that can be told.

    Whether the day or the month comes first no program can know: the order is taken that reads more of them.
    """
    pattern = time.strip().replace("%", "%%")
    for part, directive in _PARTS.items():
        pattern = re.sub(part, directive, pattern, count=1)
    if "%p" in pattern:
        pattern = pattern.replace("%H", "%I")
    has_name = "%b" in pattern or "%B" in pattern
    year = () if "%Y" in pattern else ("%y",)
    patterns = []
    for order in (("%d",),) if has_name else (("%d", "%m"), ("%m", "%d")):
        patterns.append(pattern)
        for directive in (*order, *year):
            patterns[-1] = re.sub(_DAY_OR_MONTH, directive, patterns[-1], count=1)
    read = (f"count(try_strptime({sql.stripped('time')}, {sql.text(each)}))" for each in patterns)
    [counts] = con.execute(f"SELECT {', '.join(read)} FROM {rows}").fetchall()
    likely = patterns[counts.index(max(counts))]
    return likely if max(counts) and "%d" in likely else _DAY_FIRST


def is_of_another_unit(unit: str) -> str:
    """Whether a time is a number as of another unit."""
    others = (size for other, size in SIZES.items() if other != unit)
    return f"({' OR '.join(f'{NUMBER} >= {low} AND {NUMBER} < {end}' for low, end in others)})"


def is_rounded(value: str, form: str = ROUNDED) -> str:
    """Whether a text is a number that a spreadsheet has rounded."""
    # To look for a plus, which few texts hold, takes a tenth of the time.
    return rf"contains({value}, '+') AND regexp_full_match({value}, '\s*{form}\s*')"


def is_rounded_time(unit: str) -> str:
    """Whether a time is such a number, whose seconds are lost."""
    if unit not in SIZES or unit == "nanoseconds":  # floats of these are written so, too, and nothing is lost
        return "false"
    return is_rounded("time", r"\d(\.\d{0,6})?[eE]\+\d+")


def microseconds(time: str, unit: str) -> str:
    """Since 1970; null where a time cannot be read."""
    if unit == "iso":
        return _iso_microseconds(time)
    if unit == "microseconds":  # a float cannot hold them
        return f"TRY_CAST({time} AS BIGINT)"
    if unit == "nanoseconds":
        return f"CAST(floor(TRY_CAST({time} AS BIGINT) / 1000) AS BIGINT)"
    if "%" in unit:
        return f"epoch_us(try_strptime({sql.stripped(time)}, {sql.text(unit)}))"
    factor = SECOND if unit == "seconds" else SECOND // 1000
    return f"TRY_CAST(TRY_CAST({time} AS DOUBLE) * {factor} AS BIGINT)"


def _iso_microseconds(time: str) -> str:
    """Epoch microseconds; a time without an offset is UTC."""
    # DuckDB's TIMESTAMP overlooks offsets, and its TIMESTAMPTZ may take what has none for local time.
    is_local = r"^\s*\d{4}-\d\d-\d\d([T ][\d:.,]+)?\s*$"
    has_offset = r"^\s*\d{4}-\d\d-\d\d[T ][\d:.,]+(Z|[+-]\d\d(:?\d\d)?)\s*$"
    says_utc = r"^\s*\d{4}-\d\d-\d\d[T ][\d:.,]+ ?(UTC|GMT)\s*$"
    is_compact = r"^\s*(19|20)\d{6}T?\d{6}Z?\s*$"
    digits = f"replace({sql.stripped(time)}, 'T', '')[:14]"
    forms = {
        is_local: f"TRY_CAST({time} AS TIMESTAMP)",
        has_offset: f"TRY_CAST({time} AS TIMESTAMPTZ)",
        says_utc: f"TRY_CAST({sql.stripped(time)}[:-4] AS TIMESTAMP)",
        is_compact: f"try_strptime({digits}, '%Y%m%d%H%M%S')",
    }
    return sql.cases(
        *((f"regexp_matches({time}, '{form}')", f"epoch_us({read})") for form, read in forms.items())
    )
