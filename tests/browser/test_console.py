"""The console as an operator meets it: a real browser, a real service, the console a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from service.live.deployment import publish
from tests.browser.axe import grave_violations
from tests.browser.conftest import NARROW, WIDE, NewPage
from tests.service.bundles import Shop
from tests.service.processes import Service, clean_environment, own_host, running
from tests.service.serving import ADMIN
from tests.waiting import DEADLINE_SECONDS, until

SHOP = Shop.make()
VERSION = "mean-20261124T030000"
expect.set_options(timeout=DEADLINE_SECONDS * 1000)

# The console with one page more, that does what pages do: it asks before a change, and some things fail.
WITH_A_PAGE = """
import sys
from nicegui import ui
from console.__main__ import main
from console.pages import PAGES, Page

async def trial(console):
    async def hide():
        if await console.confirm("Hide an item", "Item 100 will be answered no more.", "Hide it"):
            await console.service.put("/admin/hidden/100")
            console.notify("It is hidden")
    ui.button("Hide", on_click=hide)
    ui.button("Fail", on_click=lambda: console.service.get("/admin/placements/none"))

async def broken(console):
    await console.service.get("/admin/placements/none")

PAGES += [Page("Trial", "/trial", "science", trial), Page("Broken", "/broken", "error", broken)]
main()
"""


@dataclass(frozen=True)
class Console:
    """`nextclick console`, running."""

    process: subprocess.Popen[bytes]
    log: Path
    place: Path

    @property
    def url(self) -> str:
        return until(self._listening)[1]

    def _listening(self) -> re.Match[str] | None:
        assert self.process.poll() is None, self.log.read_text()
        return re.search(r"^Nextclick console: (\S+)", self.log.read_text(), re.MULTILINE)


@contextmanager
def console_of(url: str, metrics_host: str, place: Path, *command: str) -> Iterator[Console]:
    """The console of a service, in a directory of its own."""
    log = place / "console.log"
    options = [
        "--port",
        "0",
        "--service",
        url,
        "--metrics",
        f"http://{metrics_host}:9464/metrics",
        "--every",
        "0.5",
    ]
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, *(command or ("-m", "nextclick", "console")), *options],
            cwd=place,
            env=clean_environment(),
            stdout=stream,
            stderr=stream,
        )
    try:
        yield Console(process, log, place)
    finally:
        process.kill()
        process.wait()
        print(log.read_text())


def settings(artifacts: Path, **more: str) -> dict[str, Any]:
    return {
        "NEXTCLICK_ARTIFACTS_DIR": str(artifacts),
        "NEXTCLICK_REDIS_TIMEOUT_SECONDS": "60",
        "NEXTCLICK_ADMIN_API_KEY": ADMIN["X-API-Key"],
        "NEXTCLICK_QUALITY_SHARE": "1",
        **more,
    }


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    artifacts = tmp_path_factory.mktemp("console-artifacts")
    SHOP.write(artifacts, VERSION)
    publish(artifacts, VERSION)
    with running(tmp_path_factory.mktemp("console-service"), **settings(artifacts)) as service:
        service.each("/health/ready")
        yield service


@pytest.fixture(scope="module")
def console(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    with console_of(service.url, service.metrics_host, tmp_path_factory.mktemp("console")) as console:
        yield console


def log_in(page: Page, console: Console) -> None:
    page.goto(console.url)
    page.get_by_label("Admin key").fill(ADMIN["X-API-Key"])
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


def visit(service: Service, visitors: int) -> None:
    """Each clicks twice, and is recommended something in between."""
    for number in range(visitors):
        for item in SHOP.items[:2]:
            assert service.ask("POST", f"/sessions/visitor-{number}/click", {"item_id": item}).status == 200
            assert service.ask("GET", f"/recommend?session_id=visitor-{number}").status == 200


def test_a_wrong_key_is_refused_and_the_right_one_is_forgotten_by_the_browser(
    new_page: NewPage, console: Console
) -> None:
    page = new_page(expects_errors=True)  # the browser says that 403 is one
    page.goto(console.url + "/no/such/page")
    expect(page).to_have_url(console.url + "/login")
    page.get_by_label("Admin key").fill("a guess")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("This is not the service's admin key.")
    log_in(page, console)
    [cookie] = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert ADMIN["X-API-Key"] not in page.content() + str(cookie)
    assert (
        page.evaluate("[...Object.values(localStorage), ...Object.values(sessionStorage)].join()").count(
            "key"
        )
        == 0
    )
    assert not list(console.place.glob(".nicegui")), "nothing is kept where the command was typed"


def test_the_overview_shows_what_the_service_does(page: Page, service: Service, console: Console) -> None:
    log_in(page, console)
    card = page.get_by_role("article").filter(has=page.get_by_role("heading", name="Clicks", exact=True))
    expect(card).to_be_visible()
    visit(service, 5)
    expect(card.locator(".figure")).not_to_have_text(re.compile("^(–|0)$"))
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=VERSION))
    expect(row.get_by_role("cell").nth(0)).to_have_text("champion")
    expect(row.get_by_role("cell").nth(1)).not_to_have_text("0")
    expect(page.get_by_role("status").filter(has_text="Nothing sounds")).to_be_visible()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_nobody_is_shut_out(new_page: NewPage, console: Console, width: int, dark: bool) -> None:
    page = new_page(width=width, dark=dark)
    page.goto(console.url)
    assert grave_violations(page) == []
    log_in(page, console)
    expect(page.get_by_role("article").first).to_be_visible()
    assert grave_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "only tables scroll, by themselves"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", background)[:3])) < 80) == dark


def test_a_narrow_screen_has_its_navigation_by_keyboard(new_page: NewPage, console: Console) -> None:
    page = new_page(width=NARROW)
    page.goto(console.url)
    expect(page.get_by_label("Admin key")).to_be_focused()
    page.keyboard.type(ADMIN["X-API-Key"])
    page.keyboard.press("Enter")
    entry = page.get_by_role("navigation", name="Pages").get_by_role("link", name="Overview")
    button = page.get_by_role("button", name="Navigation")
    expect(button).to_have_attribute("aria-expanded", "false")
    expect(entry).to_be_hidden()
    page.keyboard.press("Tab")
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "true")
    expect(entry).to_have_attribute("aria-current", "page")
    assert grave_violations(page) == []
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(entry).to_be_focused()
    page.keyboard.press("Enter")
    expect(entry).to_be_hidden()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


def test_a_change_asks_first_and_a_failure_is_a_notice(
    new_page: NewPage, service: Service, tmp_path: Path
) -> None:
    (tmp_path / "run.py").write_text(WITH_A_PAGE)
    with console_of(service.url, service.metrics_host, tmp_path, "run.py") as console:
        page = new_page()
        log_in(page, console)
        page.get_by_role("link", name="Trial").click()
        hide = page.get_by_role("button", name="Hide", exact=True)
        hide.focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="Hide an item")
        expect(dialog.get_by_text("Item 100 will be answered no more.")).to_be_visible()
        expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
        assert grave_violations(page) == []
        page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        hide.click()
        expect(dialog).to_be_visible()
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        assert service.ask("GET", "/admin/hidden", **ADMIN).json() == {"hidden": []}, "nobody agreed"
        hide.click()
        dialog.get_by_role("button", name="Hide it").click()
        expect(page.get_by_text("It is hidden")).to_be_visible()
        assert service.ask("DELETE", "/admin/hidden/100", **ADMIN).json() == {"hidden": []}, "and now it was"
        page.get_by_role("button", name="Fail").click()
        expect(page.get_by_role("alert").filter(has_text="none")).to_be_visible()
        assert grave_violations(page) == []
        page.get_by_role("link", name="Broken").click()
        expect(page.get_by_role("alert")).to_contain_text("none")
        expect(page.get_by_role("button", name="Try again")).to_be_visible()
        assert "Traceback" not in console.log.read_text()


def test_logging_out_ends_every_page(new_page: NewPage, console: Console) -> None:
    page = new_page(expects_errors=True)  # of the socket that is closed
    log_in(page, console)
    other = page.context.new_page()
    other.goto(console.url)
    expect(other.get_by_role("heading", level=1)).to_have_text("Overview")
    assert page.request.head(console.url).status == 200  # so a page asks whether it is still let in
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(console.url + "/login")
    left = page.request.head(console.url, max_redirects=0)
    assert (left.status, left.headers["location"]) == (303, "/login")
    page.goto(console.url)
    expect(page).to_have_url(console.url + "/login")
    expect(other).to_have_url(console.url + "/login")  # its socket is refused


def test_a_service_that_goes_away_and_comes_back(new_page: NewPage, tmp_path: Path) -> None:
    artifacts, metrics_host = tmp_path / "artifacts", own_host()
    SHOP.write(artifacts, VERSION)
    publish(artifacts, VERSION)
    same = settings(artifacts, NEXTCLICK_METRICS_HOST=metrics_host)
    page = new_page(expects_errors=True)
    with running(tmp_path, **same) as service:
        service.each("/health/ready")
        port = service.port
        with console_of(service.url, metrics_host, tmp_path) as console:
            log_in(page, console)
            wrong = page.get_by_role("status").filter(has_text="Nothing sounds")
            expect(wrong).to_be_visible()
            assert service.end() == 0
            expect(page.get_by_role("heading", name="The service does not answer")).to_be_visible()
            expect(page.get_by_role("heading", name="There are no metrics")).to_be_visible()
            expect(page.get_by_role("status").filter(has_text="does not answer").first).to_be_visible()
            assert grave_violations(page) == []
            page.reload()  # a page that is opened now
            expect(page.get_by_role("heading", name="The service does not answer")).to_be_visible()
            with running(tmp_path, **same, NEXTCLICK_PORT=str(port)) as service:
                service.each("/health/ready")
                expect(wrong).to_be_visible()
                expect(page.get_by_role("rowheader", name=VERSION)).to_be_visible()
            assert "Traceback" not in console.log.read_text()
            console.process.terminate()
            assert console.process.wait(DEADLINE_SECONDS) == 0
