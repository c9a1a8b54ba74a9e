"""Many items are hidden with one call, and requests do not wait for it."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from service.http.admin_schemas import MAX_CHANGES
from service.live.deployment import publish, read_deployment
from service.live.follower import DeploymentFollower
from service.ranking.bundle import Bundle, BundleError
from tests.service.bundles import Shop
from tests.service.serving import ADMIN, item_ids, serving
from tests.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.anyio

SHOP = Shop.make()
MANY = [f"gone {number}" for number in range(2000)]
TOO_LARGE = 10_000_000


@contextmanager
def threads_of_calls() -> Iterator[dict[str, set[int]]]:
    """Which threads call which functions, of those threads that begin meanwhile, and of this one."""
    threads = defaultdict[str, set[int]](set)

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            threads[frame.f_code.co_qualname].add(threading.get_ident())

    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        yield threads
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


@pytest.fixture
def published(artifacts: Path) -> Path:
    SHOP.write(artifacts, "v1")
    publish(artifacts, "v1")
    return artifacts


async def test_many_items_are_hidden_and_come_back(published: Path, redis_url: str) -> None:
    async with serving(published, redis_url) as service:
        other = DeploymentFollower(published, poll_seconds=3600)  # of another worker
        await service.click("s", "i5")
        for change, hidden in (
            ({"hide": ["i5", "i6", *MANY]}, {"i5", "i6", *MANY}),
            ({"hide": ["i7", "i5"], "unhide": ["i6", "never hidden"]}, {"i5", "i7", *MANY}),
            ({"unhide": ["i5", *MANY]}, {"i7"}),
        ):
            answer = await service.client.post("/admin/hidden", json=change, headers=ADMIN)
            assert (answer.status_code, answer.json()) == (200, {"hidden": len(hidden)})
            listed = await service.client.get("/admin/hidden", headers=ADMIN)
            assert listed.json() == {"hidden": sorted(hidden)}
            assert item_ids(await service.recommend("s")) == SHOP.nearest(["i5"], without=hidden)
            await other.reload()
            assert other.current.hidden == hidden


async def test_no_step_of_it_is_done_on_the_event_loop(published: Path, redis_url: str) -> None:
    """Neither where it is written, nor where another worker takes it up, nor where the list is told."""
    with threads_of_calls() as threads:
        async with serving(published, redis_url) as service:
            other = DeploymentFollower(published, poll_seconds=3600)
            hidden = {"hide": [*MANY, "i5"]}
            await service.client.post("/admin/hidden", json=hidden, headers=ADMIN)
            await service.client.put("/admin/hidden/one more", headers=ADMIN)
            await service.client.delete("/admin/hidden/one more", headers=ADMIN)
            await other.reload()
            assert len((await service.client.get("/admin/hidden", headers=ADMIN)).json()["hidden"]) == 2001
    work = {
        *(
            "_decoded",
            "update_deployment",
            "change_hidden.<locals>.change",
            "replace_file",
        ),
        *("read_deployment", "snapshot_of", "ServedBundle.of", "Retriever.only", "_told"),
    }
    assert work <= threads.keys()
    assert {name for name in work if threading.get_ident() in threads[name]} == set()


async def test_a_bundle_that_loads_for_long_does_not_keep_items_from_being_hidden(published: Path) -> None:
    goes_on = threading.Event()

    def load(*_: object) -> Bundle:
        goes_on.wait()
        raise BundleError("it never came")

    follower = DeploymentFollower(published, poll_seconds=3600, load=load)
    await follower.look()
    # As many as the event loop's own threads; they wait for bundles, too.
    busy = [asyncio.get_running_loop().run_in_executor(None, goes_on.wait) for _ in range(64)]
    try:
        (published / "deployment.json").write_text('{"champion": "v1", "hidden": ["i1"]}')
        async with asyncio.timeout(DEADLINE_SECONDS):
            await follower.look()
        assert follower.current.hidden == {"i1"}
    finally:
        goes_on.set()
        await asyncio.gather(*busy)
        await follower.settle()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "body: not JSON: EOF"),
        (b'{"hide": ["a"', "body: not JSON: EOF"),
        (b'{"hide": ["\\ud800"]}', "body: not JSON: "),
        (b'{"hide": ["\xff"]}', "body: not JSON: "),
        (b"[" * 1000, "body: not JSON: "),
        (b"[]", "body: Input should be an object"),
        (b'{"hide": ["a"], "more": 1}', "body.more: Extra inputs are not permitted"),
        (b'{"hide": "a"}', "body.hide: Input should be a valid array"),
        (b'{"hide": ["a", 1]}', "body.hide.1: Input should be a valid string"),
        (b'{"unhide": ["a", ""]}', "body.unhide.1: String should have at least 1 character"),
        (b'{"hide": ["' + b"x" * 257 + b'"]}', "body.hide.0: String should have at most 256 characters"),
        (b'{"hide": ["a\\u0000"]}', "body.hide.0: the id holds a control character"),
        (b'{"hide": [' + b'"a",' * MAX_CHANGES + b'"a"]}', f"at most {MAX_CHANGES} items"),
    ],
)
async def test_a_bad_body_changes_nothing(published: Path, redis_url: str, body: bytes, problem: str) -> None:
    before = read_deployment(published)
    headers = {**ADMIN, "Content-Type": "application/json"}
    async with serving(published, redis_url, max_body_bytes=TOO_LARGE) as service:
        answer = await service.client.post("/admin/hidden", content=body, headers=headers)
        assert answer.status_code == 422
        assert problem in answer.json()["detail"]
        answer = await service.client.post("/admin/hidden", content=b'{"hide": ["a"]}', headers=ADMIN)
        assert answer.status_code == 422
        assert "Content-Type: application/json" in answer.json()["detail"]
    assert read_deployment(published) == before


async def test_a_body_has_the_size_of_any_other(published: Path, redis_url: str) -> None:
    async with serving(published, redis_url, max_body_bytes=1000) as service:
        answer = await service.client.post("/admin/hidden", json={"hide": MANY}, headers=ADMIN)
        assert (answer.status_code, answer.json()["type"]) == (413, "urn:nextclick:problem:body-too-large")
        answer = await service.client.post("/admin/hidden", json={"hide": ["a"]})
        assert answer.status_code == 401
