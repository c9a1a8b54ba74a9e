"""axe-core: what of a page shuts people out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import axe_playwright_python
from playwright.sync_api import Page

AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text()
# To their ends; those without one stop.
SETTLE = "document.getAnimations().forEach(each => { try { each.finish(); } catch { each.cancel(); } })"
GRAVE = {"serious", "critical"}


def grave_violations(page: Page) -> list[str]:
    """What axe finds that is serious or critical, each with the elements it is about."""
    page.emulate_media(reduced_motion="reduce")  # what is on its way in is not yet to be read
    page.evaluate(SETTLE)
    page.evaluate(AXE)  # not a script element: the page's own policy forbids those
    found: list[dict[str, Any]] = page.evaluate("async () => (await axe.run()).violations")
    return [
        f"{each['id']}: {each['help']}: {[node['html'] for node in each['nodes']]}"
        for each in found
        if each["impact"] in GRAVE
    ]
