"""The catalogue: search it, look at an item, hide it or say whether it is in stock; and what is hidden."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode

from nicegui import ui

from console.pages.tables import Cell, heading, item_cell, item_link, item_path, table
from console.service import ServiceError, segment
from console.shell import Console, notice
from console.shown.items import (
    MOST_SHOWN,
    Row,
    Titles,
    attributes_of,
    found,
    hiding,
    item_of,
    picture_of,
    rows_of,
    stocking,
)

PAGE = 50


async def page(console: Console) -> None:
    """One item, if the address names it; else a page of them."""
    item_id = console.query.get("id", "")
    query, after = console.query.get("query", ""), console.query.get("after", "")
    with ui.row().classes("items-center q-gutter-sm"):
        asked = ui.input("In id or title", value=query).props("outlined dense maxlength=256").classes("wide")

        def go() -> None:
            ui.navigate.to(f"/items?{urlencode({'query': str(asked.value).strip()})}")

        asked.on("keydown.enter", go)
        ui.button("Search", on_click=go).props("unelevated no-caps")
    hidden = frozenset((await console.service.get("/admin/hidden"))["hidden"])
    if item_id:
        await _one(console, item_id, hidden)
        return
    answer = await console.service.get("/items", {"query": query, "after": after, "limit": PAGE})
    rows = rows_of(answer["items"], hidden)
    with ui.element("section").classes("card part"):
        heading("Catalogue")
        ui.label(found(len(rows), query, answer["next"])).classes("muted").props('role="status"')
        if rows:
            table("Items", ["Picture", "Item", "Price", "Stock", "Shown"], [_row(row) for row in rows])
        with ui.row().classes("q-gutter-x-md"):
            if after:
                ui.link("First page", f"/items?{urlencode({'query': query})}")
            if answer["next"]:
                ui.link("Next page", f"/items?{urlencode({'query': query, 'after': answer['next']})}")
    _hidden(console, sorted(hidden))


def _row(row: Row) -> list[Cell]:
    return [
        lambda: _picture(row.picture, "small"),
        lambda: item_link(row.item_id, row.title),
        row.price or "–",
        row.stock,
        "hidden" if row.is_hidden else "yes",
    ]


def _picture(url: str | None, size: str) -> None:
    if url is None:
        ui.label("none").classes("caption")
        return
    picture = ui.element("img").classes(f"picture {size}")
    picture.props["src"], picture.props["alt"], picture.props["loading"] = url, "", "lazy"


def _hidden(console: Console, item_ids: list[str]) -> None:
    with ui.element("section").classes("card part"):
        heading(f"Hidden now ({len(item_ids):,})")
        if not item_ids:
            ui.label("Nothing is hidden.").classes("muted")
            return
        if len(item_ids) > MOST_SHOWN:
            ui.label(f"The first {MOST_SHOWN} of them:").classes("caption")

        def show_again(item_id: str) -> Callable[[], object]:
            def put() -> None:
                made = ui.button("Show again", on_click=lambda: _hide(console, item_id, hide=False))
                made.props("flat dense no-caps").props["aria-label"] = f"Show {item_id} again"

            return put

        table(
            "Hidden items",
            ["Item", "Change"],
            [
                [lambda each=each: ui.link(each, item_path(each)), show_again(each)]  # type: ignore[misc]
                for each in item_ids[:MOST_SHOWN]
            ],
        )


async def _one(console: Console, item_id: str, hidden: frozenset[str]) -> None:
    item = await item_of(console.service, item_id)
    ui.link("All items", "/items")
    is_hidden = item_id in hidden
    with ui.element("section").classes("card part"):
        with ui.row().classes("items-center justify-between full-width"):
            heading(str((item or {}).get("title") or item_id))
            with ui.row().classes("q-gutter-sm"):
                ui.button(
                    "Show again" if is_hidden else "Hide",
                    on_click=lambda: _hide(console, item_id, hide=not is_hidden),
                ).props("outline no-caps")
                if item is not None:
                    out = item.get("available") is False
                    ui.button(
                        "Back in stock" if out else "Out of stock",
                        on_click=lambda: _stock(console, item_id, available=out),
                    ).props("outline no-caps")
        if is_hidden:
            notice("Hidden: it is never answered.", "warn")
        if item is None:
            notice("The catalogue does not know this item.", "warn")
        else:
            with ui.element("div").classes("halves"):
                _picture(picture_of(item), "large")
                rows = [("item_id", item_id), *attributes_of(item)]
                table("Attributes", ["Attribute", "Value"], [_attribute(*row) for row in rows])
    with ui.element("section").classes("card part"):
        heading("Similar items")
        await _similar(console, item_id)


def _attribute(name: str, value: str) -> list[Cell]:
    if name == "url" and value.startswith(("https://", "http://")):
        return [name, lambda: ui.link(value, value, new_tab=True).classes("wraps")]
    return [name, lambda: ui.label(value).classes("wraps")]


async def _similar(console: Console, item_id: str) -> None:
    try:
        answer = await console.service.get(f"/items/{segment(item_id)}/similar", {"k": 10})
    except ServiceError as error:
        if error.status not in (404, 503):
            raise
        ui.label(f"None: {error.detail}.").classes("muted")
        return
    titles = Titles(console.service)
    await titles.learn(each["item_id"] for each in answer["items"])
    ui.label(f"By version {answer['version']}.").classes("caption")
    table(
        "Similar items",
        ["Rank", "Item", "Score"],
        [
            [str(rank), item_cell(each["item_id"], titles), f"{each['score']:.3f}"]
            for rank, each in enumerate(answer["items"], start=1)
        ],
    )


async def _hide(console: Console, item_id: str, *, hide: bool) -> None:
    if await console.confirm(*hiding(item_id, hide=hide), "Hide" if hide else "Show again"):
        change = console.service.put if hide else console.service.delete
        await change(f"/admin/hidden/{segment(item_id)}")
        ui.navigate.reload()


async def _stock(console: Console, item_id: str, *, available: bool) -> None:
    action = "Back in stock" if available else "Out of stock"
    if await console.confirm(*stocking(item_id, available=available), action):
        await console.service.patch(f"/items/{segment(item_id)}", {"available": available})
        ui.navigate.reload()
