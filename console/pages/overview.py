"""How the service is now, and what is wrong."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape

from nicegui import ui

from console.service import ServiceError
from console.shell import REFRESH_SECONDS, Console, said
from console.watching.alarms import RULES, Alarm, Rule
from console.watching.charts import chart
from console.watching.figures import Card, VersionRow, cards, duration, said_with, versions
from console.watching.watch import Watch

QUALITY = (
    "Of GET /models, over all workers, since the version was first live: next clicks among the 20 items "
    "answered (hit rate), and the mean of 1 / their place (MRR). In brackets: where the true rate lies, 19 "
    "times in 20."
)


async def page(console: Console) -> None:
    """The first page. It looks at what the watch has seen, and asks nothing of its own but GET /models."""
    with ui.element("section").props('aria-labelledby="wrong"').classes("section"):
        ui.html("What is wrong now", tag="h2", sanitize=False).props('id="wrong"')
        summary = ui.label().props('role="status"')
        wrong = ui.html("", sanitize=False)
    with ui.element("section").props('aria-labelledby="figures"').classes("section"):
        ui.html("Now, and in the last half hour", tag="h2", sanitize=False).props('id="figures"')
        as_of = ui.label().classes("caption")
        figures = ui.html("", sanitize=False).classes("cards")
    with ui.element("section").props('aria-labelledby="quality"').classes("section"):
        ui.html("Live quality", tag="h2", sanitize=False).props('id="quality"')
        quality = ui.html("", sanitize=False)
        ui.label(QUALITY).classes("caption")
    shown = -1

    async def refresh() -> None:
        nonlocal shown
        watch = console.watch
        if watch.looked == shown:
            return
        shown = watch.looked
        found = watch.wrong()
        summary.text = summed_up(found, watch.alarms.unknown)
        sounds = any(not each.pending for each in found)
        summary.classes(replace="bad" if sounds else "warn" if found else "good")
        wrong.content = "".join(map(alarm_html, found))
        as_of.text = seen(watch)
        begin = _clock_time(watch.history.looks[0].at) if watch.history.looks else ""
        figures.content = "".join(card_html(card, begin) for card in cards(watch.history))
        try:
            quality.content = versions_html(versions(await watch.models(console.service)))
        except ServiceError as error:
            quality.content = f'<p class="muted">{escape(said(error))}</p>'

    await refresh()
    ui.timer(REFRESH_SECONDS, refresh)


def summed_up(found: Sequence[Alarm], unknown: Sequence[Rule]) -> str:
    """One line on all alarms."""
    sounding = sum(not alarm.pending for alarm in found)
    told = f"{sounding} alarm{'' if sounding == 1 else 's'}" if sounding else "Nothing sounds"
    if len(found) > sounding:
        told += f", {len(found) - sounding} pending"
    if unknown:
        late = max(rule.needs_seconds for rule in unknown)
        until = f" (up to {duration(late)})" if late else ""
        told += (
            f"; {len(unknown)} of {len(RULES)} cannot be told yet: the console has to look for longer{until}"
        )
    return told + "."


def seen(watch: Watch) -> str:
    """From when to when the console has looked."""
    if not watch.history.looks:
        return "No metrics were seen yet."
    latest = watch.history.looks[-1].at
    old = f", and none since: {watch.no_metrics}" if watch.no_metrics else ""
    return f"As of {_clock_time(latest)}, from {watch.metrics_url}{old}"


def alarm_html(alarm: Alarm) -> str:
    """An alarm, in words."""
    since = f"since {_clock_time(alarm.since)}" + (", not for long enough to sound" if alarm.pending else "")
    return (
        f'<article class="notice {"warn" if alarm.pending else "bad"} alarm">'
        f"<h3>{escape(alarm.name)}</h3><p>{escape(alarm.why)}</p><p>{escape(alarm.do)}</p>"
        f'<p class="caption">{escape(alarm.figure)}; {since}; {escape(alarm.section)}</p></article>'
    )


def card_html(card: Card, begin: str) -> str:
    """A figure, its notes, its line and its source."""
    notes = "".join(f"<li>{escape(note)}</li>" for note in card.notes)
    line = chart(card.title, card.lines, said_with(card.unit), begin) if card.lines else ""
    names = ", ".join(each.name for each in card.lines)
    source = escape(card.source).replace("_", "_<wbr>")
    legend = f'<p class="caption">{escape(names)}</p>' if len(card.lines) > 1 else ""
    return (
        f'<article class="card"><h3>{escape(card.title)}</h3>'
        f'<p><span class="figure">{escape(card.figure)}</span> {escape(card.of)}</p>'
        f'<ul class="notes">{notes}</ul>{line}{legend}'
        f'<p class="caption source">{source}</p></article>'
    )


def versions_html(rows: Sequence[VersionRow]) -> str:
    """A table, which scrolls by itself where it is too wide."""
    if not rows:
        return '<p class="muted">No version is loaded.</p>'
    head = ("Version", "Role", "Judged clicks", "Hit rate@20", "MRR@20", "Feedback clicks")
    columns = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row.version)}</th>'
        + "".join(
            f"<td>{escape(cell)}</td>" for cell in (row.role, row.judged, row.hit_rate, row.mrr, row.feedback)
        )
        + "</tr>"
        for row in rows
    )
    return (
        '<div class="scrolls card" tabindex="0" role="region" aria-label="Live quality of each version">'
        f'<table class="numbers"><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _clock_time(at: float) -> str:
    return time.strftime("%H:%M:%S UTC", time.gmtime(at))
