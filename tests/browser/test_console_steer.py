"""An operator steers in the console: placements, items and sessions, in a real browser, of a real service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, WebSocketRoute, expect

from service.live.deployment import publish
from tests.browser.axe import grave_violations
from tests.browser.conftest import NARROW, WIDE, NewPage
from tests.browser.test_console import Console, console_of, log_in
from tests.service.bundles import Shop
from tests.service.processes import Service, running
from tests.service.serving import ADMIN
from tests.waiting import until

SHOP = Shop.make()
CLICKS = ["i5", "i9", "i5", "i20"]
TENTS = {"attribute": "categories", "contains": "Tents"}
PICTURE = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'%3E"
    "%3Crect width='8' height='8' fill='%23{colour}'/%3E%3Ccircle cx='4' cy='4' r='2' fill='white'/%3E"
    "%3C/svg%3E"
)


@contextmanager
def shop_of(directory: Path) -> Iterator[tuple[Service, Console]]:
    """A service with a bundle, items that have titles, a placement and a session; and a console."""
    artifacts = directory / "artifacts"
    SHOP.write(artifacts, "v1")
    publish(artifacts, "v1")
    settings = {"NEXTCLICK_ARTIFACTS_DIR": str(artifacts), "NEXTCLICK_ADMIN_API_KEY": ADMIN["X-API-Key"]}
    settings |= {"NEXTCLICK_REDIS_TIMEOUT_SECONDS": "60", "NEXTCLICK_DEPLOYMENT_POLL_SECONDS": "0.05"}
    with running(directory, workers=1, **settings) as service:
        until(lambda: service.ask("GET", "/health/ready").status == 200)
        items = [
            {
                "item_id": f"i{number}",
                "title": f"{('Tent', 'Lantern', 'Stove')[number % 3]} {number}",
                "categories": [("Tents", "Lights", "Cooking")[number % 3]],
                "brand": ("Ridge", "Fjord")[number % 2],
                "price": 9.9 + number,
                "currency": "EUR",
                "available": True,
                "image_url": PICTURE.format(
                    colour=f"{number * 37 % 200 + 40:02x}7a{number * 91 % 200 + 40:02x}"
                ),
            }
            for number in range(1, 61)
        ]
        assert service.ask("PUT", "/items", items).status == 200
        for item_id in CLICKS:
            assert service.ask("POST", "/sessions/visitor-7/click", {"item_id": item_id}).status == 200
        for k in (6, 8):
            assert service.ask("PUT", "/admin/placements/home", {"k": k}, **ADMIN).status == 200
        until(lambda: answered(service, "fields=title")[0][1] == "Stove 5")  # the worker has all of them
        place = directory / "console"
        place.mkdir()
        with console_of(service.url, service.metrics_host, place) as console:
            yield service, console


def answered(service: Service, query: str) -> list[tuple[str, object]]:
    """Items and titles of what the session is answered."""
    answer = service.ask("GET", f"/recommend?session_id=visitor-7&{query}")
    assert answer.status == 200, answer.text
    return [(item["item_id"], item.get("fields", {}).get("title")) for item in answer.json()["items"]]


def ids(service: Service, query: str = "") -> list[str]:
    return [item_id for item_id, _ in answered(service, query)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Console]]:
    with shop_of(tmp_path_factory.mktemp("steer")) as made:
        yield made


@pytest.fixture
def service(shop: tuple[Service, Console]) -> Service:
    return shop[0]


@pytest.fixture
def console(shop: tuple[Service, Console]) -> Console:
    return shop[1]


def table_of(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=name, exact=True)


def shows_column(page: Page, name: str, number: int, expected: list[str]) -> None:
    """A column of a table says this, or begins so; or it comes to."""
    cells = table_of(page, name).locator(f"tbody :is(th, td):nth-child({number})")
    for row, text in enumerate(expected):
        expect(cells.nth(row)).to_have_text(text)


def shows_ids(page: Page, name: str, expected: list[str]) -> None:
    """A table has these items, or comes to have them."""
    expect(table_of(page, name).locator("tbody tr .item-cell a")).to_have_text(expected)


def confirm(page: Page, action: str) -> str:
    """Say yes to what is asked; returns what it said."""
    dialog = page.get_by_role("dialog")
    said = dialog.inner_text()
    dialog.get_by_role("button", name=action, exact=True).click()
    expect(dialog).to_have_count(0)
    return said


def test_a_placement_is_edited_with_a_preview_and_the_shop_follows(
    page: Page, service: Service, console: Console
) -> None:
    log_in(page, console)
    page.goto(f"{console.url}/placements")
    expect(table_of(page, "Placements")).to_contain_text("home")
    page.get_by_role("link", name="home", exact=True).click()
    page.get_by_label("Session id").fill("visitor-7")
    plain = ids(service, "k=8")
    expect(table_of(page, "The draft's answer").locator("tbody tr .item-cell a").first).to_have_text(plain[0])
    shows_ids(page, "The draft's answer", plain)

    # A wrong filter is told at its field, by the service's own words.
    page.get_by_label("Filter (JSON)").fill('{"all": [{"attribute": "colour", "eq": "red"}]}')
    expect(page.get_by_role("alert").filter(has_text="colour")).to_have_text(
        "all.0.attribute: there is no attribute 'colour'"
    )
    field = page.locator(".q-field--error")
    expect(field).to_have_count(1)
    expect(field.get_by_label("Filter (JSON)")).to_be_visible()
    page.get_by_label("Filter (JSON)").fill('{"attribute": ')
    expect(field).to_contain_text("is no JSON")
    page.get_by_label("Filter (JSON)").fill(json.dumps({"not": TENTS}))
    expect(field).to_have_count(0)

    # What moves is marked beside where it was.
    page.get_by_role("button", name="Add a pin").press("Enter")
    expect(page.get_by_label("Item id of pin 1")).to_be_focused()
    page.get_by_label("Item id of pin 1").fill("i40")
    expect(table_of(page, "The draft's answer").locator("tbody tr .item-cell a").first).to_have_text("i40")
    others = [item_id for item_id in ids(service, "k=60") if int(item_id[1:]) % 3 and item_id != "i40"]
    shows_ids(page, "The draft's answer", ["i40", *others[:7]])
    shows_column(page, "The draft's answer", 2, ["–"])
    shows_column(page, "The draft's answer", 3, ["new"])
    shows_column(page, "The draft's answer", 7, ["pin 1"])
    was = plain.index(others[0]) + 1
    shows_column(page, "The draft's answer", 2, ["–", str(was)])
    assert ids(service, "placement=home") == plain, "nothing is changed yet"

    page.get_by_role("button", name="Save").click()
    said = confirm(page, "Save")
    assert "filter: " in said
    assert 'pins: [{"item_id": "i40", "position": 1}] is new' in said
    expect(table_of(page, "History").locator("tbody tr")).to_have_count(3)
    until(lambda: ids(service, "placement=home") == ["i40", *others[:7]])

    # And back to what it was, from the history.
    page.get_by_role("button", name="Roll back to version 1").click()
    assert "k: 8 becomes 6" in confirm(page, "Roll back")
    expect(table_of(page, "History").locator("tbody tr")).to_have_count(4)
    until(lambda: ids(service, "placement=home") == plain[:6])
    expect(page.get_by_label("Items (k)")).to_have_value("6")


def test_an_item_is_hidden_and_vanishes_from_answers(page: Page, service: Service, console: Console) -> None:
    first = ids(service)[0]
    log_in(page, console)
    page.goto(f"{console.url}/items")
    title = dict(answered(service, "fields=title"))[first]
    assert title == "Stove 5"
    page.get_by_label("In id or title").fill("STOVE 5")
    page.get_by_label("In id or title").press("Enter")
    expect(page.get_by_role("status").filter(has_text="with")).to_have_text("5 items with “STOVE 5”")
    shows_ids(page, "Items", ["i5", "i50", "i53", "i56", "i59"])
    shows_column(page, "Items", 3, ["14.90 EUR", "59.90 EUR"])
    page.get_by_role("link", name=first, exact=True).click()
    expect(page.get_by_role("heading", name="Similar items")).to_be_visible()
    similar = service.ask("GET", f"/items/{first}/similar?k=10").json()["items"]
    shows_ids(page, "Similar items", [each["item_id"] for each in similar])

    page.get_by_role("button", name="Hide", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert first in ids(service)
    page.get_by_role("button", name="Hide", exact=True).click()
    assert "It is answered no more" in confirm(page, "Hide")
    expect(page.get_by_text("Hidden: it is never answered.")).to_be_visible()
    until(lambda: first not in ids(service))
    page.goto(f"{console.url}/items")
    expect(page.get_by_role("heading", name="Hidden now (1)")).to_be_visible()
    page.get_by_role("button", name=f"Show {first} again").click()
    confirm(page, "Show again")
    expect(page.get_by_text("Nothing is hidden.")).to_be_visible()
    until(lambda: first in ids(service))

    page.goto(f"{console.url}/items?id={first}")
    page.get_by_role("button", name="Out of stock").click()
    confirm(page, "Out of stock")
    expect(page.get_by_role("button", name="Back in stock")).to_be_visible()
    until(lambda: first not in ids(service))
    page.get_by_role("button", name="Back in stock").click()
    confirm(page, "Back in stock")
    expect(page.get_by_role("button", name="Out of stock")).to_be_visible()
    until(lambda: first in ids(service))


def test_a_what_if_by_the_keyboard_alone_stores_nothing(
    page: Page, service: Service, console: Console
) -> None:
    metrics = [line for line in service.metrics().splitlines() if "recommendations_total" in line]
    log_in(page, console)
    page.goto(f"{console.url}/sessions")
    page.get_by_label("Session id").focus()
    page.keyboard.type("visitor-7")
    page.keyboard.press("Enter")
    expect(table_of(page, "Clicks, the oldest first").locator("tbody tr")).to_have_count(len(CLICKS))
    shows_ids(page, "Clicks, the oldest first", CLICKS)
    shows_ids(page, "Answer now", SHOP.nearest(CLICKS))
    expect(page.get_by_text("As it was clicked")).to_be_visible()

    page.get_by_role("button", name="i20, click 4: take out").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("3 clicks instead of 4")).to_be_visible()
    shorter = SHOP.nearest(CLICKS[:3])
    shows_ids(page, "Answer to what if", shorter)
    ranks = {item_id: rank for rank, item_id in enumerate(SHOP.nearest(CLICKS), start=1)}
    shows_column(page, "Answer to what if", 2, [str(ranks.get(item_id, "–")) for item_id in shorter])
    expect(page.get_by_role("button", name="i5, click 3: take out")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("2 clicks instead of 4")).to_be_visible()
    page.get_by_role("button", name="i9, click 2: earlier").focus()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="i9, click 1: earlier")).to_be_focused()
    page.get_by_label("Item id to add").focus()
    page.keyboard.type("i33")
    page.keyboard.press("Enter")
    expect(page.get_by_text("3 clicks instead of 4")).to_be_visible()
    shows_ids(page, "Clicks of what if", ["i9", "i5", "i33"])
    shows_ids(page, "Answer to what if", SHOP.nearest(["i9", "i5", "i33"]))
    expect(page.get_by_label("Item id to add")).to_be_focused()
    page.get_by_role("button", name="As it was").press("Enter")
    expect(page.get_by_text("As it was clicked")).to_be_visible()

    stored = service.ask("GET", "/sessions/visitor-7").json()["clicks"]
    assert [click["item_id"] for click in stored] == CLICKS
    now = [line for line in service.metrics().splitlines() if "recommendations_total" in line]
    assert now == metrics, "nothing of it is counted"


@pytest.mark.parametrize("purpose", ["", "prefetch"])  # of a page fetched ahead NiceGUI shakes hands later
def test_what_is_done_before_the_socket_is_open_counts_in_its_order(
    page: Page, console: Console, purpose: str
) -> None:
    log_in(page, console)
    held: list[WebSocketRoute] = []
    page.route_web_socket(
        lambda _: True, lambda socket: held.append(socket) if holds else socket.connect_to_server()
    )
    page.set_extra_http_headers({"Sec-Purpose": purpose} if purpose else {})
    for number in range(5):
        holds = True
        page.goto(f"{console.url}/sessions")
        page.get_by_label("Session id").focus()
        page.keyboard.type(f"nobody-{number}")
        page.keyboard.press("Enter")
        holds = False
        until(lambda: page.evaluate("true") and held)  # Playwright tells of it
        held.pop().connect_to_server()
        page.wait_for_url(lambda address: "id=" in address)
        assert page.url == f"{console.url}/sessions?id=nobody-{number}"
        expect(page.get_by_text("There is no such session, or it has expired.")).to_be_visible()


def test_a_session_is_erased_and_an_unknown_one_is_told(
    page: Page, service: Service, console: Console
) -> None:
    assert service.ask("POST", "/sessions/a%2Fb%20c/click", {"item_id": "i3"}).status == 200
    log_in(page, console)
    page.goto(f"{console.url}/sessions")
    page.get_by_label("Session id").fill("a/b c")
    page.get_by_role("button", name="Look up").click()
    expect(page.get_by_role("heading", name="Clicks (1)")).to_be_visible()
    page.get_by_role("button", name="Erase this session").click()
    assert "That cannot be undone" in confirm(page, "Erase")
    page.wait_for_url(f"{console.url}/sessions")
    assert service.ask("GET", "/sessions/a%2Fb%20c").status == 404
    page.goto(f"{console.url}/sessions?id=a%2Fb%20c")
    expect(page.get_by_text("There is no such session, or it has expired.")).to_be_visible()


@pytest.mark.parametrize(("width", "dark"), [(NARROW, True), (WIDE, False)])
def test_nobody_is_shut_out(
    new_page: NewPage, service: Service, console: Console, width: int, dark: bool
) -> None:
    page = new_page(width=width, dark=dark)
    log_in(page, console)
    for path, last in (
        ("/sessions?id=visitor-7", "What if"),
        ("/items", "Hidden now (0)"),
        ("/items?id=i5", "Similar items"),
        ("/placements", "All placements"),
        ("/placements?name=home", "History"),
    ):
        page.goto(f"{console.url}{path}")
        expect(page.get_by_role("heading", name=last, exact=True)).to_be_visible()
        if "name=home" in path:
            page.get_by_role("button", name="Add a boost").click()
            page.get_by_label("Rule (JSON) of boost 1").fill('{"attribute": "colour", "eq": 1}')
            expect(page.get_by_role("alert").filter(has_text="colour")).to_be_visible()
        if "visitor-7" in path:
            page.get_by_role("button", name="i20, click 4: take out").click()
            expect(table_of(page, "Answer to what if")).to_be_visible()
        assert grave_violations(page) == [], path
        assert page.evaluate(
            "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        ), path
