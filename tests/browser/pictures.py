"""The pictures of docs/pictures, taken of a running `nextclick demo`: python -m tests.browser.pictures"""

from __future__ import annotations

import argparse
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from console.pages import PAGES
from tests.browser.conftest import INSTALL, NARROW, WIDE

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
MOST_BYTES = 150_000
QUALITY = 82


def take(page: Page, name: str) -> None:
    """Write a picture of what is in sight, once nothing more comes."""
    page.wait_for_load_state("networkidle")
    packed = io.BytesIO()
    Image.open(io.BytesIO(page.screenshot())).save(packed, "WEBP", quality=QUALITY, method=6)
    assert len(packed.getvalue()) <= MOST_BYTES, f"{name}: {len(packed.getvalue())} bytes"
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / f"{name}.webp").write_bytes(packed.getvalue())
    print(f"{name}.webp: {len(packed.getvalue()) // 1000} kB")


@contextmanager
def visitor(browser: Browser, width: int, *, dark: bool) -> Iterator[Page]:
    """A page of somebody new."""
    context = browser.new_context(
        viewport={"width": width, "height": 900 if width == WIDE else 760},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
    )
    yield context.new_page()
    context.close()


def shop(browser: Browser, url: str) -> None:
    """Some clicks on what comes next; what if one were out; the cart."""
    for width, dark in ((WIDE, False), (WIDE, True), (NARROW, False), (NARROW, True)):
        look = f"{'wide' if width == WIDE else 'narrow'}-{'dark' if dark else 'light'}"
        with visitor(browser, width, dark=dark) as page:
            page.goto(url)
            page.get_by_role("button", name="No, thanks").click()
            for place in (4, 1, 5, 2):
                card = page.locator("section.strip").first.locator(".card[data-item]").nth(place)
                item_id = card.get_attribute("data-item")
                card.click()
                expect(page.locator(".product code")).to_have_text(item_id or "")
                expect(page.locator("section.strip").first.locator(".card[data-item]")).to_have_count(6)
            page.get_by_role("button", name="Add to cart").click()
            take(page, f"shop-item-{look}")
            page.goto(f"{url}#/")
            expect(page.locator("section.strip").first.locator(".card[data-item]")).to_have_count(12)
            if width == NARROW:
                take(page, f"shop-home-{look}")
                page.locator("#panel-button").click()
            else:
                page.evaluate("document.activeElement.blur()")
                take(page, f"shop-home-{look}")
            page.get_by_role("button", name="Take out").nth(1).click()
            expect(page.locator("#said")).to_contain_text("What if: first is")
            take(page, f"shop-what-if-{look}")
            if width == NARROW:
                page.keyboard.press("Escape")
            page.goto(f"{url}#/cart")
            expect(page.locator(".basket li")).to_have_count(1)
            take(page, f"shop-cart-{look}")


def console(browser: Browser, url: str, key: str, session: str, item: str) -> None:
    """Every page of the console, with what the demo has to show there."""
    asked = {"Sessions": f"?id={session}", "Items": f"?id={item}", "Placements": "?name=product"}
    for width, dark in ((WIDE, False), (NARROW, True)):
        look = f"{'wide' if width == WIDE else 'narrow'}-{'dark' if dark else 'light'}"
        with visitor(browser, width, dark=dark) as page:
            page.goto(url)
            page.get_by_label("Admin key").fill(key)
            page.keyboard.press("Enter")
            expect(page.get_by_role("heading", level=1)).to_have_text(PAGES[0].title)
            for each in PAGES:
                page.goto(f"{url.rstrip('/')}{each.path}{asked.get(each.title, '')}")
                expect(page.get_by_role("heading", level=1)).to_have_text(each.title)
                page.wait_for_timeout(1500)  # drawn in pieces, for a picture alone
                take(page, f"console-{each.title.lower()}-{look}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shop", default="http://127.0.0.1:8000/", help="where the demo's shop is")
    parser.add_argument("--console", help="take those of its console instead, at this address")
    parser.add_argument("--key", help="the admin key")
    parser.add_argument("--session", default="me", help="to look up in it")
    parser.add_argument("--item", default="", help="likewise")
    asked = parser.parse_args()
    path = shutil.which("chromium")
    if path is None:
        raise SystemExit(INSTALL)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        if asked.console is None:
            shop(browser, asked.shop)
        else:
            console(browser, asked.console, asked.key, asked.session, asked.item)
        browser.close()


if __name__ == "__main__":
    main()
