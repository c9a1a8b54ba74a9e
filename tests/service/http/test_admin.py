"""Trials, bundles and history over HTTP: what only the command line could do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from service.live.deployment import publish, read_deployment
from service.live.snapshot import bucket
from tests.service.bundles import Shop
from tests.service.serving import ADMIN, Serving, item_ids, serving
from tests.waiting import eventually

pytestmark = pytest.mark.anyio

OLD, NEW = Shop.make(seed=1), Shop.make(seed=2)
SESSIONS = [f"s{number}" for number in range(40)]


@pytest.fixture
def published(artifacts: Path) -> Path:
    """v1 is live; v2 and v3 lie beside it."""
    for version, shop in (("v1", OLD), ("v2", NEW), ("v3", NEW)):
        shop.write(artifacts, version)
    publish(artifacts, "v1")
    return artifacts


@pytest.fixture
async def shop(published: Path, redis_url: str) -> AsyncIterator[Serving]:
    async with serving(published, redis_url, quality_share=1.0) as service:
        yield service


async def admin(service: Serving, method: str, path: str, status: int, **body: object) -> Any:
    """What an operator's call answers."""
    answer = await service.client.request(method, f"/admin/{path}", json=body or None, headers=ADMIN)
    assert answer.status_code == status, answer.text
    return answer.json()


async def roles(service: Serving) -> dict[str, str]:
    models = (await service.client.get("/models")).json()
    return {model["role"]: model["version"] for model in models["loaded"]}


async def test_a_challenger_is_started_changed_and_withdrawn_in_all_workers(
    shop: Serving, published: Path, redis_url: str
) -> None:
    async with serving(published, redis_url) as other:
        answer = await admin(shop, "PUT", "challenger", 200, version="v2", share=0.25)
        assert (answer["challenger"], answer["challenger_share"]) == ("v2", 0.25)
        assert [(model["role"], model["version"]) for model in answer["loaded"]] == [
            ("champion", "v1"),
            ("challenger", "v2"),
        ]
        await eventually(lambda: other.follower.current.challenger is not None)
        for session in SESSIONS:
            await shop.click(session, "i5")
        for share in (0.25, 0.75):
            await admin(shop, "PUT", "challenger", 200, version="v2", share=share)
            await eventually(
                lambda share=share: other.follower.current.deployment.challenger_share == share  # type: ignore[misc]
            )
            for session in SESSIONS:
                for worker in (shop, other):
                    version = "v2" if bucket(session, "v2") < share else "v1"
                    answer = await worker.recommend(session)
                    assert answer["version"] == version
                    assert item_ids(answer) == {"v1": OLD, "v2": NEW}[version].nearest(["i5"])
        answer = await admin(shop, "DELETE", "challenger", 200)
        assert (answer["challenger"], answer["challenger_share"]) == (None, 0)
        await eventually(lambda: other.follower.current.challenger is None)
        assert {(await other.recommend(session))["version"] for session in SESSIONS} == {"v1"}


async def test_a_shadow_is_started_judged_and_withdrawn(shop: Serving) -> None:
    await admin(shop, "PUT", "shadow", 200, version="v2", share=1.0)
    assert await roles(shop) == {"champion": "v1", "shadow": "v2"}
    await shop.click("s", "i5")
    assert (await shop.recommend("s"))["version"] == "v1"
    await admin(shop, "DELETE", "shadow", 200)
    assert await roles(shop) == {"champion": "v1"}


async def test_a_trial_has_a_share_of_a_tenth_unless_another_is_named(shop: Serving) -> None:
    answer = await admin(shop, "PUT", "challenger", 200, version="v2")
    assert answer["challenger_share"] == 0.1


@pytest.mark.parametrize("role", ["challenger", "shadow"])
@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        ({"version": "v9"}, 409, "v9/manifest.json: missing: not a bundle"),
        ({"version": "../v2"}, 409, "a version is made of letters"),
        ({"version": "v1"}, 409, "v1 is the champion: it cannot be the ROLE as well"),
        ({"version": "v3"}, 409, "v3 is the OTHER: it cannot be the ROLE as well"),
        ({"version": "bad"}, 409, "items.txt: sha256 differs"),
        ({"version": "v2", "share": 0}, 422, "body.share"),
        ({"version": "v2", "share": 1.5}, 422, "body.share"),
        ({"version": "v2", "share": "half"}, 422, "body.share"),
        ({"version": "v2", "shares": 0.1}, 422, "body.shares"),
        ({"share": 0.1}, 422, "body.version"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_changes_nothing(
    shop: Serving, published: Path, role: str, body: dict[str, Any], status: int, why: str
) -> None:
    other = "shadow" if role == "challenger" else "challenger"
    await admin(shop, "PUT", other, 200, version="v3", share=0.5)
    OLD.write(published, "bad")
    (published / "bundles" / "bad" / "items.txt").write_text("i1\n")
    before = read_deployment(published), (await admin(shop, "GET", "history", 200))
    refused = await admin(shop, "PUT", role, status, **body)
    assert why.replace("ROLE", role).replace("OTHER", other) in refused["detail"]
    assert (read_deployment(published), await admin(shop, "GET", "history", 200)) == before


@pytest.mark.parametrize("role", ["challenger", "shadow"])
async def test_none_can_be_withdrawn_where_there_is_none(shop: Serving, role: str) -> None:
    refused = await admin(shop, "DELETE", role, 409)
    assert f"there is no {role}" in refused["detail"]


async def test_every_change_is_in_the_history(shop: Serving) -> None:
    for method, path, body in (
        ("PUT", "challenger", {"version": "v2", "share": 0.25}),
        ("DELETE", "challenger", {}),
        ("PUT", "shadow", {"version": "v3", "share": 0.5}),
        ("DELETE", "shadow", {}),
        ("POST", "activate", {"version": "v2"}),
        ("POST", "rollback", {}),
    ):
        await admin(shop, method, path, 200, **body)
    told = await admin(shop, "GET", "history", 200)
    assert told["unreadable"] == 0
    assert [(each["action"], each["version"], each["share"], each["by"]) for each in told["changes"]] == [
        ("rollback", "v1", None, "admin"),
        ("publish", "v2", None, "admin"),
        ("withdraw shadow", "v3", None, "admin"),
        ("shadow", "v3", 0.5, "admin"),
        ("withdraw challenger", "v2", None, "admin"),
        ("challenger", "v2", 0.25, "admin"),
        ("publish", "v1", None, "command"),
    ]


async def test_a_history_that_cannot_be_read_says_so(shop: Serving, published: Path) -> None:
    file = published / "deployments.jsonl"
    file.unlink()
    file.mkdir()
    assert "cannot be read" in (await admin(shop, "GET", "history", 409))["detail"]


async def test_bundles_are_listed_with_their_roles_and_what_is_wrong(shop: Serving, published: Path) -> None:
    await admin(shop, "PUT", "challenger", 200, version="v2")
    await admin(shop, "POST", "activate", 200, version="v3")
    (published / "bundles" / "broken").mkdir()
    found = (await admin(shop, "GET", "bundles", 200))["bundles"]
    bundles = {bundle["version"]: bundle for bundle in found}
    assert {version: bundle["roles"] for version, bundle in bundles.items()} == {
        "v1": ["previous"],
        "v2": ["challenger"],
        "v3": ["champion"],
        "broken": [],
    }
    assert found[-1] == {
        "version": "broken",
        "roles": [],
        "problem": bundles["broken"]["problem"],
        "size_bytes": 0,
        **dict.fromkeys(("kind", "model", "created_at", "n_items", "metrics")),
    }
    assert "not a bundle" in bundles["broken"]["problem"]
    v2 = bundles["v2"]
    assert (v2["problem"], v2["kind"], v2["n_items"]) == (None, "encoder", 60)
    assert v2["metrics"] == {"recall@20": 0.5}
    assert v2["size_bytes"] > 1000


async def test_they_want_the_admins_key(shop: Serving) -> None:
    for method, path in (
        ("PUT", "challenger"),
        ("DELETE", "challenger"),
        ("PUT", "shadow"),
        ("DELETE", "shadow"),
        ("GET", "bundles"),
        ("GET", "history"),
    ):
        refused = await shop.client.request(method, f"/admin/{path}", json={"version": "v2"})
        assert refused.status_code == 401, path
