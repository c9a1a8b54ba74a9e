"""Collected clicks in an object store: every click once, whichever machine collects, whoever is cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from service.live.object_store import ObjectStore
from tests.object_stores import S3, s3
from tests.training.shop import Shop, click
from training.data.clicks import Commit
from training.loop.collect import Collected, CollectError


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with s3() as found:
        found.make_bucket("shop")
        yield found


@pytest.fixture
def store(server: S3, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return ObjectStore(f"s3://shop/{uuid4().hex}")


def machine(shop: Shop, store: ObjectStore, directory: Path) -> Shop:
    return shop.configured(artifacts_url=store.url, artifacts_dir=directory)


def files(store: ObjectStore) -> set[str]:
    return {name for each in store.list("clicks") if (name := each.name).endswith(".parquet")}


def test_machines_take_turns(shop: Shop, store: ObjectStore, tmp_path: Path) -> None:
    a, b = (machine(shop, store, tmp_path / name) for name in "ab")
    shop.send(("s", click("a")), ("t", click("b")), ("u", click("c")))
    assert a.collect(batch=1).totals.clicks == 3
    shop.send(("t", None), ("s", click("d")))
    assert b.collect().commit.totals.clicks == 4
    assert b.items() == ["a", "c", "d"], "it has fetched what the other collected, and erased of that"
    assert a.collect().totals.clicks == 0
    assert a.contents().keys() >= {a.clicks / path for path in b.listed()}
    assert a.items() == b.items()
    assert files(store) == {f"clicks/{path}" for path in a.listed()}, "what was replaced is gone"


def test_of_two_collectors_at_once_one_is_told_and_no_click_is_lost_or_doubled(
    shop: Shop, store: ObjectStore, tmp_path: Path
) -> None:
    a, b = (machine(shop, store, tmp_path / name) for name in "ab")
    shop.send(*((f"s{number}", click(f"i{number}")) for number in range(6)))
    collected: list[Collected] = []

    def other_comes_between(_: Commit) -> None:
        if not collected:
            collected.append(b.collect(batch=1))

    with pytest.raises(CollectError, match=r"commit\.json: another collection has committed meanwhile"):
        a.collect(batch=1, on_commit=other_comes_between)
    assert b.items() == sorted(f"i{number}" for number in range(6))
    shop.send(("s0", click("i6")))
    done = a.collect()
    assert (done.totals.clicks, done.commit.totals.clicks, done.gaps) == (1, 7, ())
    assert a.items() == sorted(f"i{number}" for number in range(7))


def test_what_a_collector_left_that_was_cut_off_is_removed_later(
    shop: Shop, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (machine(shop, store, tmp_path / name) for name in "ab")
    shop.send(("s", click("a")))
    a.collect()
    shop.send(("s", click("b")))
    replace = ObjectStore.replace

    def cut_off(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(ObjectStore, "replace", cut_off)
    with pytest.raises(KeyboardInterrupt):
        a.collect()
    monkeypatch.setattr(ObjectStore, "replace", replace)
    assert len(files(store)) == 2
    assert b.collect().totals.clicks == 1
    assert len(files(store)) == 3, "it may have been one that is at work"
    b.collect()
    assert files(store) == {f"clicks/{path}" for path in b.listed()}
    assert b.items() == ["a", "b"]


def test_a_store_that_is_down_keeps_clicks_in_the_log(
    server: S3, shop: Shop, store: ObjectStore, tmp_path: Path
) -> None:
    a = machine(shop, store, tmp_path / "a")
    shop.send(("s", click("a")))
    server.down()
    try:
        with pytest.raises(CollectError, match=r"clicks/commit\.json cannot be read"):
            a.collect()
    finally:
        server.up()
    assert len(shop.logged(shop.log("s"))) == 1
    assert a.collect().totals.clicks == 1


def test_what_a_directory_has_goes_into_the_store_with_the_first_commit(
    shop: Shop, store: ObjectStore, tmp_path: Path
) -> None:
    shop.send(("s", click("a")))
    shop.collect()
    shared = shop.configured(artifacts_url=store.url)
    assert shared.collect().totals.clicks == 0
    other = machine(shop, store, tmp_path / "other")
    shop.send(("s", click("b")))
    other.collect()
    assert other.items() == ["a", "b"]
