"""A running service with a small catalogue, for pages to be looked at in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.live.deployment import publish
from tests.service.bundles import Shop
from tests.service.processes import Service, running

SHOP = Shop.make()
CATEGORIES = ("Tents", "Stoves", "Boots")
PICTURE = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'%3E"
    "%3Cpath d='M1 7h6L4 1z' fill='%23486'/%3E%3C/svg%3E"
)
HOSTILE = "<img src=x onerror=alert(1)> & Sons"  # a title that a page must only ever show


@contextmanager
def storefront(directory: Path, *, with_catalogue: bool = True, **environment: str) -> Iterator[Service]:
    """A service that knows what its items are called, or nothing but their ids."""
    artifacts = directory / "artifacts"
    SHOP.write(artifacts, "v1")
    publish(artifacts, "v1")
    environment = {
        "NEXTCLICK_ARTIFACTS_DIR": str(artifacts),
        "NEXTCLICK_REDIS_TIMEOUT_SECONDS": "60",
    } | environment
    with running(directory, workers=1, **environment) as service:
        service.each("/health/ready")
        if with_catalogue:
            assert service.ask("PUT", "/items", [_item(number) for number in range(1, 61)]).status == 200
        yield service


def _item(number: int) -> dict[str, object]:
    category = CATEGORIES[number % len(CATEGORIES)]
    return {
        "item_id": f"i{number}",
        "title": HOSTILE if number == 2 else f"{category[:-1]} {number}",
        "categories": [category],
        "brand": ("Kestrel", "Basalt")[number % 2],
        "price": 10 + number,
        "currency": "EUR",
        "image_url": PICTURE,
    }
