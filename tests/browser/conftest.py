"""A real Chromium, which reaches this machine alone; without one these tests are skipped, and say so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    expect,
    sync_playwright,
)

from tests.waiting import DEADLINE_SECONDS

INSTALL = "no chromium on PATH: these tests want one (on Debian: apt-get install chromium)"
REQUIRED = "BROWSER_TESTS"  # "required": without a browser they fail
NARROW, WIDE = 360, 1440
# Not by playwright's routes, which would come between a page that closes and its beacons.
NOWHERE, HERE = "http://127.0.0.1:9", "127.0.0.1,localhost,[::1]"

NewPage = Callable[..., Page]


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """One browser for all of these tests, and no longer: no other event loop runs beside playwright's."""
    path = shutil.which("chromium")
    if path is None:
        if os.environ.get(REQUIRED) == "required":
            pytest.fail(INSTALL)
        pytest.skip(INSTALL)
    expect.set_options(timeout=DEADLINE_SECONDS * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"], proxy={"server": NOWHERE, "bypass": HERE}
        )
        yield browser
        browser.close()


class Watched:
    """What went wrong in the pages of a context, or tried to leave this machine."""

    def __init__(self, context: BrowserContext) -> None:
        self.errors: list[str] = []
        self.went_out: list[str] = []
        context.set_default_timeout(DEADLINE_SECONDS * 1000)
        context.on("request", self._asked)
        context.on("console", self._said)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))

    def _asked(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and not _is_here(address.hostname or ""):
            self.went_out.append(request.url)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":  # so are violations of a content security policy
            self.errors.append(f"{message.text} ({message.location.get('url')})")


@pytest.fixture
def new_page(chromium: Browser) -> Iterator[NewPage]:
    """Opens pages, each a visitor of its own: `new_page(width=NARROW, dark=True)`.

    At the end none of them may have said an error (`expects_errors=True`: it is to meet some), or asked for
    anything outside this machine.
    """
    opened: list[tuple[BrowserContext, Watched, bool]] = []

    def new(*, width: int = WIDE, dark: bool = False, expects_errors: bool = False) -> Page:
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        opened.append((context, Watched(context), expects_errors))
        return context.new_page()

    yield new
    for context, watched, expects_errors in opened:
        context.close()
        assert watched.went_out == []
        assert expects_errors or watched.errors == []


@pytest.fixture
def page(new_page: NewPage) -> Page:
    """A visitor with a wide screen."""
    return new_page()


def _is_here(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
