"""Times as logs write them, their unit found file by file, as whole microseconds since 1970."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Sequence

import duckdb
import ibis
from ibis.expr.types import BooleanColumn, Column, FloatingColumn, IntegerColumn, StringColumn, Table

from training.data.reading.lines import PrepareError
from training.data.reading.presets import TIME_FORMATS, LogFormat

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
_WRITTEN_AS_NUMBER = (1900_01_01_00_00_00, 2100_01_01_00_00_00)


def time_units(rows: Table, paths: Sequence[str], format_: LogFormat) -> dict[int, str]:
    """The unit of each file's times: the one that nearly all of them are like.

    A file without one time that is like any takes the unit of the others.
    """
    if format_.time_format != "auto":
        return dict.fromkeys(range(len(paths)), format_.time_format)
    number = rows.time.try_cast("float64")
    likes = {unit: (number >= low) & (number < end) for unit, (low, end) in SIZES.items()}
    # What is a number is not looked at again: that would take longer than all else.
    low, end = _WRITTEN_AS_NUMBER
    iso = _iso_microseconds(rows.time).notnull()
    likes["iso"] = number.notnull().ifelse((number >= low) & (number < end), iso)
    counts = rows.group_by("file").agg(**{unit: like.sum() for unit, like in likes.items()})
    units: dict[int, str] = {}
    found = counts.order_by("file").to_pyarrow().to_pylist()
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
        first = rows.filter(rows.time.re_search(r"\S")).time.first().to_pyarrow().as_py()
        raise PrepareError(
            f"{paths[0]}: the format of the times is not clear ({first!r} and the others are neither "
            "ISO-8601, such as 2026-11-24T16:00:00Z, nor seconds, milliseconds, microseconds or nanoseconds "
            f"since 1970): say --time-format, such as {_pattern_like(first or '')!r}, or write them so"
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


def _pattern_like(time: str) -> str:
    """A pattern for times of which the day may come first, which no program can know."""
    found = re.fullmatch(r"\d\d?([./-])\d\d?\1\d{4}(?:([ T])\d\d?:\d\d(:\d\d)?)?", time.strip())
    if not found:
        return _DAY_FIRST
    separator, before_clock, seconds = found.groups()
    clock = f"{before_clock}%H:%M{(seconds and ':%S') or ''}" if before_clock else ""
    return separator.join(("%d", "%m", "%Y")) + clock


def is_of_another_unit(number: FloatingColumn, unit: str) -> BooleanColumn:
    sizes = [size for other, size in SIZES.items() if other != unit]
    return functools.reduce(operator.or_, ((number >= low) & (number < end) for low, end in sizes))


def microseconds(time: StringColumn, unit: str) -> IntegerColumn:
    if unit == "iso":
        return _iso_microseconds(time)
    if unit in ("microseconds", "nanoseconds"):  # a float cannot hold them
        whole = time.try_cast("int64")
        return whole if unit == "microseconds" else whole // 1000
    if "%" in unit:
        return _epoch_us(_try_strptime(time.strip(), unit))
    return (time.try_cast("float64") * (SECOND if unit == "seconds" else SECOND / 1000)).try_cast("int64")


def _iso_microseconds(time: StringColumn) -> IntegerColumn:
    """Epoch microseconds; a time without an offset is UTC."""
    # DuckDB's TIMESTAMP overlooks offsets, and its TIMESTAMPTZ may take what has none for local time.
    is_local = time.re_search(r"^\s*\d{4}-\d\d-\d\d([T ][\d:.,]+)?\s*$")
    has_offset = time.re_search(r"^\s*\d{4}-\d\d-\d\d[T ][\d:.,]+(Z|[+-]\d\d(:?\d\d)?)\s*$")
    says_utc = time.re_search(r"^\s*\d{4}-\d\d-\d\d[T ][\d:.,]+ ?(UTC|GMT)\s*$")
    trimmed = time.strip()
    is_compact = time.re_search(r"^\s*(19|20)\d{6}T?\d{6}Z?\s*$")
    digits = trimmed.replace("T", "")
    return ibis.cases(
        (is_local, _epoch_us(time.try_cast("timestamp"))),
        (has_offset, _epoch_us(time.try_cast("timestamp('UTC')"))),
        (says_utc, _epoch_us(trimmed.substr(0, trimmed.length() - 3).try_cast("timestamp"))),
        (is_compact, _epoch_us(_try_strptime(digits.substr(0, 14), "%Y%m%d%H%M%S"))),
    )


# DuckDB's own function, which Ibis lacks.
@ibis.udf.scalar.builtin(name="epoch_us", signature=(("timestamp",), "int64"))  # type: ignore[untyped-decorator]
def _epoch_us(timestamp: Column) -> IntegerColumn: ...


@ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator]
    name="try_strptime", signature=(("string", "string"), "timestamp")
)
def _try_strptime(text: StringColumn, format_: str) -> Column: ...
