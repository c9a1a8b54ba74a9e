"""Tables as all pages have them: they scroll in themselves, and the keyboard reaches them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from urllib.parse import quote

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from console.shown.items import Titles
from console.shown.ranks import Compared

Cell = str | Callable[[], object]  # a text, or what puts something there
SIGNS = {"▲": "good", "▼": "warn", "n": "good"}


def heading(text: str) -> None:
    """Of a section; a text, whatever stands in it."""
    TextElement(tag="h2", text=text)


def table(label: str, heads: Sequence[str], rows: Iterable[Sequence[Cell]]) -> ui.element:
    """Rows of cells under heads, the first cell of a row being its head; `label` is what it is called."""
    with ui.element("div").classes("scrolls") as box:
        box.props["aria-label"], box.props["role"], box.props["tabindex"] = label, "region", "0"
        with ui.element("table").classes("numbers"):
            with ui.element("thead"), ui.element("tr"):
                for head in heads:
                    with ui.element("th").props('scope="col"'):
                        ui.label(head)
            with ui.element("tbody"):
                for row in rows:
                    with ui.element("tr"):
                        for place, cell in enumerate(row):
                            with ui.element("td") if place else ui.element("th").props('scope="row"'):
                                ui.label(cell) if isinstance(cell, str) else cell()
    return box


def item_cell(item_id: str, titles: Titles) -> Callable[[], object]:
    """An item's title, if it has one, and its id, which leads to its page."""

    def put() -> None:
        item_link(item_id, titles.of(item_id))

    return put


def item_link(item_id: str, title: str) -> None:
    """An item's title, and its id, which leads to its page."""
    with ui.element("div").classes("item-cell"):
        if title:
            ui.label(title).classes("ellipsis item-title")
        ui.link(item_id, item_path(item_id)).classes("caption" if title else "")


def item_path(item_id: str) -> str:
    """The console's own page of an item."""
    return f"/items?id={quote(item_id, safe='')}"


def answer_table(label: str, answer: Compared, titles: Titles, *, with_moves: bool) -> None:
    """An answer's items in order; with moves: against the other answer, with what fell out below."""

    def move(text: str, spoken: str) -> Callable[[], object]:
        def put() -> None:
            shown = ui.label(text or "–").classes(SIGNS.get(text[:1], "muted"))
            shown.props["aria-label"], shown.props["role"] = spoken, "img"

        return put

    heads = ["Rank", *(["Was", "Moved"] if with_moves else []), "Item", "Stage", "Score", "Moved by"]
    rows: list[list[Cell]] = []
    for item in answer.items:
        was = str(item.was) if item.was is not None else "–"
        moves: list[Cell] = [was, move(item.move, item.spoken)] if with_moves else []
        rows.append(
            [
                str(item.rank),
                *moves,
                item_cell(item.item_id, titles),
                item.stage,
                f"{item.score:.3f}" if item.stage == "model" else f"{item.score:.4g}",
                item.why or "–",
            ]
        )
    table(label, heads, rows)
    if with_moves and answer.gone:
        with ui.row().classes("q-gutter-x-sm items-baseline"):
            ui.label("Fell out:").classes("muted")
            for rank, item_id in answer.gone:
                ui.link(f"{titles.of(item_id) or item_id} (was {rank})", item_path(item_id))
