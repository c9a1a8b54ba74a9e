"""Models, Training and Data in a real Chromium: the console before a real service of two workers."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.axe import grave_violations
from tests.browser.conftest import NARROW, WIDE, NewPage
from tests.console.place import NEW, OLD, write_everything
from tests.service.processes import Service, clean_environment, running
from tests.service.serving import ADMIN, item_ids
from tests.waiting import DEADLINE_SECONDS, until
from training.measure.progress import FILE, read_progress

expect.set_options(timeout=DEADLINE_SECONDS * 1000)


@dataclass(frozen=True)
class Shop:
    """A service, its artifacts, and the console's address."""

    service: Service
    artifacts: Path
    url: str

    def champions(self) -> set[str]:
        """Which version the workers have loaded as the champion."""
        told = [answer.json()["loaded"] for answer in self.service.each("/models")]
        return {model["version"] for loaded in told for model in loaded if model["role"] == "champion"}

    def answered_by(self) -> set[str]:
        """Which versions answer one session."""
        return {answer.json()["version"] for answer in self.service.each("/recommend?session_id=s1")}

    def history(self) -> list[tuple[str, str]]:
        changes: list[dict[str, Any]] = self.service.ask("GET", "/admin/history", **ADMIN).json()["changes"]
        return [(change["action"], change["version"]) for change in changes]


# Asked for before the page, so that the page is closed before the console is.
@pytest.fixture
def shop(artifacts: Path, tmp_path: Path) -> Iterator[Shop]:
    write_everything(artifacts, datetime.now(UTC))
    environment = {
        "NEXTCLICK_ARTIFACTS_DIR": str(artifacts),
        "NEXTCLICK_REDIS_TIMEOUT_SECONDS": "60",
        "NEXTCLICK_ADMIN_API_KEY": ADMIN["X-API-Key"],
        "NEXTCLICK_QUALITY_SHARE": "1",
    }
    place = tmp_path / "console"
    place.mkdir()
    with (
        running(tmp_path, workers=2, **environment) as service,
        console_of(service, artifacts, place) as url,
    ):
        service.each("/health/ready")
        assert service.ask("POST", "/sessions/s1/click", {"item_id": "i5"}).status == 200
        yield Shop(service, artifacts, url)


@contextmanager
def console_of(service: Service, artifacts: Path, place: Path) -> Iterator[str]:
    """The console of a service; its address."""
    log = place / "console.log"
    options = ["--port", "0", "--service", service.url, "--artifacts", str(artifacts)]
    options += ["--metrics", f"http://{service.metrics_host}:9464/metrics"]
    with log.open("w") as stream:
        command = [sys.executable, "-m", "console", *options]
        process = subprocess.Popen(command, cwd=place, env=clean_environment(), stdout=stream, stderr=stream)

    def address() -> re.Match[str] | None:
        assert process.poll() is None, log.read_text()
        return re.search(r"^Nextclick console: (\S+)", log.read_text(), re.MULTILINE)

    try:
        yield until(address)[1]
    finally:
        process.terminate()
        process.wait(DEADLINE_SECONDS)
        print(log.read_text())


def open_page(page: Page, shop: Shop, name: str) -> None:
    """Log in, and go there by the navigation's own address."""
    page.goto(shop.url)
    page.get_by_label("Admin key").fill(ADMIN["X-API-Key"])
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    page.goto(f"{shop.url}/{name}")
    expect(page.get_by_text("As of ").first).to_be_visible()


def press(page: Page, name: str) -> None:
    """A button, by keyboard."""
    page.get_by_role("button", name=name, exact=True).focus()
    page.keyboard.press("Enter")


def confirm(page: Page, title: str, says: str) -> None:
    """Read the question before a change, and say yes by keyboard: the focus is on Cancel."""
    dialog = page.get_by_role("dialog", name=title)
    expect(dialog.get_by_text(says)).to_be_visible()
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(dialog).to_have_count(0)


def live(page: Page) -> list[str]:
    """Version and role of each row of what is live."""
    rows = page.get_by_role("region", name="Versions that are live").locator("tbody tr")
    told: list[str] = rows.evaluate_all(
        "rows => rows.map(row => `${row.cells[0].innerText} ${row.cells[1].innerText}`)"
    )
    return told


def expect_live(page: Page, *rows: str) -> None:
    until(lambda: live(page) == list(rows))


def test_versions_are_published_rolled_back_and_tried_out(shop: Shop, page: Page) -> None:
    open_page(page, shop, "models")
    expect_live(page, "v2 champion")
    expect(page.get_by_text("half-written cannot be served")).to_be_visible()
    expect(page.get_by_role("button", name="Publish half-written")).to_have_count(0)

    press(page, "Publish v3")
    dialog = page.get_by_role("dialog", name="Publish v3?")
    expect(dialog).to_be_visible()
    page.keyboard.press("Enter")  # Cancel
    expect(dialog).to_have_count(0)
    assert shop.champions() == {"v2"}

    press(page, "Publish v3")
    confirm(page, "Publish v3?", "v3 will answer all sessions")
    expect(page.get_by_text("v3 is live.")).to_be_visible()
    expect_live(page, "v3 champion")
    until(lambda: shop.champions() == {"v3"})
    for answer in shop.service.each("/recommend?session_id=s1"):
        assert item_ids(answer.json()) == OLD.nearest(["i5"])

    press(page, "Roll back to v2")
    confirm(page, "Roll back to v2?", "v2 will answer again")
    expect_live(page, "v2 champion")
    until(lambda: shop.champions() == {"v2"})
    for answer in shop.service.each("/recommend?session_id=s1"):
        assert item_ids(answer.json()) == NEW.nearest(["i5"])

    page.get_by_label("Share of sessions in %").fill("0")
    press(page, "Start the trial")
    expect(page.get_by_text("The share is a number above 0")).to_be_visible()
    page.get_by_role("combobox", name="Version", exact=True).press("ArrowDown")
    page.get_by_role("option", name="v3").click()
    page.get_by_label("Share of sessions in %").fill("100")
    press(page, "Start the trial")
    confirm(page, "Make v3 the challenger?", "v3 will answer 100 % of the sessions")
    expect_live(page, "v2 champion", "v3 challenger")
    until(lambda: shop.answered_by() == {"v3"})

    press(page, "Withdraw v3")
    confirm(page, "Withdraw v3?", "v2 will answer the 100 %")
    expect_live(page, "v2 champion")
    until(lambda: shop.answered_by() == {"v2"})
    assert shop.history()[:4] == [
        ("withdraw challenger", "v3"),
        ("challenger", "v3"),
        ("rollback", "v2"),
        ("publish", "v3"),
    ]
    changes = page.get_by_role("region", name="Changes of what is live")
    expect(changes.locator("tbody tr").first).to_contain_text("v3 withdrawn as the challenger")

    (shop.artifacts / "bundles" / "v1" / "items.txt").write_text("i1\n")  # damaged since the page was drawn
    press(page, "Publish v1")
    confirm(page, "Publish v1?", "v1 will answer all sessions")
    expect(page.get_by_text("items.txt: sha256 differs")).to_be_visible()
    assert shop.champions() == {"v2"}
    assert shop.history()[0] == ("withdraw challenger", "v3")


def test_runs_and_trainings_and_data_are_told_as_they_are(shop: Shop, page: Page) -> None:
    open_page(page, shop, "models")
    page.get_by_text("run-20261125T030000", exact=True).click()
    checks = page.get_by_role("region", name="What the gate checked in run-20261125T030000")
    expect(checks.get_by_role("row", name="mrr@20")).to_contain_text("challenger 12.01, champion 12.4")
    expect(page.get_by_text("run-20261124T020000", exact=True)).to_be_visible()

    page.goto(f"{shop.url}/training")
    running = page.get_by_role("region", name="Under way")
    expect(running.get_by_text("select: epoch 8 of at most 30, batch 120 of 400")).to_be_visible()
    curve = running.get_by_role("img", name="validation MRR@20 of shop/niser-seed1")
    expect(curve).to_be_visible()
    expect(page.get_by_text("no sign of it for")).to_be_visible()
    expect(page.get_by_text("DivergedError: the loss is nan")).to_be_visible()
    expect(page.get_by_text("tron-seed1/progress.json: ")).to_be_visible()
    file = shop.artifacts / "runs" / "shop" / "niser-seed1" / FILE
    later = read_progress(file).model_copy(update={"epoch": 9, "step": 1})
    file.write_text(later.model_dump_json())
    press(page, "Refresh")
    expect(running.get_by_text("select: epoch 9 of at most 30, batch 1 of 400")).to_be_visible()

    page.goto(f"{shop.url}/data")
    expect(page.get_by_text("Left out: 20 bad timestamp, 10 no item.")).to_be_visible()
    expect(page.get_by_text("cut off/dataset.json: ")).to_be_visible()
    days = page.get_by_role("region", name="Collected clicks by day")
    expect(days.get_by_role("row", name="2026-11-23")).to_contain_text("46,000")
    expect(page.get_by_text("failed with exit code 1")).to_be_visible()


def test_nobody_is_shut_out(shop: Shop, new_page: NewPage) -> None:
    for width, dark in ((NARROW, False), (NARROW, True), (WIDE, False), (WIDE, True)):
        page = new_page(width=width, dark=dark)
        open_page(page, shop, "models")
        for name in ("models", "training", "data"):
            page.goto(f"{shop.url}/{name}")
            expect(page.get_by_text("As of ").first).to_be_visible()
            for summary in page.locator("details summary").all():
                summary.click()
            assert grave_violations(page) == []
            overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert page.evaluate(overflow) == 0, (name, width)
