"""What is collected, what was prepared of it, and what was left out, and why."""

from __future__ import annotations

from html import escape

from nicegui import ui

from console.pages.parts import Freshness, Part, muted, read, section
from console.pages.tables import table
from console.shell import Console, notice
from console.shown.collected import (
    Collected,
    DataRow,
    ScheduledRow,
    find_collected,
    find_data,
    find_scheduled,
    share_of,
)

COLLECTED = "Of artifacts/clicks/commit.json: what nextclick collect has brought, by day (UTC)."
PREPARED = "Of dataset.json: what nextclick prepare, or a run, understood of the log, and what it left out."
SCHEDULED = "Of artifacts/schedule: the last run of each command that nextclick schedule follows."
SHOWN_DAYS = 31
SHOWN_SETS = 20


async def page(console: Console) -> None:
    """The page."""
    fresh = Freshness()
    with section("Collected clicks", COLLECTED):
        collected = Part[Collected | str](_collected)
    with section("Prepared data sets", PREPARED):
        data = Part[list[DataRow] | str](_data)
    with section("Scheduled runs", SCHEDULED):
        scheduled = Part[list[ScheduledRow] | str](_scheduled)

    async def refresh() -> None:
        collected.show(await read(console, find_collected))
        data.show(await read(console, find_data))
        scheduled.show(await read(console, find_scheduled))

    await fresh.follow(refresh)


def _collected(found: Collected | str) -> None:
    if isinstance(found, str):
        muted(found)
        return
    if found.problem is not None:
        notice(found.problem)
        return
    if found.last is None:
        muted("No clicks are collected yet: nextclick collect brings them.")
        return
    ui.label(f"Last collected {found.last}: {share_of(found.totals)}, over all collections.")
    for gap in found.gaps:
        notice(f"The click log had a gap: {gap}.", "warn")
    days = [(day.day, day.clicks, day.files, day.size) for day in found.days]
    table("Collected clicks by day", ("Day", "Clicks", "Files", "Size"), days[:SHOWN_DAYS]).classes("card")
    if len(days) > SHOWN_DAYS:
        muted(f"{len(days) - SHOWN_DAYS} older days are in artifacts/clicks.")


def _data(found: list[DataRow] | str) -> None:
    if isinstance(found, str) or not found:
        muted(
            found if isinstance(found, str) else "No data set is prepared yet: nextclick prepare makes one."
        )
        return
    for row in found[:SHOWN_SETS]:
        with ui.element("article").classes("card data-set"):
            ui.html(escape(row.place), tag="h3", sanitize=False)
            if row.problem is not None:
                notice(row.problem)
                continue
            times = f", clicks from {row.first} to {row.last}" if row.first != "–" else ""
            ui.label(f"{row.name}{times}").classes("caption")
            with ui.element("dl").classes("counts"):
                for name, count in row.counts:
                    with ui.element("div"):
                        ui.html(escape(name), tag="dt", sanitize=False)
                        ui.html(count, tag="dd", sanitize=False)
            if row.rejected:
                ui.label(f"Left out: {share_of(row.rejected)}.")
            elif row.files:
                ui.label("No row was left out.")
            if row.files:
                table(f"Files of {row.place}", ("File", "Lines", "Clicks kept"), row.files)
    if len(found) > SHOWN_SETS:
        muted(f"{len(found) - SHOWN_SETS} older data sets are in artifacts.")


def _scheduled(found: list[ScheduledRow] | str) -> None:
    if isinstance(found, str) or not found:
        muted(found if isinstance(found, str) else "No command is scheduled.")
        return
    table(
        "The last scheduled run of each command",
        ("Command", "Scheduled for", "Took", "Outcome"),
        [(row.command, row.scheduled, row.took, row.outcome) for row in found],
    ).classes("card")
