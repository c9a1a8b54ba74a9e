"""Trainings under way, finished and failed, with their curves."""

from __future__ import annotations

from html import escape

from nicegui import ui

from console.pages.parts import Freshness, Part, muted, read, section
from console.shell import Console, notice
from console.shown.runs import Curve, TrainingRow, find_trainings
from console.watching.charts import Line, chart

ABOUT = (
    "Of artifacts/runs: progress.json beside the checkpoints of nextclick train and nextclick run. "
    "Validation MRR@20 and Recall@20 are measured after each epoch, on sessions that were held back; the "
    "loss is of training."
)
SHOWN = 30


async def page(console: Console) -> None:
    """The page."""
    fresh = Freshness()
    with section("Under way", ABOUT):
        running = Part[list[TrainingRow] | str](lambda found: _rows(found, "Nothing is being trained."))
    with section("Ended"):
        ended = Part[list[TrainingRow] | str](lambda found: _rows(found, "No training has ended yet."))

    async def refresh() -> None:
        found = await read(console, find_trainings)
        if isinstance(found, str):
            running.show(found)
            ended.show([])
            return
        running.show([row for row in found if row.status == "running"])
        ended.show([row for row in found if row.status != "running"])

    await fresh.follow(refresh)


def _rows(found: list[TrainingRow] | str, none: str) -> None:
    if isinstance(found, str) or not found:
        muted(found if isinstance(found, str) else none)
        return
    for row in found[:SHOWN]:
        _training(row)
    if len(found) > SHOWN:
        muted(f"{len(found) - SHOWN} older ones are in artifacts/runs.")


def _training(row: TrainingRow) -> None:
    failed = row.status in ("failed", "unreadable")
    with ui.element("article").classes("card training"):
        with ui.row().classes("items-baseline"):
            ui.html(escape(row.place), tag="h3", sanitize=False)
            ui.label(row.status).classes("bad" if failed else "good" if row.status == "done" else "")
        if row.status != "unreadable":
            ui.label(f"{row.model} on {row.dataset}, begun {row.started}").classes("caption")
            ui.label(row.at)
            ui.label(f"Best: {row.best}")
        if row.reason:
            notice(row.reason, "bad" if failed else "warn")
        if row.curves:
            with ui.element("div").classes("cards curves"):
                for name, points in row.curves.items():
                    _curve(row.place, name, points)


def _curve(place: str, name: str, points: Curve) -> None:
    unit = "" if name.startswith("loss") else " %"
    known = [value for _, value in points if value is not None]
    if len(known) < 2:
        ui.label(f"{name}: {known[-1]:.2f}{unit} after epoch {points[-1][0]:.0f}").classes("caption")
        return
    with ui.element("figure").classes("curve"):
        ui.html(
            chart(
                f"{name} of {place}",
                [Line(name, points)],
                lambda value: f"{value:.2f}{unit}",
                f"epoch {points[0][0]:.0f}",
                f"epoch {points[-1][0]:.0f}",
            ),
            sanitize=False,
        )
        with ui.element("figcaption").classes("caption"):
            ui.label(f"{name}: {known[-1]:.2f}{unit} after epoch {points[-1][0]:.0f}")
