"""How the service is now, and what is wrong."""

from __future__ import annotations

from nicegui import ui

from console.shell import Console


async def page(console: Console) -> None:
    """The first page."""
    models = await console.service.get("/models")
    ui.label(f"Live: {models['champion'] or 'nothing'}")
