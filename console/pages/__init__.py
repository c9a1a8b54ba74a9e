"""Every page, in the order of the navigation. Imports the shell, shown and watching."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from console.pages import data, items, models, overview, placements, sessions, training
from console.shell import Console


@dataclass(frozen=True)
class Page:
    """A page, and how the navigation shows it; `icon` is a name of Material Icons."""

    title: str
    path: str
    icon: str
    build: Callable[[Console], Awaitable[None]]


PAGES = [
    Page("Overview", "/", "speed", overview.page),
    Page("Models", "/models", "compare_arrows", models.page),
    Page("Sessions", "/sessions", "person_search", sessions.page),
    Page("Items", "/items", "inventory_2", items.page),
    Page("Placements", "/placements", "view_carousel", placements.page),
    Page("Training", "/training", "show_chart", training.page),
    Page("Data", "/data", "storage", data.page),
]
