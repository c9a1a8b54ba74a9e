"""The tag in a real browser, on a page of another origin with a strict policy, against a real service."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from service.live.deployment import publish
from tests.browser.axe import grave_violations
from tests.browser.conftest import NARROW, NewPage
from tests.browser.elsewhere import Asked, Between, between, shop
from tests.browser.elsewhere import Shop as Elsewhere
from tests.service.bundles import Shop
from tests.service.processes import Service, running
from tests.waiting import until

ROOT = Path(__file__).parents[2]
PRINTED = ("README.md", "docs/tag.md", "clients/js/README.md")
KEY, SERVER_KEY = "public-key-of-the-shop", "key-of-the-shops-own-server"
POPULAR = ["i1", "i2", "i3", "i4", "i5"]
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs="
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A shop</title>
<meta name="viewport" content="width=device-width"></head><body><main><h1>A shop</h1>
<h2>You may like</h2><div id="next"></div></main>
<script type="module" src="/shop.js"></script></body></html>"""
SCRIPT = """
import { nextclick } from "SERVICE/nextclick.js";
const asked = new URLSearchParams(location.search);
const nc = nextclick({ url: asked.get("url") || "SERVICE", key: "KEY", consent: asked.has("consent") });
const told = [];
for (const event of ["click", "stored", "answer", "error", "impression"]) {
  nc.on(event, (detail) => told.push({ event, ...detail }));
}
const wanted = { k: 5, label: "You may like", onClick: (item, event) => event.preventDefault() };
const list = asked.has("mount") && nc.mount(document.getElementById("next"), wanted);
Object.assign(window, { nc, told, list });
"""
BLOCKED = """Object.defineProperty(window, "localStorage", {
  get() { throw new DOMException("Access is denied for this document.", "SecurityError"); } });"""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    with shop() as pages:
        yield pages


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, elsewhere: Elsewhere) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("tag")
    artifacts = directory / "artifacts"
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    settings: dict[str, Any] = {
        "NEXTCLICK_CORS_ORIGINS": elsewhere.origin,
        "NEXTCLICK_KEYS": json.dumps(
            [{"label": "page", "scope": "public", "key": KEY, "origins": [elsewhere.origin]}]
        ),
        "NEXTCLICK_SERVER_API_KEY": SERVER_KEY,
        "NEXTCLICK_PUBLIC_SESSION_IDS": "random",
        "NEXTCLICK_ARTIFACTS_DIR": str(artifacts),
        "NEXTCLICK_TRENDING_REFRESH_SECONDS": "3600",  # one test shows nothing of another
        "NEXTCLICK_REDIS_TIMEOUT_SECONDS": "60",
    }
    with running(directory, **settings) as each:
        items = [
            {
                "item_id": item_id,
                "title": f"Thing {item_id}",
                # What a catalogue may hold by mistake or malice.
                "url": " JavaScript:alert(1)" if item_id == "i3" else f"/things/{item_id}",
                "image_url": "javascript:alert(1)" if item_id == "i4" else PIXEL,
                "price": 9.5,
                "currency": "no currency" if item_id == "i5" else "EUR",
            }
            for item_id in Shop.make().items
        ]
        stored = each.ask("PUT", "/items", items, **{"X-API-Key": SERVER_KEY})
        assert stored.status == 200, stored
        until(
            lambda: (
                '"title":"Thing i1"'
                in each.ask("GET", "/recommend?session_id=x&fields=title", **AS_SERVER).text
            )
        )
        yield each


AS_SERVER = {"X-API-Key": SERVER_KEY}


@pytest.fixture
def way(service: Service) -> Iterator[Between]:
    with between(service.port) as each:
        yield each


@pytest.fixture(autouse=True)
def pages(elsewhere: Elsewhere, service: Service, way: Between) -> None:
    script = SCRIPT.replace("SERVICE", service.url).replace("KEY", KEY)
    elsewhere.pages |= {
        "/": ("text/html", PAGE),
        "/shop.js": ("text/javascript", script),
        "/favicon.ico": ("image/svg+xml", '<svg xmlns="http://www.w3.org/2000/svg"/>'),
    }
    elsewhere.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self' {service.url}; connect-src {service.url} {way.url};"
        " img-src data:; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )


def told(page: Page, event: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate("(name) => told.filter(({ event }) => event === name)", event)
    return found


def wait_for(page: Page, event: str, count: int = 1) -> list[dict[str, Any]]:
    page.wait_for_function(
        "([name, count]) => window.told?.filter(({ event }) => event === name).length >= count",
        arg=[event, count],
    )
    return told(page, event)


def clicked(service: Service, session_id: str) -> list[str]:
    """The items of a stored session."""
    answer = service.ask("GET", f"/sessions/{session_id}", **AS_SERVER)
    return [each["item_id"] for each in answer.json()["clicks"]] if answer.status == 200 else []


def shown(page: Page) -> list[str]:
    return [text.removeprefix("Thing ") for text in page.locator("#next .nextclick-title").all_inner_texts()]


def test_a_page_of_another_origin_shows_and_counts(
    new_page: NewPage, service: Service, elsewhere: Elsewhere
) -> None:
    page = new_page(width=NARROW)
    page.set_viewport_size({"width": NARROW, "height": 150})
    page.goto(f"{elsewhere.origin}/?consent&mount")
    expect(page.locator("#next li")).to_have_count(5)
    page.locator("#next li").first.scroll_into_view_if_needed()
    assert "i5" not in [each["item_id"] for each in wait_for(page, "impression")], "it is below the fold"
    page.set_viewport_size({"width": NARROW, "height": 900})
    assert shown(page) == POPULAR
    links = page.locator("#next a").evaluate_all("links => links.map(({ href }) => href)")
    assert links == [f"{elsewhere.origin}/things/{each}" for each in POPULAR if each != "i3"]
    assert page.locator("#next button").inner_text().startswith("Thing i3"), "no link"
    assert page.locator("#next img").count() == 4
    assert page.locator("#next .nextclick-price").all_inner_texts() == ["€9.50"] * 4 + ["9.5 no currency"]
    assert grave_violations(page) == []

    seen = wait_for(page, "impression", 5)
    first = told(page, "answer")[0]["answer"]["recommendation_id"]
    assert sorted((each["item_id"], each["position"]) for each in seen) == list(
        zip(POPULAR, range(5), strict=True)
    )
    assert {each["recommendation_id"] for each in seen} == {first}

    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    (stored,) = wait_for(page, "stored")
    assert (stored["click"]["item_id"], stored["click"]["recommendation_id"]) == ("i3", first)
    session_id = page.evaluate("nc.session.id")
    assert clicked(service, session_id) == ["i3"]

    page.evaluate("list.refresh()")
    assert shown(page) == Shop.make().nearest(["i3"], 5)
    assert page.evaluate("document.activeElement.textContent").startswith("Thing i3"), (
        "focus stays on the item"
    )
    assert len(wait_for(page, "impression", 10)) == 10, "once for each item of an answer"

    page.evaluate("nc.consent(false)")
    assert page.evaluate("[localStorage.length, document.cookie, nc.session.id]") == [0, "", None]


def test_a_page_of_an_origin_that_is_not_let_in_gets_and_counts_nothing(
    new_page: NewPage, service: Service, elsewhere: Elsewhere
) -> None:
    page = new_page(expects_errors=True)
    page.goto(f"{elsewhere.stranger}/?consent&mount")
    page.evaluate("nc.click('i1')")
    refused = wait_for(page, "error", 2)
    assert {each["status"] for each in refused} == {0}, "nor may it read why"
    assert page.locator("#next li").count() == 0
    assert clicked(service, page.evaluate("nc.session.id")) == []


def test_a_retried_click_counts_once(
    new_page: NewPage, service: Service, elsewhere: Elsewhere, way: Between
) -> None:
    way.fate = lambda asked: "answer lost" if way.clicks == [asked] else "arrives"
    page = new_page(expects_errors=True)
    page.goto(f"{elsewhere.origin}/?consent&url={way.url}")
    assert page.evaluate("nc.click('i1')") == {"queued": True}
    (stored,) = wait_for(page, "stored")
    assert stored["answer"]["duplicate"] is True
    assert page.evaluate("nc.click('i2')")["length"] == 2
    assert clicked(service, page.evaluate("nc.session.id")) == ["i1", "i2"]
    first, second, _ = way.clicks
    assert first.event_id == second.event_id


@pytest.mark.parametrize("closing", [True, False], ids=["closed", "left"])
def test_the_beacon_of_a_page_that_is_left_counts_exactly_once(
    new_page: NewPage, service: Service, elsewhere: Elsewhere, way: Between, closing: bool
) -> None:
    way.fate = lambda asked: "request lost" if asked.is_click and not asked.is_beacon else "arrives"
    page = new_page(expects_errors=True)
    page.goto(f"{elsewhere.origin}/?consent&url={way.url}")
    assert page.evaluate("nc.click('i1')") == {"queued": True}
    session_id = page.evaluate("nc.session.id")
    context = page.context
    if closing:
        page.close(run_before_unload=True)
    else:
        page.goto("about:blank")
    until(lambda: clicked(service, session_id) == ["i1"])
    (beacon,) = [each for each in way.asked if each.is_beacon]

    way.fate = lambda _: "arrives"
    following = context.new_page()
    following.goto(f"{elsewhere.origin}/?consent&url={way.url}")
    (stored,) = wait_for(following, "stored")
    assert (stored["click"]["event_id"], stored["answer"]["duplicate"]) == (beacon.event_id, True)
    assert following.evaluate("nc.session") == {"id": session_id, "items": ["i1"]}
    following.evaluate("nc.click('i2')")  # a busy service may take it at the second try
    until(lambda: clicked(service, session_id) == ["i1", "i2"])


def test_without_consent_nothing_is_sent_but_what_is_asked_for(
    new_page: NewPage, service: Service, elsewhere: Elsewhere, way: Between
) -> None:
    page = new_page()
    page.goto(f"{elsewhere.origin}/?mount&url={way.url}")
    expect(page.locator("#next li")).to_have_count(5)
    page.locator("#next a").first.click()
    page.evaluate("list.refresh()")
    assert shown(page) == Shop.make().nearest(["i1"], 5)
    page.goto(f"{elsewhere.origin}/?mount&url={way.url}")  # the page before is left: no beacon comes of it
    expect(page.locator("#next li")).to_have_count(5)
    assert shown(page) == POPULAR, "nothing is known from one page to the next"
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    asked = [each for each in way.asked if each.method != "OPTIONS"]
    assert [(each.method, each.path) for each in asked] == [("POST", "/recommend")] * 3
    assert [json.loads(each.body)["items"] for each in asked] == [[], ["i1"], []]

    page.locator("#next a").first.click()
    page.evaluate("nc.consent(true)")
    wait_for(page, "stored")
    assert clicked(service, page.evaluate("nc.session.id")) == ["i1"]


def test_a_visitor_whose_storage_is_blocked_is_one_session_a_page(
    new_page: NewPage, service: Service, elsewhere: Elsewhere
) -> None:
    page = new_page()
    page.add_init_script(BLOCKED)
    page.goto(f"{elsewhere.origin}/?consent")
    for item_id in ("i1", "i2"):
        page.evaluate("(item) => nc.click(item)", item_id)
    assert clicked(service, page.evaluate("nc.session.id")) == ["i1", "i2"]


def test_what_is_shown_stays_when_a_refresh_fails_or_is_overtaken(
    new_page: NewPage, elsewhere: Elsewhere, way: Between
) -> None:
    lost: list[Asked] = []

    def fate(asked: Asked) -> str:
        if asked.path != "/recommend" or asked.method != "POST" or not lost_now:
            return "arrives"
        lost.append(asked)
        return "request lost"

    lost_now = False
    way.fate = fate
    page = new_page(expects_errors=True)
    page.goto(f"{elsewhere.origin}/?mount&url={way.url}")
    expect(page.locator("#next li")).to_have_count(5)
    lost_now = True
    assert page.evaluate("list.refresh()") is None
    assert (len(lost), shown(page)) == (1, POPULAR)
    lost_now = False
    page.locator("#next a").first.click()
    older, newer = page.evaluate("Promise.all([list.refresh(), list.refresh()])")
    assert older is None
    assert [each["item_id"] for each in newer["items"]] == shown(page)
    page.evaluate("list.unmount()")
    assert page.locator("#next").inner_html() == ""


def test_the_page_of_the_readme_works_as_it_is_printed(
    new_page: NewPage, service: Service, elsewhere: Elsewhere
) -> None:
    found = [re.findall(r"```html\n(.*?)```", (ROOT / name).read_text(), re.DOTALL) for name in PRINTED]
    assert found[0] == found[1] == found[2]
    (printed,) = found[0]
    assert len(printed.splitlines()) <= 10
    for ours, theirs in {
        "https://clicks.shop.example": service.url,
        "the-public-key": KEY,
        "sku-1042": "i7",
    }.items():
        assert ours in printed
        printed = printed.replace(ours, theirs)
    del elsewhere.headers["Content-Security-Policy"]  # its script stands in the page
    elsewhere.pages["/"] = ("text/html", f"<script>window.visitorAgreed = true</script>{printed}")
    page = new_page()
    page.goto(elsewhere.origin)
    expect(page.locator("#recommended li")).to_have_count(6)
    expect(page.get_by_role("list", name="You may like")).to_be_visible()
    page.evaluate("document.addEventListener('click', (event) => event.preventDefault())")
    page.locator("#recommended a").first.click()
    kept = json.loads(page.evaluate("localStorage.nextclick"))
    assert kept["items"] == ["i7"], "the page behind the link counts it"
    assert clicked(service, kept["id"]) == ["i7"]
