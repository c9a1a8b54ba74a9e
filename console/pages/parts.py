"""What pages are built of that show what changes while they are open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Generic, TypeVar

from nicegui import ui

from console.service import ServiceError
from console.shell import Console, notice, said

REFRESH_SECONDS = 10.0  # while somebody looks at the page
NO_ARTIFACTS = (
    "There is no directory of artifacts here: start the console where the service and the trainer have "
    "theirs, or name it by --artifacts."
)
NO_TRAINING = "What the trainer writes is read where its extra is installed: pip install 'nextclick[train]'."

T = TypeVar("T")


class Part(Generic[T]):
    """A part of a page that is drawn anew when what it shows has changed, and keeps the focus when not."""

    def __init__(self, draw: Callable[[T], object]) -> None:
        self._draw = draw
        self._box = ui.element("div").classes("part")
        self._shown: list[T] = []

    def show(self, found: T) -> None:
        if self._shown == [found]:
            return
        self._shown = [found]
        self._box.clear()
        with self._box:
            self._draw(found)


def section(title: str, about: str = "") -> ui.element:
    """A part of the page with a heading of its own; what comes into it is put there by `with`."""
    box = ui.element("section").classes("section")
    box.props["aria-label"] = title
    with box:
        ui.html(escape(title), tag="h2", sanitize=False)
        if about:
            ui.label(about).classes("caption")
    return box


class Freshness:
    """Says of when a page is, and draws it anew: every 10 s while it is looked at, and when asked to."""

    def __init__(self) -> None:
        self._refresh: Callable[[], Awaitable[object]]
        with ui.element("div").classes("fresh"):
            self._as_of = ui.label().classes("caption")
            button("Refresh", self._now, flat=True)

    async def follow(self, refresh: Callable[[], Awaitable[object]]) -> None:
        """Draw the page, and go on."""
        self._refresh = refresh
        ui.timer(REFRESH_SECONDS, self._unasked, immediate=False)
        try:
            await self._now()
        except ServiceError as error:
            notice(said(error), retry=True)

    async def _now(self) -> None:
        await self._refresh()
        self._as_of.text = f"As of {time.strftime('%H:%M:%S', time.gmtime())} UTC"

    async def _unasked(self) -> None:
        # What is wrong with the service is told by the shell; a page that is gone answers nothing.
        with suppress(ServiceError, TimeoutError):
            seen = await ui.run_javascript("document.visibilityState", timeout=REFRESH_SECONDS)
            if seen == "visible":
                await self._now()


def button(
    text: str, act: Callable[[], Awaitable[object]], *, spoken: str | None = None, flat: bool = False
) -> None:
    """A button in the colours of the page; `spoken`: what it does, where its text alone does not say."""
    made = ui.button(text, on_click=act, color=None).props("no-caps dense").classes("action")
    made.props("flat" if flat else "outline")
    if spoken is not None:
        made.props["aria-label"] = spoken


async def read(console: Console, find: Callable[[Path], T]) -> T | str:
    """What is found in the artifacts, read apart; or why nothing is."""
    if console.artifacts is None:
        return NO_ARTIFACTS
    try:
        return await asyncio.to_thread(find, console.artifacts)
    except ModuleNotFoundError:
        return NO_TRAINING


def muted(text: str) -> None:
    """A line where there is nothing to show."""
    ui.label(text).classes("muted")
