"""Which rows are clicks, and the reason why another is none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import duckdb

from service.ranking.item_ids import MAX_ITEM_ID_LENGTH
from training.data.dataset import SourceFile
from training.data.reading import sql
from training.data.reading.presets import EXACT, LogFormat
from training.data.reading.tables import Log
from training.data.reading.times import (
    NUMBER,
    SECOND,
    SIZES,
    is_of_another_unit,
    is_rounded,
    is_rounded_time,
    microseconds,
    time_units,
)

INEXACT, NO_ID = "\x1f~", "\x1f{"  # before what stands for an id and is none
_YEAR_10000 = 253_402_300_800 * SECOND


def judged_log(
    con: duckdb.DuckDBPyConnection,
    rows: str,
    format_: LogFormat,
    sources: Sequence[SourceFile],
    rows_are_lines: bool = False,
) -> Log:
    """The log of the `rows` of all files, each with its time, or with the reason why it is no click."""
    rows, other_events = chosen(con, rows, format_)
    units = time_units(con, rows, [source.path for source in sources], format_)
    sources = [source.model_copy(update={"time_unit": units[n]}) for n, source in enumerate(sources)]
    rows = _judged(rows, format_, units)
    return Log(con, rows, tuple(sources), other_events, rows_are_lines=rows_are_lines)


def chosen(
    con: duckdb.DuckDBPyConnection, rows: str, format_: LogFormat, *, has_header: bool = True
) -> tuple[str, dict[int, int]]:
    """The rows with the events that are clicks, and how many others there are by file.

    A header among them is rejected, and counted as such.
    """
    if not format_.events:
        return rows, {}
    is_click = f"coalesce(event IN ({sql.texts(format_.events)}), false)"
    if has_header:
        is_click = f"({is_click} OR {_is_header(format_)})"
    others = con.execute(f"SELECT file, count(*) FROM {rows} WHERE NOT {is_click} GROUP BY file").fetchall()
    return f"(SELECT * FROM {rows} WHERE {is_click})", dict(others)


def _judged(rows: str, format_: LogFormat, units: Mapping[int, str]) -> str:
    """Give every row its time, its tick, and the reason why it is no click, where there is one."""
    files_of: dict[str, list[int]] = {}
    for number, unit in units.items():
        files_of.setdefault(unit, []).append(number)
    is_of = {unit: f"file IN ({', '.join(map(str, files))})" for unit, files in files_of.items()}
    times = {unit: microseconds("time", unit) for unit in files_of}
    [time, *_] = times.values()
    if len(times) > 1:
        time = sql.cases(*((is_of[unit], times[unit]) for unit in times))
    is_finite, is_other = [f"NOT (isnan({NUMBER}) OR isinf({NUMBER}))"], ["false"]
    is_vague = [f"{is_of[unit]} AND {is_rounded_time(unit)}" for unit in files_of]
    for unit in files_of:
        if unit not in SIZES:
            is_finite.append(is_of[unit])
        elif format_.time_format == "auto":
            is_other.append(f"{is_of[unit]} AND {is_of_another_unit(unit)}")
    tick = "TRY_CAST(tick AS BIGINT)" if format_.tick else "0"
    who = "visitor" if format_.by_visitor else "session"
    is_nobody, session = is_nothing("session", format_), "session"
    if format_.nobody_alone:
        is_nobody = f"({is_nobody} OR {is_blank('session')})"
        session = f"CASE WHEN {is_nobody} THEN {sql.text(INEXACT[0])} || row ELSE session END"
        is_nobody = "false"
    reason = {
        f"starts_with(who, {sql.text(INEXACT)}) OR starts_with(item, {sql.text(INEXACT)})": "inexact_id",
        f"({is_rounded('who')}) OR ({is_rounded('item')})": "inexact_id",
        f"starts_with(who, {sql.text(NO_ID)}) OR starts_with(item, {sql.text(NO_ID)})": "malformed_id",
        # Of Google Analytics, where visitors may refuse to be known, no fault of the log.
        is_blank("who"): "no_session" if format_.visitor else f"missing_{who}",
        is_nobody: f"no_{who}",
        f"{is_blank('item')} OR {is_nothing('item', format_)}": "missing_item",
        is_bad_id("item"): "bad_item_id",
        is_blank("time"): "missing_time",
        f"NOT ({' OR '.join(is_finite)})": "time_not_finite",
        is_nothing("time", format_): "missing_time",
        " OR ".join(is_other): "other_time_unit",
        " OR ".join(is_vague): "inexact_time",
        f"(us IS NULL OR n IS NULL) AND {_is_header(format_)}": "repeated_header",
        "us IS NULL OR n IS NULL": "unparsable_time",
        "us < 0": "negative_time",
        f"us >= {_YEAR_10000}": "time_out_of_range",
    }
    judged = sql.cases(*((when, sql.text(then)) for when, then in reason.items()))
    return f"""(
        SELECT file, row, item, raw, who AS session, us AS time, n AS tick, {judged} AS reason
        FROM (SELECT *, {session} AS who, {time} AS us, {tick} AS n FROM {rows})
    )"""


def _is_header(format_: LogFormat) -> str:
    """Whether a row has the names of the columns, as where files with a header each were joined."""
    names = format_.columns
    fields = ("time", "item", "session")  # the first differs soonest
    named = (
        f"{sql.stripped(field)} IN ({sql.texts([names[field], chr(0xFEFF) + names[field]])})"
        for field in fields
    )
    return f"coalesce({' AND '.join(named)}, false)"


def raw_of(format_: LogFormat) -> str:
    """A row as it is listed, when it is rejected: the fields that are asked for."""
    fields = ", ".join(f"coalesce({field}, '')" for field in format_.columns)
    return f"regexp_replace(concat_ws(',', {fields}), '{INEXACT[0]}[~{{]', '', 'g')"


def is_blank(value: str) -> str:
    """Whether there is nothing but white space."""
    return f"NOT coalesce(regexp_matches({value}, '\\S'), false)"


def is_nothing(value: str, format_: LogFormat) -> str:
    """Whether it is what stands for nothing, in white space or not."""
    if not format_.nothing:
        return "false"
    # One expression takes a quarter of the time of stripping every text.
    nothing = rf"^\s*(?:{'|'.join(map(re.escape, format_.nothing))})\s*$"
    return f"coalesce(regexp_matches({value}, {sql.text(nothing)}), false)"


def float_id(number: str, text: str, exact: int = EXACT) -> str:
    """The id that a float stands for, whose text is `text`: 17.0 is the item "17".

    Whole numbers beside a missing one are often stored so. Where floats skip whole numbers, from `exact` on,
    it may have been another.
    """
    whole = f"TRY_CAST({number} AS BIGINT)"
    return sql.cases(
        (f"isnan({number})", "NULL"),
        (f"NOT (abs({number}) < {exact})", f"{sql.text(INEXACT)} || {text}"),
        (f"{number} = {whole}", f"CAST({whole} AS VARCHAR)"),
        otherwise=text,
    )


def is_bad_id(item: str) -> str:
    """`service.ranking.item_ids.item_id_problem`, out of core: too long, or holding a control character."""
    return rf"(length({item}) > {MAX_ITEM_ID_LENGTH} OR regexp_matches({item}, '\p{{Cc}}'))"
