"""Placements: how each does, a form to change one, its answer beside the live one, its history."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from nicegui import ui
from nicegui.elements.mixins.validation_element import ValidationElement

from console.pages.tables import answer_table, heading, table
from console.service import Json, ServiceError
from console.shell import Console, notice
from console.shown.items import Titles
from console.shown.placements import (
    PARTS,
    SEEN,
    STAGES,
    Form,
    FormError,
    Place,
    Version,
    changes,
    errors_of,
    history_of,
    listed,
)
from console.shown.ranks import compared

NAME = re.compile(r"[a-z0-9_-]{1,32}")
DEBOUNCE_MS = 400  # after a key, before the preview is asked for
ONE = {"boosts": "boost", "bury": "bury", "promotions": "promotion", "caps": "cap", "pins": "pin"}
SAYS = {
    "boosts": "Items that match are worth factor times as much, plus addition.",
    "bury": "Items that match stand behind all others.",
    "promotions": "At least so many percent of the answer match.",
    "caps": "At most so many items of the answer share a value of an attribute.",
    "pins": "Items at positions, from 1 on.",
}
LABELS = {
    "name": "Name",
    "factor": "Factor",
    "addition": "Addition",
    "rule": "Rule (JSON)",
    "percent": "Percent",
    "attribute": "Attribute",
    "at_most": "At most",
    "item_id": "Item id",
    "position": "Position",
}


async def page(console: Console) -> None:
    """One placement, if the address names it; else all of them."""
    name = console.query.get("name", "")
    if not name:
        await _all(console)
    elif NAME.fullmatch(name):
        await _One(console, name).show()
    else:
        notice("A placement's name is of 1 to 32 letters a-z, digits, '_' and '-'.", "warn")
        ui.link("All placements", "/placements")


async def _all(console: Console) -> None:
    found = listed((await console.service.get("/admin/placements"))["placements"])
    ui.label(
        "What each place of the shop is answered. The live figures are of the sampled sessions."
    ).classes("muted")
    with ui.element("section").classes("card part"):
        heading("All placements")
        if found:
            table(
                "Placements",
                ["Name", "Version", "Judged clicks", "Hit rate@20", "MRR@20", "Problem"],
                [
                    [
                        lambda each=each: ui.link(each.name, f"/placements?name={each.name}"),  # type: ignore[misc]
                        each.version,
                        each.judged,
                        each.hit_rate,
                        each.mrr,
                        each.problem or "–",
                    ]
                    for each in found
                ],
            )
        else:
            ui.label("There are none yet.").classes("muted")
        with ui.row().classes("items-center q-gutter-sm"):
            name = ui.input("Name of a new one").props("outlined dense maxlength=32")

            def begin() -> None:
                name.error = None if NAME.fullmatch(name.value) else "a-z, digits, _ and -"
                if name.error is None:
                    ui.navigate.to(f"/placements?name={name.value}")

            name.on("keydown.enter", begin)
            ui.button("New placement", on_click=begin).props("outline no-caps")


class _One:
    """A placement that is looked at, and changed."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._titles = Titles(console.service)
        self._live: Json | None = None  # the placement as it is; None: there is none yet
        self._form = Form()
        self._fields: dict[Place, ValidationElement[Any]] = {}
        self._asked = 0  # previews; an older one that answers late is not shown

    async def show(self) -> None:
        try:
            found = await self._console.service.get(f"/admin/placements/{self._name}")
        except ServiceError as error:
            if error.status != 404:
                raise
        else:
            self._live = found["placement"]
            self._form = Form.of(found["placement"])
            if found["problem"]:
                notice(f"Nothing is answered in it: {found['problem']}")
        ui.link("All placements", "/placements")
        with ui.element("div").classes("halves"):
            with ui.element("section").classes("card part"):
                heading(self._name if self._live is not None else f"{self._name} (new)")
                self._problem = ui.label().classes("bad").props('role="alert"')
                self._edit = ui.element("div").classes("part")
                with ui.row().classes("q-gutter-sm"):
                    ui.button("Save", on_click=self._save).props("unelevated no-caps")
                    if self._live is not None:
                        ui.button("Delete", on_click=self._delete).props("outline no-caps color=negative")
            with ui.element("section").classes("card part stays"):
                self._preview_head()
                self._old = ui.label("What is wrong in the form comes first: this is the answer before it.")
                self._old.classes("warn").set_visibility(False)
                self._beside = ui.element("div").classes("part").props('aria-live="polite"')
        if self._live is not None:
            await self._history()
        self._lay_out()
        await self._preview()

    def _lay_out(self, then: Place | None = None) -> None:
        """The form anew: a row has come or gone; `then`: the field, or the part's button, to go on from."""
        self._fields.clear()
        self._edit.clear()
        texts = self._form.texts
        with self._edit:
            with ui.element("div").classes("fields"):
                self._field(texts, ("k",), "Items (k)", "1 to 100; default 20")
                self._field(texts, ("fields",), "Fields", "as in title, price")
                self._field(texts, ("stages",), "Stages in their order", f"default {', '.join(STAGES)}")
                self._field(texts, ("model",), "Model (version)", "default: the live one")
                self._field(texts, ("mmr",), "MMR λ", "0 to 1; 1 is relevance alone")
                with ui.element("div"):
                    self._seen(texts)
            self._field(texts, ("filter",), "Filter (JSON)", "only items that it lets through", is_long=True)
            for part, names in PARTS.items():
                with ui.element("fieldset").classes("rows"):
                    with ui.element("legend"):
                        ui.label(part.capitalize())
                    ui.label(SAYS[part]).classes("caption")
                    for number, row in enumerate(self._form.parts[part]):
                        self._row(part, names, number, row)
                    more = ui.button(f"Add a {ONE[part]}", on_click=self._adds(part))
                    more.props("flat dense no-caps")
                    if then == (part,):
                        ui.run_javascript(f"document.getElementById('{more.html_id}').focus()")
        if then in self._fields:
            self._fields[then].run_method("focus")

    def _row(self, part: str, names: tuple[str, ...], number: int, row: dict[str, str]) -> None:
        async def remove() -> None:
            del self._form.parts[part][number]
            self._lay_out((part,))
            await self._preview()

        with ui.element("div").classes("fields one"):
            for name in names:
                label = f"{LABELS[name]} of {ONE[part]} {number + 1}"
                self._field(row, (part, str(number), name), label, "", is_long=name == "rule")
            gone = ui.button("Take away", on_click=remove).props("flat dense no-caps").classes("start")
            gone.props["aria-label"] = f"Take away {ONE[part]} {number + 1}"

    def _adds(self, part: str) -> Callable[[], object]:
        async def add() -> None:
            self._form.add(part)
            self._lay_out((part, str(len(self._form.parts[part]) - 1), PARTS[part][0]))
            await self._preview()

        return add

    def _field(
        self, texts: dict[str, str], place: Place, label: str, hint: str, *, is_long: bool = False
    ) -> None:
        async def changed(event: Any) -> None:
            texts[place[-1]] = str(event.value or "")
            await self._preview()

        make = ui.textarea if is_long else ui.input
        made = make(label, value=texts[place[-1]], on_change=changed)
        made.props(f"outlined dense debounce={DEBOUNCE_MS}{' autogrow' if is_long else ''}")
        if hint:
            made.props["hint"] = hint
        if is_long:
            made.classes("long")
        self._fields[place] = made

    def _seen(self, texts: dict[str, str]) -> None:
        async def changed(event: Any) -> None:
            texts["exclude_seen"] = event.value
            await self._preview()

        ui.select(
            SEEN, value=texts["exclude_seen"], label="What the session clicked", on_change=changed
        ).props("outlined dense options-dense")

    def _preview_head(self) -> None:
        heading("Before and after")
        ui.label(
            "One session under this form, beside what it is answered now. Nothing of it is stored or counted."
        ).classes("caption")

        async def changed() -> None:
            await self._preview()

        with ui.element("div").classes("fields"):
            self._session = ui.input("Session id", on_change=changed)
            self._items = ui.input("or items, the oldest click first", on_change=changed)
            for each in (self._session, self._items):
                each.props(f"outlined dense debounce={DEBOUNCE_MS}")
            self._items.props["hint"] = "ids, separated by spaces; none: a new visitor"

    async def _preview(self) -> None:
        """What stands in the form, tried; errors go to where they belong."""
        self._asked += 1
        asked = self._asked
        try:
            body: Json = {"placement": self._form.placement()}
        except FormError as error:
            self._tell({error.place: error.message})
            return
        if self._live is not None:
            body["beside"] = self._name
        if session_id := str(self._session.value).strip():
            body["session_id"] = session_id
        else:
            body["items"] = str(self._items.value).split()
        try:
            found = await self._console.service.post("/admin/placements/preview", body)
        except ServiceError as error:
            if asked == self._asked:
                self._refused(error)
            return
        answer = compared(found["draft"], found["live"])
        await self._titles.learn(
            [*(i.item_id for i in answer.items), *(item_id for _, item_id in answer.gone)]
        )
        if asked != self._asked:
            return
        self._tell({})
        self._beside.clear()
        with self._beside:
            ui.label(f"{answer.summary}.".capitalize())
            draft = found["draft"]
            ui.label(
                f"Stage {draft['stage']}, version {draft['version'] or 'none'}: {draft['reason']}."
            ).classes("caption")
            answer_table("The draft's answer", answer, self._titles, with_moves=True)

    def _refused(self, error: ServiceError) -> None:
        if not error.fields:
            raise error
        self._tell(errors_of(error.fields))

    def _tell(self, errors: dict[Place, str]) -> None:
        for place, made in self._fields.items():
            made.error = errors.get(place)
        other = [message for place, message in errors.items() if place not in self._fields]
        self._problem.text = "; ".join(other)
        self._problem.set_visibility(bool(other))
        self._old.set_visibility(bool(errors))

    async def _save(self) -> None:
        try:
            placement = self._form.placement()
        except FormError as error:
            self._tell({error.place: error.message})
            return
        lines = changes(self._live or {}, placement)
        if self._live is not None and not lines:
            self._console.notify("It is like that already.")
            return
        text = "\n".join(f"• {line}" for line in lines) or "A placement that says nothing: as without one."
        text += "\n\nEvery worker answers by it within a few seconds. What it was stays in its history."
        if not await self._console.confirm(f"Save {self._name}?", text, "Save"):
            return
        try:
            await self._console.service.put(f"/admin/placements/{self._name}", placement)
        except ServiceError as error:
            self._refused(error)
        else:
            ui.navigate.reload()

    async def _delete(self) -> None:
        text = (
            "Whoever asks for it is answered by an error from then on, and its history and live figures are "
            "forgotten. That cannot be undone."
        )
        if await self._console.confirm(f"Delete {self._name}?", text, "Delete"):
            await self._console.service.delete(f"/admin/placements/{self._name}")
            ui.navigate.to("/placements")

    async def _history(self) -> None:
        found = await self._console.service.get(f"/admin/placements/{self._name}/history")
        versions = history_of(found["versions"])

        def changed(version: Version) -> Callable[[], object]:
            def put() -> None:
                for line in version.changed or ["–"]:
                    ui.label(line).classes("wraps")

            return put

        def back(version: Version) -> Callable[[], object]:
            def put() -> None:
                if version is not versions[0]:
                    made = ui.button("Roll back", on_click=lambda: self._roll_back(version))
                    made.props("flat dense no-caps").props["aria-label"] = (
                        f"Roll back to version {version.number}"
                    )
                else:
                    ui.label("live").classes("good")

            return put

        with ui.element("section").classes("card part"):
            heading("History")
            table(
                "History",
                ["Version", "Since", "By", "Changed", ""],
                [[str(each.number), each.at, each.by, changed(each), back(each)] for each in versions],
            )

    async def _roll_back(self, version: Version) -> None:
        lines = changes(self._live or {}, version.placement)
        text = "\n".join(f"• {line}" for line in lines) or "It is like that already."
        text += f"\n\nIt becomes a new version that says what version {version.number} said."
        if await self._console.confirm(
            f"Roll {self._name} back to version {version.number}?", text, "Roll back"
        ):
            query = {"version": version.number}
            await self._console.service.post(f"/admin/placements/{self._name}/rollback", None, query)
            ui.navigate.reload()
