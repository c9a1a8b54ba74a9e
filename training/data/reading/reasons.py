"""Which rows are clicks, and the reason why another is none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import ibis
from ibis.expr.types import BooleanColumn, StringColumn, Table

from service.ranking.item_ids import MAX_ITEM_ID_LENGTH
from training.data.dataset import SourceFile
from training.data.reading.presets import LogFormat
from training.data.reading.tables import Log
from training.data.reading.times import SECOND, SIZES, is_of_another_unit, microseconds, time_units

EXACT = 2**53  # from here on, whole numbers are not all floats
INEXACT, NO_ID = "\x1f~", "\x1f{"  # before what stands for an id and is none
_YEAR_10000 = 253_402_300_800 * SECOND


def judged_log(
    rows: Table,
    malformed: Table,
    files: Table,
    format_: LogFormat,
    sources: Sequence[SourceFile],
    rows_are_lines: bool = False,
) -> Log:
    """The log of the `rows` of all files, each with its time, or with the reason why it is no click."""
    rows, other_events = chosen(rows, format_)
    units = time_units(rows, [source.path for source in sources], format_)
    sources = [source.model_copy(update={"time_unit": units[n]}) for n, source in enumerate(sources)]
    rows = _judged(rows, format_, units)
    return Log(rows, malformed, files, tuple(sources), other_events, rows_are_lines=rows_are_lines)


def chosen(rows: Table, format_: LogFormat) -> tuple[Table, dict[int, int]]:
    """The rows with the events that are clicks, and how many others there are by file."""
    if not format_.events:
        return rows, {}
    is_click = rows.event.isin(format_.events).fill_null(False)
    if {"session", "item", "time"} <= set(rows.columns):
        is_click = is_click.ifelse(True, _is_header(rows, format_))  # which is rejected, and counted as such
    others = rows.filter(~is_click).group_by("file").agg(others=lambda table: table.count())
    return rows.filter(is_click), {row["file"]: row["others"] for row in others.to_pyarrow().to_pylist()}


def _judged(rows: Table, format_: LogFormat, units: Mapping[int, str]) -> Table:
    """Give every row its time, its tick, and the reason why it is no click, where there is one."""
    files_of: dict[str, list[int]] = {}
    for number, unit in units.items():
        files_of.setdefault(unit, []).append(number)
    times = {unit: microseconds(rows.time, unit) for unit in files_of}
    number, [first, *_] = rows.time.try_cast("float64"), times
    is_finite = ~(number.isnan() | number.isinf())
    is_other = ibis.literal(False)
    time = times[first]
    if len(times) > 1:
        time = ibis.cases(*((rows.file.isin(files), times[unit]) for unit, files in files_of.items()))
    for unit, files in files_of.items():
        if unit not in SIZES:
            is_finite |= rows.file.isin(files)
        elif format_.time_format == "auto":
            is_other |= rows.file.isin(files) & is_of_another_unit(number, unit)
    tick = rows.tick.try_cast("int64") if format_.tick else ibis.literal(0)
    who = "visitor" if format_.by_visitor else "session"
    is_nobody = is_nothing(rows.session, format_)
    session = rows.session
    if format_.nobody_alone:
        is_nobody |= is_blank(session)
        session = is_nobody.ifelse(ibis.literal("\x1f") + rows.row.cast("string"), session)
        is_nobody = ibis.literal(False)
    reason = ibis.cases(
        (session.startswith(INEXACT) | rows.item.startswith(INEXACT), "inexact_id"),
        (session.startswith(NO_ID) | rows.item.startswith(NO_ID), "malformed_id"),
        # Of Google Analytics, where visitors may refuse to be known, no fault of the log.
        (is_blank(session), "no_session" if format_.visitor else f"missing_{who}"),
        (is_nobody, f"no_{who}"),
        (is_blank(rows.item) | is_nothing(rows.item, format_), "missing_item"),
        (is_bad_id(rows.item), "bad_item_id"),
        (is_blank(rows.time), "missing_time"),
        (~is_finite, "time_not_finite"),
        (is_nothing(rows.time, format_), "missing_time"),
        (is_other, "other_time_unit"),
        (
            time.isnull() | tick.isnull(),
            _is_header(rows, format_).ifelse("repeated_header", "unparsable_time"),
        ),
        (time < 0, "negative_time"),
        (time >= _YEAR_10000, "time_out_of_range"),
    )
    return rows.select("file", "row", "item", "raw", session=session, time=time, tick=tick, reason=reason)


def _is_header(rows: Table, format_: LogFormat) -> BooleanColumn:
    """Whether a row has the names of the columns, as where files with a header each were joined."""
    names = format_.columns
    fields = ("time", "item", "session")  # the first differs soonest
    named = (rows[field].strip().isin([names[field], f"\ufeff{names[field]}"]) for field in fields)
    return ibis.and_(*named).fill_null(False)


def raw_of(log: Table, format_: LogFormat) -> StringColumn:
    """A row as it is listed, when it is rejected: the fields that are asked for."""
    fields = [log[field].fill_null("") for field in format_.columns]
    return ibis.literal(",").join(fields).re_replace(f"{INEXACT[0]}[~{{]", "")


def is_blank(text: StringColumn) -> BooleanColumn:
    """Whether there is nothing but white space."""
    return ~text.re_search(r"\S").fill_null(False)


def is_nothing(text: StringColumn, format_: LogFormat) -> BooleanColumn:
    """Whether it is what stands for nothing, in white space or not."""
    if not format_.nothing:
        return ibis.literal(False)
    # One expression takes a quarter of the time of stripping every text.
    return text.re_search(rf"^\s*(?:{'|'.join(map(re.escape, format_.nothing))})\s*$").fill_null(False)


def is_bad_id(item: StringColumn) -> BooleanColumn:
    """`service.ranking.item_ids.item_id_problem`, out of core: too long, or holding a control character."""
    return (item.length() > MAX_ITEM_ID_LENGTH) | item.re_search(r"\p{Cc}")
