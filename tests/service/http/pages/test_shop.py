"""The shop's page: where it is, what it holds, and what it may do. tests/browser has what it looks like."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.catalogue.placements import Placement
from service.http.pages.shop import FIELDS, FILES, HEADERS
from service.live.deployment import publish, set_placement
from tests.service.bundles import Shop
from tests.service.serving import serving

pytestmark = pytest.mark.anyio

KEY = "a-public-key"


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({}, 200),
        ({"shop_page": False}, 404),
        ({"api_key": KEY}, 404),
        ({"api_key": KEY, "shop_page": True}, 200),
    ],
    ids=["open", "not wanted", "with a key", "with a key and wanted"],
)
async def test_it_is_there_where_it_may_be(
    artifacts: Path, redis_url: str, settings: dict[str, object], status: int
) -> None:
    async with serving(artifacts, redis_url, **settings) as service:
        for path in ("/", *(f"/shop/{name}" for name in ("shop.js", "shop.css", "config.json"))):
            assert (await service.client.get(path)).status_code == status, path


async def test_each_file_has_its_policy_and_its_kind(artifacts: Path, redis_url: str) -> None:
    async with serving(artifacts, redis_url) as service:
        files = [file for file in FILES.iterdir() if file.suffix != ".html"]
        assert len(files) > 5
        for path in ("/", *(f"/shop/{file.name}" for file in files)):
            answer = await service.client.get(path)
            assert answer.status_code == 200, path
            assert answer.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
            assert answer.headers["cache-control"] == "public, max-age=0"
            again = await service.client.get(path, headers={"If-None-Match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert (
            (await service.client.get("/shop/shop.js")).headers["content-type"].startswith("text/javascript")
        )


async def test_the_page_is_told_the_public_key_and_the_placements(artifacts: Path, redis_url: str) -> None:
    secrets = {"server_api_key": "of-the-server", "admin_api_key": "of-the-admin"}
    async with serving(artifacts, redis_url, api_key=KEY, shop_page=True, **secrets) as service:
        config = await service.client.get("/shop/config.json")
        assert config.json() == {"key": KEY, "fields": list(FIELDS), "placements": []}
        assert config.headers["cache-control"] == "no-store"
        set_placement(artifacts, "cart", Placement(k=4), by="a test")
        await service.follower.look()
        assert (await service.client.get("/shop/config.json")).json()["placements"] == ["cart"]


async def test_it_asks_for_nothing_private_and_with_no_key_that_is_bound(
    artifacts: Path, redis_url: str, tmp_path: Path
) -> None:
    (tmp_path / "catalogue.toml").write_text('private = ["price", "brand"]')
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    keys = [
        {"label": "bound", "scope": "public", "key": "a-key-of-one-page", "origins": ["https://a.example"]},
        {"label": "free", "scope": "public", "key": "a-key-of-any-page"},
    ]
    settings = {"catalogue_file": tmp_path / "catalogue.toml", "shop_page": True}
    async with serving(artifacts, redis_url, keys=keys, **settings) as service:
        config = (await service.client.get("/shop/config.json")).json()
        assert config["key"] == "a-key-of-any-page"
        assert config["fields"] == [name for name in FIELDS if name not in ("price", "brand")]
        asked = {"items": [], "fields": config["fields"]}
        answer = await service.client.post("/recommend", json=asked, headers={"X-API-Key": config["key"]})
        assert answer.status_code == 200, answer.text
