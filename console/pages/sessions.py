"""A live session: its clicks, what it is answered now, and what it would be, had it gone otherwise."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from nicegui import ui

from console.pages.tables import answer_table, heading, item_cell, table
from console.service import Json, ServiceError, segment
from console.shell import Console, notice
from console.shown.items import Titles
from console.shown.ranks import compared
from console.shown.sessions import Click, WhatIf, clicks_of


async def page(console: Console) -> None:
    """Ask for a session, and show it."""
    session_id = console.query.get("id", "").strip()
    ui.label("What a shopper's session holds, what it is answered now, and what would change that.").classes(
        "muted"
    )
    with ui.row().classes("items-center q-gutter-sm"):
        asked = ui.input("Session id", value=session_id).props("outlined dense maxlength=128").classes("wide")

        def go() -> None:
            ui.navigate.to(f"/sessions?id={quote(str(asked.value).strip(), safe='')}")

        asked.on("keydown.enter", go)
        ui.button("Look up", on_click=go).props("unelevated no-caps")
    if session_id:
        try:
            found = await console.service.get(f"/sessions/{segment(session_id)}")
        except ServiceError as error:
            if error.status != 404:
                raise
            notice("There is no such session, or it has expired.", "warn")
        else:
            await _Session(console, session_id, clicks_of(found)).show()


class _Session:
    """One session that is looked at."""

    def __init__(self, console: Console, session_id: str, clicks: list[Click]) -> None:
        self._console = console
        self._session_id = session_id
        self._clicks = clicks
        self._titles = Titles(console.service)
        self._clicked = self._wanted = WhatIf.of(clicks)
        self._placement = ""
        self._as_it_is: Json = {}
        self._focus: tuple[str, int] | None = (
            None  # the button to go on from: its icon, and the place of its click
        )

    async def show(self) -> None:
        names = [
            each["name"] for each in (await self._console.service.get("/admin/placements"))["placements"]
        ]
        await self._titles.learn(click.item_id for click in self._clicks)
        with ui.element("section").classes("card part"):
            with ui.row().classes("items-center justify-between full-width"):
                heading(f"Clicks ({len(self._clicks)})")
                ui.button("Erase this session", on_click=self._erase).props("outline no-caps color=negative")
            table(
                "Clicks, the oldest first",
                ["Click", "Item", "Type", "Time"],
                [
                    [str(each.number), item_cell(each.item_id, self._titles), each.type, each.at]
                    for each in self._clicks
                ],
            )
        with ui.element("section").classes("card part"):
            with ui.row().classes("items-center justify-between full-width"):
                heading("Answer now")
                if names:
                    ui.select(
                        {"": "without a placement", **{name: name for name in names}},
                        value="",
                        label="Placement",
                        on_change=lambda event: self._place(event.value),
                    ).props("outlined dense options-dense").classes("wide")
            ui.label("Made for this page: it is not counted, remembered or judged.").classes("caption")
            self._now = ui.element("div").classes("part")
        with ui.element("section").classes("card part"):
            heading("What if")
            ui.label("Take a click out, move it, or add one: nothing is stored.").classes("caption")
            with ui.element("div").classes("halves"):
                self._list = ui.element("div").classes("part")
                self._then = ui.element("div").classes("part").props('aria-live="polite"')
        await self._answer()

    async def _place(self, name: str) -> None:
        self._placement = name
        await self._answer()

    async def _ask(self, **session: object) -> Json:
        """What is live, from the preview of a draft that says nothing: nobody is told of it."""
        body = {"placement": {}, "beside": self._placement or None, **session}
        return dict((await self._console.service.post("/admin/placements/preview", body))["live"])

    async def _answer(self) -> None:
        now = await self._ask(session_id=self._session_id)
        self._as_it_is = await self._ask(items=list(self._clicked.items))
        await self._titles.learn(item["item_id"] for item in (*now["items"], *self._as_it_is["items"]))
        self._now.clear()
        with self._now:
            with ui.element("div").classes("cards"):
                for caption, text in (
                    ("Stage", now["stage"]),
                    ("Version", now["version"] or "none"),
                    ("Why", now["reason"]),
                    ("Unknown items", ", ".join(now["ignored"]) or "none"),
                ):
                    with ui.element("div"):
                        ui.label(caption).classes("caption")
                        ui.label(text).classes("wraps")
            answer_table("Answer now", compared(now), self._titles, with_moves=False)
        await self._what_if(self._wanted)

    async def _what_if(self, wanted: WhatIf) -> None:
        then = await self._ask(items=list(wanted.items))
        await self._titles.learn([*wanted.items, *(item["item_id"] for item in then["items"])])
        self._wanted = wanted
        answer = compared(then, self._as_it_is)
        self._list.clear()
        with self._list:
            self._edit()
        self._then.clear()
        with self._then:
            if wanted == self._clicked:
                ui.label("As it was clicked: that is the answer above.").classes("muted")
                return
            ui.label(f"{wanted.said(self._clicked).capitalize()}: {answer.summary}.")
            ui.label(f"Stage {then['stage']}: {then['reason']}.").classes("caption")
            answer_table("Answer to what if", answer, self._titles, with_moves=True)

    def _edit(self) -> None:
        wanted = self._wanted
        made: dict[tuple[str, int], ui.button] = {}

        def button(icon: str, word: str, place: int, to: int, change: Callable[[], WhatIf]) -> None:
            async def changed() -> None:
                self._focus = (icon, to)
                await self._what_if(change())

            each = made[icon, place] = ui.button(icon=icon, on_click=changed).props("flat round dense")
            each.props["aria-label"] = f"{wanted.items[place]}, click {place + 1}: {word}"

        def buttons(place: int) -> Callable[[], object]:
            def put() -> None:
                with ui.row().classes("no-wrap"):
                    button("arrow_upward", "earlier", place, place - 1, lambda: wanted.moved(place, -1))
                    button("arrow_downward", "later", place, place + 1, lambda: wanted.moved(place, 1))
                    button("close", "take out", place, place, lambda: wanted.without(place))

            return put

        table(
            "Clicks of what if",
            ["Click", "Item", "Change"],
            [
                [str(place + 1), item_cell(item_id, self._titles), buttons(place)]
                for place, item_id in enumerate(wanted.items)
            ],
        )
        with ui.row().classes("items-center q-gutter-sm"):
            added = ui.input("Item id to add").props("outlined dense maxlength=256")

            async def add() -> None:
                if item_id := str(added.value).strip():
                    self._focus = ("", 0)
                    await self._what_if(wanted.with_one(item_id))

            async def reset() -> None:
                await self._what_if(self._clicked)

            added.on("keydown.enter", add)
            ui.button("Add", on_click=add).props("outline no-caps")
            ui.button("As it was", on_click=reset).props("flat no-caps")
        if self._focus is not None:  # the button that was pressed is another one now
            icon, place = self._focus
            again = made.get((icon, min(max(place, 0), len(wanted.items) - 1)))
            if again is None:
                added.run_method("focus")
            else:
                ui.run_javascript(f"document.getElementById('{again.html_id}').focus()")
            self._focus = None

    async def _erase(self) -> None:
        text = (
            f"All {len(self._clicks)} clicks of {self._session_id} are erased now, and are left out when the "
            "click log is collected. That cannot be undone. The visitor's next click begins a new session."
        )
        if await self._console.confirm("Erase this session?", text, "Erase"):
            await self._console.service.delete(f"/sessions/{segment(self._session_id)}")
            ui.navigate.to("/sessions")
