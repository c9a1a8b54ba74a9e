"""The shop as a visitor meets it: what it shows is held against the right answer, a line of numpy here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator, Page, Request, expect

from tests.browser.axe import grave_violations
from tests.browser.conftest import NARROW, WIDE, NewPage
from tests.browser.storefront import HOSTILE, SHOP, storefront
from tests.service.processes import Service

KEY = "a-key-that-stands-in-pages"
COUNT_MOVES = """
    moves = 0;
    const { animate } = Element.prototype;
    Element.prototype.animate = function (...how) { moves++; return animate.apply(this, how); };
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with storefront(tmp_path_factory.mktemp("shop")) as service:
        yield service


class Visitor:
    """Somebody in the shop, and the calls that their page makes."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.asked: list[str] = []
        page.on("request", self._asked)
        page.goto(f"{url}/")

    def _asked(self, request: Request) -> None:
        self.asked.append(f"{request.method} {urlsplit(request.url).path}")

    def says(self, consent: str) -> None:
        self.page.get_by_role("button", name=consent).click()

    def opens(self, item_id: str) -> None:
        """Go to an item's page by its card."""
        self.page.locator(f".card[data-item={item_id}]").first.click()
        expect(self.page.locator(".product code")).to_have_text(item_id)

    def listed(self, heading: str) -> Locator:
        return self.page.locator(
            "section.strip", has=self.page.get_by_role("heading", name=heading, exact=True)
        )

    def first(self, heading: str, count: int) -> str:
        """Wait until so many items stand under a heading; which is first (others' clicks may decide that)."""
        cards = self.listed(heading).locator(".card[data-item]")
        expect(cards).to_have_count(count)
        return str(cards.first.get_attribute("data-item"))

    def goes_to(self, item_id: str) -> None:
        """Go to an item's page by its address."""
        self.page.goto(f"{self.url}/#/item/{item_id}")
        expect(self.page.locator(".product code")).to_have_text(item_id)

    def sees(self, heading: str, items: Sequence[str]) -> None:
        """Exactly these items come to stand under a heading."""
        cards = self.listed(heading).locator(".card")
        expect(cards).to_have_count(len(items))
        for card, item_id in zip(cards.all(), items, strict=True):
            expect(card).to_have_attribute("data-item", item_id)

    def sees_ranks(self, items: Sequence[str]) -> None:
        """The panel's answer comes to be this one."""
        rows = self.page.locator(".ranks li")
        expect(rows).to_have_count(len(items))
        for row, item_id in zip(rows.all(), items, strict=True):
            expect(row).to_have_attribute("data-item", item_id)

    @property
    def stored(self) -> int:
        return int(self.page.evaluate("localStorage.length"))


def test_each_click_changes_what_comes_next_and_nothing_is_stored(service: Service, page: Page) -> None:
    visitor = Visitor(page, service.url)
    visitor.says("No, thanks")
    visitor.first("To begin with", 12)
    visitor.goes_to("i2")
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    clicked = ["i2"]
    visitor.sees("Others went on to", SHOP.nearest(clicked, 6, without=clicked))
    for item_id in SHOP.nearest(clicked, 2, without=clicked):
        visitor.opens(item_id)
        clicked.append(item_id)
        visitor.sees("Others went on to", SHOP.nearest(clicked, 6, without=clicked))
        expect(page.locator(".clicks li")).to_have_count(len(clicked))
    visitor.sees_ranks(SHOP.nearest(clicked, 12))
    visitor.sees("Your last views", clicked[-2::-1])

    page.go_back()
    expect(page.locator(".product code")).to_have_text(clicked[1])
    clicked.append(clicked[1])  # who goes back has looked again
    visitor.sees("Others went on to", SHOP.nearest(clicked, 6, without=clicked))
    page.get_by_role("link", name="Nextclick shop").click()
    visitor.sees("For you", SHOP.nearest(clicked, 12, without=clicked))

    assert not any(path.partition(" ")[2].startswith("/sessions") for path in visitor.asked)
    assert visitor.stored == 0


def test_with_consent_a_visit_outlives_a_reload_until_it_is_withdrawn(service: Service, page: Page) -> None:
    visitor = Visitor(page, service.url)
    visitor.says("Yes, remember")
    with page.expect_request(lambda request: request.url.endswith("/click")) as sent:
        visitor.goes_to("i3")
    session_id = urlsplit(sent.value.url).path.split("/")[2]
    assert len(session_id) == 22
    visitor.sees("Others went on to", SHOP.nearest(["i3"], 6, without=["i3"]))
    page.get_by_role("button", name="Add to cart").click()
    page.reload()
    expect(page.locator("#cart-count")).to_have_text("1")
    expect(page.locator("#consent")).to_be_hidden()
    visitor.sees("Others went on to", SHOP.nearest(["i3"], 6, without=["i3"]))
    stored = service.ask("GET", f"/sessions/{session_id}").json()
    assert [click["item_id"] for click in stored["clicks"]] == ["i3"], "a reload is no click"

    page.get_by_role("switch", name="Remember this visit").click()
    expect(page.locator(".clicks li")).to_have_count(0)
    assert visitor.stored == 0


def test_what_if_moves_ranks_and_stores_nothing(service: Service, page: Page) -> None:
    visitor = Visitor(page, service.url)
    visitor.says("Yes, remember")
    clicked = ["i4", "i7", "i1", "i9", "i12"]  # of two, each were as near as the other
    for count, item_id in enumerate(clicked, start=1):
        visitor.goes_to(item_id)
        visitor.sees("Others went on to", SHOP.nearest(clicked[:count], 6, without=clicked[:count]))
    visitor.sees_ranks(SHOP.nearest(clicked, 12))
    _causes_are_right(page, clicked)
    before = len(visitor.asked)

    real = SHOP.nearest(clicked, 60)
    left = ["i4", "i7", "i1", "i12"]
    page.get_by_role("button", name="Take out: ").nth(1).click()  # of the newest first
    visitor.sees_ranks(SHOP.nearest(left, 12))
    _arrows_are_right(page, real, SHOP.nearest(left, 60))
    _causes_are_right(page, left)
    page.get_by_label("Add a click").fill("i33")
    page.get_by_label("Add a click").press("Enter")
    visitor.sees_ranks(SHOP.nearest([*left, "i33"], 12))
    _arrows_are_right(page, real, SHOP.nearest([*left, "i33"], 60))
    page.get_by_role("button", name="Back to the visit").click()
    visitor.sees_ranks(SHOP.nearest(clicked, 12))

    asked = set(visitor.asked[before:])
    assert asked == {"POST /recommend", "GET /items"}, "and no session among them"


def _arrows_are_right(page: Page, real: Sequence[str], now: Sequence[str]) -> None:
    for row, item_id in zip(page.locator(".ranks li").all(), now, strict=False):
        moved = real.index(item_id) - now.index(item_id)
        told = f"▲{moved}" if moved > 0 else f"▼{-moved}" if moved else "·"
        expect(row.locator(".moved")).to_have_text(told)


def _causes_are_right(page: Page, clicked: Sequence[str]) -> None:
    """Each item's cause is the click, the latest of equal ones, without which it falls most."""
    with_all = SHOP.nearest(clicked, 60)
    without = [SHOP.nearest([each for each in clicked if each != left_out], 60) for left_out in clicked]
    for row, item_id in zip(page.locator(".ranks li").all(), with_all, strict=False):
        losses = [ranks.index(item_id) - with_all.index(item_id) for ranks in without]
        most = max(losses)
        place = len(losses) - losses[::-1].index(most)
        places = "place" if most == 1 else "places"
        told = f"click {place}: −{most} {places} without" if most > 0 else "by no single click"
        expect(row.locator(".cause")).to_have_text(told)


def test_a_keyboard_is_enough(service: Service, new_page: NewPage) -> None:
    page = new_page(width=NARROW)
    visitor = Visitor(page, service.url)
    first = visitor.first("To begin with", 12)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the shop")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator(f".card[data-item={first}]").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    expect(page.locator(".product code")).to_have_text(first)
    _tab_to(page, page.get_by_role("button", name="Add to cart"))
    page.keyboard.press("Space")
    expect(page.locator("#cart-count")).to_have_text("1")

    button = page.locator("#panel-button")
    button.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="What Nextclick sees")).to_be_focused()
    expect(page.locator(".ranks li")).to_have_count(12)
    for _ in range(40):  # what lies below the drawer is out of reach
        page.keyboard.press("Tab")
        assert page.evaluate("!document.activeElement.closest('.shop')")
    page.locator("#panel h2").focus()
    _tab_to(page, page.get_by_role("button", name="Take out"))
    page.keyboard.press("Enter")
    expect(page.get_by_label("Add a click")).to_be_focused()
    page.keyboard.type("i5")
    expect(page.locator(".choices button").first).to_be_visible()
    page.keyboard.press("Enter")
    visitor.sees_ranks(SHOP.nearest(["i5"], 12))
    page.keyboard.press("Escape")
    expect(button).to_be_focused()


def _tab_to(page: Page, wanted: Locator) -> None:
    for _ in range(40):
        page.keyboard.press("Tab")
        if wanted.evaluate("element => element === document.activeElement"):
            return
    pytest.fail(f"{wanted} is not reached")


@pytest.mark.parametrize("still", [False, True], ids=["moving", "still"])
def test_nothing_moves_for_those_who_asked_for_that(service: Service, page: Page, still: bool) -> None:
    page.emulate_media(reduced_motion="reduce" if still else "no-preference")
    page.add_init_script(COUNT_MOVES)
    visitor = Visitor(page, service.url)
    visitor.says("No, thanks")
    for clicked in (["i2"], ["i2", "i3"]):
        visitor.goes_to(clicked[-1])
        visitor.sees_ranks(SHOP.nearest(clicked, 12))
    assert (page.evaluate("moves") == 0) == still


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_nobody_is_shut_out_and_nothing_scrolls_sideways(
    service: Service, new_page: NewPage, width: int, dark: bool
) -> None:
    page = new_page(width=width, dark=dark)
    visitor = Visitor(page, service.url)
    visitor.first("To begin with", 12)
    _is_sound(page)
    visitor.says("No, thanks")
    visitor.goes_to("i2")
    visitor.sees("Others went on to", SHOP.nearest(["i2"], 6, without=["i2"]))
    page.get_by_role("button", name="Add to cart").click()
    _is_sound(page)
    if width == NARROW:
        page.locator("#panel-button").click()
    expect(page.locator(".cause").first).not_to_have_text(" ")
    page.get_by_role("button", name="Take out").click()
    page.get_by_label("Add a click").fill("i3")
    expect(page.locator(".choices button").first).to_be_visible()
    _is_sound(page)
    page.goto(f"{service.url}/#/cart")
    if width == NARROW:
        page.keyboard.press("Escape")
    expect(page.locator(".basket li")).to_have_count(1)
    _is_sound(page)


def _is_sound(page: Page) -> None:
    assert grave_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"


def test_ids_alone_and_a_key_are_enough(tmp_path_factory: pytest.TempPathFactory, page: Page) -> None:
    settings = {"NEXTCLICK_API_KEY": KEY, "NEXTCLICK_SHOP_PAGE": "true"}
    with storefront(tmp_path_factory.mktemp("ids"), with_catalogue=False, **settings) as service:
        assert service.ask("GET", "/recommend?session_id=s").status == 401
        visitor = Visitor(page, service.url)
        visitor.says("No, thanks")
        visitor.sees("To begin with", SHOP.popular(12))
        visitor.sees("Everything", SHOP.popular(60))
        card = page.locator(".card[data-item=i1]").first
        expect(card.locator(".title")).to_have_text("i1")
        expect(card.locator(".drawn")).to_be_visible()
        visitor.opens("i1")
        visitor.sees("Others went on to", SHOP.nearest(["i1"], 6, without=["i1"]))
        page.get_by_label("Search the shop").fill("i4")
        page.get_by_label("Search the shop").press("Enter")
        visitor.sees("Found", [item_id for item_id in SHOP.items if "i4" in item_id])
        page.reload()
        expect(page.get_by_role("heading", level=1)).to_have_text("Search: i4")
        assert not any(path.startswith("GET /items/") and "similar" not in path for path in visitor.asked)


def test_a_shelf_holds_what_its_category_says(service: Service, page: Page) -> None:
    visitor = Visitor(page, service.url)
    page.get_by_role("navigation", name="Categories").get_by_role("link", name="Stoves").click()
    stoves = [item_id for item_id in SHOP.items if int(item_id[1:]) % 3 == 1]
    assert visitor.first("In Stoves", len(stoves)) in stoves
    visitor.opens("i1")
    page.get_by_role("link", name="Stoves", exact=True).last.click()
    visitor.sees("In Stoves", SHOP.nearest(["i1"], 60, without=set(SHOP.items) - set(stoves)))
