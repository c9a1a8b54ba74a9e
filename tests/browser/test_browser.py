"""The browser itself: what the other tests trust in."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Error, Page

from tests.browser.axe import grave_violations
from tests.browser.conftest import Watched

PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACw="


def test_axe_finds_what_is_grave(page: Page) -> None:
    page.set_content(f"<html lang=en><title>t</title><main><h1>An image</h1><img src='{PIXEL}'></main>")
    assert [found.partition(":")[0] for found in grave_violations(page)] == ["image-alt"]
    page.set_content(
        f"<html lang=en><title>t</title><main><h1>An image</h1><img src='{PIXEL}' alt=dot></main>"
    )
    assert grave_violations(page) == []


def test_nothing_outside_this_machine_is_reached(chromium: Browser) -> None:
    context = chromium.new_context()
    watched = Watched(context)
    with pytest.raises(Error, match="ERR_PROXY_CONNECTION_FAILED"):
        context.new_page().goto("http://192.0.2.1/")
    assert watched.went_out == ["http://192.0.2.1/"]
    context.close()
