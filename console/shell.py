"""What is around every page: header, navigation, notices, the question before a change."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nicegui import ui

from console.service import Service, ServiceError
from console.watching.watch import Watch

log = logging.getLogger("console")
REFRESH_SECONDS = 2.0  # how often an open page looks at what the watch knows
LOGOUT = '<form method="post" action="/logout"><button class="plain" type="submit">Log out</button></form>'
# The drawer of a narrow screen; on a wide one it is always there.
TOGGLE = """(event) => {
  const open = document.body.classList.toggle("drawer-open");
  event.currentTarget.setAttribute("aria-expanded", String(open));
}"""
# A page is refused its socket once its login has ended, or the console has started anew: ask for the key.
AGAIN = """<script>
addEventListener("load", function watch() {
  if (!window.socket) return setTimeout(watch, 100);
  window.socket.on("connect_error", async () => {
    const answer = await fetch("/", { method: "HEAD", redirect: "manual" }).catch(() => null);
    if (answer && answer.type === "opaqueredirect") location.assign("/login");
  });
});
</script>"""
# Until its socket is open, NiceGUI keeps each event on a timer of its own, and then sends them in any order,
# the Enter before the letters: all wait in one queue instead.
IN_ORDER = """<script>
{
  let socket, emit, open = false;
  const waiting = [];
  Object.defineProperty(window, "socket", {
    get: () => socket,
    set(made) {
      socket = made;
      emit = made.emit.bind(made);
      made.emit = (...event) => {
        if (open || event[0] === "handshake") emit(...event);
        else waiting.push(event);
        return made;
      };
    },
  });
  Object.defineProperty(window, "did_handshake", {
    get: () => socket !== undefined,
    set(done) {
      open = done;
      if (open) waiting.splice(0).forEach((event) => emit(...event));
    },
  });
}
</script>"""
STYLE = '<link rel="stylesheet" href="/console.css">'


class Entry(Protocol):
    """A row of the navigation."""

    @property
    def title(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def icon(self) -> str: ...


@dataclass(frozen=True)
class Console:
    """What a page is given; one for each page that is opened."""

    service: Service
    watch: Watch
    artifacts: Path | None
    query: Mapping[str, str]

    def notify(self, text: str) -> None:
        """Something went well."""
        ui.notify(text, type="positive", position="top", close_button="Close")

    def notify_error(self, error: Exception) -> None:
        """Something did not: the service's own words; for a defect of ours, what the log says more of."""
        if not isinstance(error, ServiceError):
            log.error("a page failed", exc_info=error)
        ui.notify(said(error), type="negative", position="top", timeout=10_000, close_button="Close")

    async def confirm(self, title: str, what_will_happen: str, action: str) -> bool:
        """Ask before a change; `action` is the button's word. False: do nothing."""
        with ui.dialog() as dialog, ui.card().classes("card"):
            dialog.props('transition-duration="0"')
            dialog.props["aria-label"] = title
            ui.label(title).classes("dialog-title")
            ui.label(what_will_happen).classes("dialog-text")
            with ui.row().classes("full-width justify-end"):
                ui.button("Cancel", on_click=lambda: dialog.submit(False)).props("flat no-caps autofocus")
                ui.button(action, on_click=lambda: dialog.submit(True)).props("unelevated no-caps")
        answer = await dialog
        dialog.delete()
        return answer is True


def said(error: Exception) -> str:
    """An error in words for whoever looks at a page."""
    if isinstance(error, ServiceError):
        return error.detail
    return f"The console itself failed ({type(error).__name__}); its log says more."


def notice(text: str, kind: str = "bad", *, retry: bool = False) -> None:
    """A box that says something in the page's place; `kind` is bad, warn or good."""
    with ui.element("div").classes(f"notice {kind}").props('role="alert"'):
        ui.label(text)
        if retry:
            ui.button("Try again", on_click=lambda: ui.navigate.reload()).props("flat no-caps dense")


def shell(entries: Sequence[Entry], here: Entry, console: Console) -> None:
    """Put everything but the page itself there."""
    ui.add_head_html(STYLE + IN_ORDER + AGAIN)
    ui.colors(primary="#1a56b0", positive="#1b6e3c", negative="#b3261e", warning="#7a4f00", info="#1a56b0")
    ui.page_title(f"{here.title} · Nextclick")
    ui.on_exception(console.notify_error)
    with ui.header(elevated=False).classes("top"):
        # All in the browser: Quasar's drawer asks it how wide it is, and fails where that takes a second.
        with ui.element("button").classes("plain menu").on("click", js_handler=TOGGLE) as menu:
            menu.props('type="button" aria-label="Navigation" aria-expanded="false" aria-controls="pages"')
            ui.icon("menu").props('aria-hidden="true"')
        ui.label("Nextclick").classes("brand")
        ui.label(console.service.url).classes("address")
        ui.space()
        ui.html(LOGOUT, sanitize=False)
        with ui.element("nav").props('id="pages" aria-label="Pages"').classes("drawer"):
            for entry in entries:
                link = ui.element("a").props(f'href="{entry.path}"').classes("entry")
                if entry is here:
                    link.props('aria-current="page"')
                with link:
                    ui.icon(entry.icon).props('aria-hidden="true"')
                    ui.label(entry.title)
    _health(console.watch)
    ui.html(here.title, tag="h1").classes("heading")


def _health(watch: Watch) -> None:
    """A notice on every page while the service does not answer, or says that it is not ready."""
    box = ui.element("div").classes("notice bad health").props('role="status"')
    with box:
        text = ui.label()

    def refresh() -> None:
        problem = watch.problem()
        box.set_visibility(problem is not None)
        text.text = problem or ""

    refresh()
    ui.timer(REFRESH_SECONDS, refresh)
