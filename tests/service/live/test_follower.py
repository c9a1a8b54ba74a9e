"""The live bundle follows deployment.json, and a bad bundle never takes the place of a good one."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from service.live.deployment import FILE, DeploymentError, bundle_path, hide, publish, read_deployment, unhide
from service.live.follower import DeploymentFollower, load_bundle, turn_to_load
from service.ranking.bundle import ENCODER, ITEMS, Bundle, BundleError
from service.ranking.encoder import Interrupt
from tests.service.bundles import Shop, seal, write_endless_encoder
from tests.waiting import DEADLINE_SECONDS, eventually

pytestmark = pytest.mark.anyio

POLL_SECONDS = 0.01


@asynccontextmanager
async def following(artifacts: Path) -> AsyncIterator[DeploymentFollower]:
    follower = DeploymentFollower(artifacts, POLL_SECONDS)
    task = asyncio.create_task(follower.follow())
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await follower.settle()


async def version_becomes(follower: DeploymentFollower, version: str) -> None:
    await eventually(lambda: serves(follower) == version)


async def error_becomes(follower: DeploymentFollower, part: str) -> None:
    await eventually(lambda: part in (follower.error or ""))


def _take_turn(artifacts: Path, began: threading.Event) -> None:
    with turn_to_load(artifacts):
        began.set()


def serves(follower: DeploymentFollower) -> str | None:
    return follower.current.champion.version if follower.current.champion else None


def no_thread_loads(version: str) -> bool:
    return not any(thread.name == f"load {version}" for thread in threading.enumerate())


async def test_an_encoder_that_loops_is_refused_and_the_next_version_has_its_turn(artifacts: Path) -> None:
    shop = Shop.make()
    endless = shop.write(artifacts, "v2")
    write_endless_encoder(endless / ENCODER)
    seal(endless)
    for version in ("v1", "v3"):
        shop.write(artifacts, version)
    publish(artifacts, "v1")
    other = DeploymentFollower(artifacts, POLL_SECONDS)
    await other.reload()
    publish(artifacts, "v2")
    follower = DeploymentFollower(artifacts, POLL_SECONDS, load_timeout_seconds=0.5)
    await follower.reload()
    assert "v2: not loaded within 0.5 seconds" in (follower.error or "")
    await eventually(lambda: no_thread_loads("v2"))
    publish(artifacts, "v3")
    await other.reload()
    assert serves(other) == "v3"
    assert other.error is None


async def test_a_load_that_hangs_is_refused_and_lets_go_of_its_turn(artifacts: Path) -> None:
    """As on a disk that does not answer: it is not begun again, whatever changes, before it has ended."""
    shop, goes_on, begun = Shop.make(), threading.Event(), list[str]()

    def load(artifacts: Path, version: str, interrupt: Interrupt) -> Bundle:
        begun.append(version)
        if version == "v2":
            goes_on.wait(DEADLINE_SECONDS)
        return load_bundle(artifacts, version)

    for version in ("v1", "v2", "v3"):
        shop.write(artifacts, version)
    hasty, other = (DeploymentFollower(artifacts, POLL_SECONDS, load=load) for _ in range(2))
    publish(artifacts, "v1")
    for follower in (hasty, other):
        await follower.reload()
    hasty._load_timeout_seconds = 0.1
    publish(artifacts, "v2")
    await hasty.reload()
    assert "v2: not loaded within 0.1 seconds" in (hasty.error or "")
    hide(artifacts, "i1")
    await hasty.reload()
    assert "v2: an earlier try to load it has not ended yet" in (hasty.error or "")
    with pytest.raises(BundleError, match="an earlier try"):
        await hasty.activate("v2")
    assert serves(hasty) == "v1"
    assert begun == ["v1", "v1", "v2"]
    publish(artifacts, "v3")
    await other.reload()
    assert serves(other) == "v3", "nobody keeps the turn"
    goes_on.set()
    await eventually(lambda: no_thread_loads("v2"))
    with suppress(BundleError):  # not in time again, on a busy machine
        await hasty.activate("v2")
    assert begun[:5] == ["v1", "v1", "v2", "v3", "v2"]


def test_one_process_of_a_machine_loads_at_a_time_and_nothing_is_written_beside_the_bundles(
    artifacts: Path,
) -> None:
    with turn_to_load(artifacts):
        began = threading.Event()
        second = threading.Thread(target=_take_turn, args=(artifacts, began))
        second.start()
        assert not began.is_set()
    second.join(DEADLINE_SECONDS)
    assert began.is_set()
    assert list(artifacts.iterdir()) == []


async def test_before_the_first_bundle_there_is_nothing_and_nothing_is_wrong(artifacts: Path) -> None:
    follower = DeploymentFollower(artifacts, POLL_SECONDS)
    for _ in range(3):
        await follower.look()
        await follower.settle()
    assert follower.current.champion is None
    assert follower.error is None


async def test_the_first_bundle_is_picked_up_when_it_is_published(artifacts: Path) -> None:
    async with following(artifacts) as follower:
        Shop.make().write(artifacts, "v1")
        publish(artifacts, "v1")
        await version_becomes(follower, "v1")


async def test_a_request_keeps_the_bundle_it_began_with(artifacts: Path) -> None:
    old, new = Shop.make(seed=1), Shop.make(seed=2)
    old.write(artifacts, "v1")
    new.write(artifacts, "v2")
    publish(artifacts, "v1")
    async with following(artifacts) as follower:
        await version_becomes(follower, "v1")
        begun = follower.current.champion
        assert begun is not None
        publish(artifacts, "v2")
        await version_becomes(follower, "v2")
        vector = begun.bundle.encoder.encode([[1]])[0]
        assert vector == pytest.approx(old.session_vector(["i1"]), abs=1e-6)
        assert begun.ranker.rank([[1]], [1], [()])[0][1].tolist() == [1]


async def test_a_bad_bundle_is_refused_until_something_changes(artifacts: Path) -> None:
    Shop.make().write(artifacts, "v1")
    broken = Shop.make(seed=2).write(artifacts, "v2") / ITEMS
    content = broken.read_bytes()
    broken.write_bytes(content[:-1])
    follower = DeploymentFollower(artifacts, POLL_SECONDS)
    for version in ("v1", "v2"):
        publish(artifacts, version)
        await follower.look()
        await follower.settle()
    assert "items.txt: sha256 differs" in (follower.error or "")
    assert serves(follower) == "v1"
    broken.write_bytes(content)
    for _ in range(10):
        await follower.look()
        await follower.settle()
    assert serves(follower) == "v1", "it is not tried for ever"
    await follower.reload()
    assert serves(follower) == "v2"
    assert follower.error is None


async def test_a_change_tries_a_refused_bundle_again(artifacts: Path) -> None:
    bundle_path(artifacts, "v1").mkdir(parents=True)
    publish(artifacts, "v1")
    async with following(artifacts) as follower:
        await error_becomes(follower, "manifest.json: missing")
        bundle_path(artifacts, "v1").rmdir()
        Shop.make().write(artifacts, "v1")
        publish(artifacts, "v1")
        await version_becomes(follower, "v1")
        assert follower.error is None


async def test_a_damaged_or_lost_deployment_changes_nothing(artifacts: Path) -> None:
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    hide(artifacts, "i3")
    async with following(artifacts) as follower:
        await version_becomes(follower, "v1")
        (artifacts / FILE).write_text("{")
        await error_becomes(follower, FILE)
        assert serves(follower) == "v1"
        (artifacts / FILE).unlink()
        await error_becomes(follower, "No such file")
        assert serves(follower) == "v1"
        assert follower.current.hidden == {"i3"}


async def test_hidden_items_are_left_out_and_come_back(artifacts: Path) -> None:
    Shop.make(n_items=5).write(artifacts, "v1")
    publish(artifacts, "v1")
    follower = DeploymentFollower(artifacts, POLL_SECONDS)
    await follower.reload()
    for change, left in ((hide, [1, 3, 4, 5]), (unhide, [1, 2, 3, 4, 5])):
        change(artifacts, "i2")
        await follower.look()
        assert follower.current.champion is not None
        assert follower.current.champion.visible.tolist() == left
        ((_, found),) = follower.current.champion.ranker.rank([[2]], [9], [()])
        assert sorted(found.tolist()) == left


async def test_items_are_hidden_while_a_bundle_loads(artifacts: Path) -> None:
    Shop.make().write(artifacts, "v1")
    Shop.make(n_items=20_000).write(artifacts, "v2")
    publish(artifacts, "v1")
    follower = DeploymentFollower(artifacts, POLL_SECONDS)
    await follower.reload()
    publish(artifacts, "v2")
    await follower.look()
    hide(artifacts, "i1")
    await follower.look()
    assert serves(follower) == "v1"  # v2 loads in a thread
    assert follower.current.hidden == {"i1"}
    await follower.settle()
    assert serves(follower) == "v2"
    assert follower.current.champion is not None
    assert 1 not in follower.current.champion.visible


async def test_the_last_of_two_quick_publications_wins(artifacts: Path) -> None:
    for version in ("v1", "v2", "v3"):
        Shop.make().write(artifacts, version)
    follower = DeploymentFollower(artifacts, POLL_SECONDS)
    for version in ("v1", "v2", "v3"):
        publish(artifacts, version)
        await follower.look()
    await follower.settle()
    assert serves(follower) == "v3"


async def test_activating_a_bad_version_changes_nothing(artifacts: Path) -> None:
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    follower = DeploymentFollower(artifacts, POLL_SECONDS)
    await follower.reload()
    with pytest.raises(BundleError, match="missing"):
        await follower.activate("v2")
    assert read_deployment(artifacts).champion == serves(follower) == "v1"
    assert follower.error is None


async def test_activate_and_roll_back(artifacts: Path) -> None:
    follower = DeploymentFollower(artifacts, POLL_SECONDS)
    with pytest.raises(DeploymentError, match="no previous version"):
        await follower.rollback()
    for version in ("v1", "v2"):
        Shop.make().write(artifacts, version)
        await follower.activate(version)
        assert serves(follower) == version
    await follower.rollback()
    assert read_deployment(artifacts).champion == serves(follower) == "v1"
    shutil.rmtree(artifacts / "bundles" / "v2")
    with pytest.raises(BundleError, match="missing"):
        await follower.rollback()
    assert read_deployment(artifacts).champion == serves(follower) == "v1"
