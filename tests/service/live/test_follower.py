"""The live bundle follows deployment.json, and a bad bundle never takes the place of a good one."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.live.deployment import FILE, DeploymentError, bundle_path, hide, publish, read_deployment, unhide
from service.live.follower import LiveBundle
from service.ranking.bundle import ITEMS, BundleError
from tests.service.bundles import Shop

pytestmark = pytest.mark.anyio

POLL_SECONDS = 0.01
DEADLINE_SECONDS = 10


@asynccontextmanager
async def following(artifacts: Path) -> AsyncIterator[LiveBundle]:
    live = LiveBundle(artifacts, POLL_SECONDS)
    task = asyncio.create_task(live.follow())
    try:
        yield live
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await live.settle()


async def version_becomes(live: LiveBundle, version: str) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while serves(live) != version:
            await asyncio.sleep(POLL_SECONDS)


async def error_becomes(live: LiveBundle, part: str) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while part not in (live.error or ""):
            await asyncio.sleep(POLL_SECONDS)


def serves(live: LiveBundle) -> str | None:
    return live.current.champion.version if live.current.champion else None


async def test_the_first_bundle_is_picked_up_when_it_is_published(artifacts: Path) -> None:
    async with following(artifacts) as live:
        await asyncio.sleep(3 * POLL_SECONDS)
        assert live.current.champion is None
        assert live.error is None
        Shop.make().write(artifacts, "v1")
        publish(artifacts, "v1")
        await version_becomes(live, "v1")


async def test_a_request_keeps_the_bundle_it_began_with(artifacts: Path) -> None:
    old, new = Shop.make(seed=1), Shop.make(seed=2)
    old.write(artifacts, "v1")
    new.write(artifacts, "v2")
    publish(artifacts, "v1")
    async with following(artifacts) as live:
        await version_becomes(live, "v1")
        begun = live.current.champion
        assert begun is not None
        publish(artifacts, "v2")
        await version_becomes(live, "v2")
        vector = begun.bundle.encoder.encode([[1]])[0]
        assert vector == pytest.approx(old.session_vector(["i1"]), abs=1e-6)
        assert begun.ranker.rank([[1]], [1], [()])[0][1].tolist() == [1]


async def test_a_bad_bundle_is_refused_until_something_changes(artifacts: Path) -> None:
    Shop.make().write(artifacts, "v1")
    broken = Shop.make(seed=2).write(artifacts, "v2") / ITEMS
    content = broken.read_bytes()
    broken.write_bytes(content[:-1])
    publish(artifacts, "v1")
    async with following(artifacts) as live:
        await version_becomes(live, "v1")
        publish(artifacts, "v2")
        await error_becomes(live, "items.txt: sha256 differs")
        assert serves(live) == "v1"
        broken.write_bytes(content)
        await asyncio.sleep(10 * POLL_SECONDS)
        assert serves(live) == "v1"  # it is not tried for ever
        await live.reload()
        assert serves(live) == "v2"
        assert live.error is None


async def test_a_change_tries_a_refused_bundle_again(artifacts: Path) -> None:
    bundle_path(artifacts, "v1").mkdir(parents=True)
    publish(artifacts, "v1")
    async with following(artifacts) as live:
        await error_becomes(live, "manifest.json: missing")
        bundle_path(artifacts, "v1").rmdir()
        Shop.make().write(artifacts, "v1")
        publish(artifacts, "v1")
        await version_becomes(live, "v1")
        assert live.error is None


async def test_a_damaged_or_lost_deployment_changes_nothing(artifacts: Path) -> None:
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    hide(artifacts, "i3")
    async with following(artifacts) as live:
        await version_becomes(live, "v1")
        (artifacts / FILE).write_text("{")
        await error_becomes(live, FILE)
        assert serves(live) == "v1"
        (artifacts / FILE).unlink()
        await error_becomes(live, "No such file")
        assert serves(live) == "v1"
        assert live.current.hidden == {"i3"}


async def test_hidden_items_are_left_out_and_come_back(artifacts: Path) -> None:
    Shop.make(n_items=5).write(artifacts, "v1")
    publish(artifacts, "v1")
    live = LiveBundle(artifacts, POLL_SECONDS)
    await live.reload()
    for change, left in ((hide, [1, 3, 4, 5]), (unhide, [1, 2, 3, 4, 5])):
        change(artifacts, "i2")
        live.look()
        assert live.current.champion is not None
        assert live.current.champion.visible.tolist() == left
        ((_, found),) = live.current.champion.ranker.rank([[2]], [9], [()])
        assert sorted(found.tolist()) == left


async def test_items_are_hidden_while_a_bundle_loads(artifacts: Path) -> None:
    Shop.make().write(artifacts, "v1")
    Shop.make(n_items=20_000).write(artifacts, "v2")
    publish(artifacts, "v1")
    live = LiveBundle(artifacts, POLL_SECONDS)
    await live.reload()
    publish(artifacts, "v2")
    live.look()
    hide(artifacts, "i1")
    live.look()
    assert serves(live) == "v1"  # v2 loads in a thread
    assert live.current.hidden == {"i1"}
    await live.settle()
    assert serves(live) == "v2"
    assert live.current.champion is not None
    assert 1 not in live.current.champion.visible


async def test_the_last_of_two_quick_publications_wins(artifacts: Path) -> None:
    for version in ("v1", "v2", "v3"):
        Shop.make().write(artifacts, version)
    live = LiveBundle(artifacts, POLL_SECONDS)
    for version in ("v1", "v2", "v3"):
        publish(artifacts, version)
        live.look()
    await live.settle()
    assert serves(live) == "v3"


async def test_activating_a_bad_version_changes_nothing(artifacts: Path) -> None:
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    live = LiveBundle(artifacts, POLL_SECONDS)
    await live.reload()
    with pytest.raises(BundleError, match="missing"):
        await live.activate("v2")
    assert read_deployment(artifacts).champion == serves(live) == "v1"
    assert live.error is None


async def test_activate_and_roll_back(artifacts: Path) -> None:
    live = LiveBundle(artifacts, POLL_SECONDS)
    with pytest.raises(DeploymentError, match="no previous version"):
        await live.rollback()
    for version in ("v1", "v2"):
        Shop.make().write(artifacts, version)
        await live.activate(version)
        assert serves(live) == version
    await live.rollback()
    assert read_deployment(artifacts).champion == serves(live) == "v1"
    shutil.rmtree(artifacts / "bundles" / "v2")
    with pytest.raises(BundleError, match="missing"):
        await live.rollback()
    assert read_deployment(artifacts).champion == serves(live) == "v1"
