"""Files that no commit lists are removed, in time; files that are not as their commit says are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from service.state.keys import Keys
from tests.training.shop import DAY, NOON, Shop, click

keys = Keys()


def test_what_a_commit_replaces_stays_until_the_next_collection(shop: Shop) -> None:
    shop.send(("s", click("a")), ("t", click("b")))
    shop.collect()
    (old,) = shop.commit.files
    shop.send(("s", None))
    shop.collect()
    (new,) = shop.commit.files
    assert shop.parquet() == {old.path, new.path}
    shop.collect()
    assert shop.parquet() == {new.path}


def test_what_no_commit_lists_is_removed(shop: Shop) -> None:
    shop.send(("s", click("a")))
    shop.collect()
    (listed,) = shop.commit.files
    (shop.clicks / "day=1999-12-31").mkdir()
    (shop.clicks / "rejected").mkdir()
    orphans = [
        shop.clicks / "day=1999-12-31/00000004-000.parquet",
        shop.clicks / "rejected/00000002-001.parquet",
        shop.clicks / "day=2024-10-04/.00000002-000.parquet.tmp",
        shop.clicks / ".commit.json.4711",
    ]
    for orphan in orphans:
        orphan.write_text("half of something")
    foreign = shop.clicks / "day=2024-10-04/notes.txt"
    foreign.write_text("not ours")
    shop.collect()
    assert not any(orphan.exists() for orphan in orphans)
    assert not (shop.clicks / "day=1999-12-31").exists()
    assert foreign.exists()
    assert shop.items() == ["a"]
    assert shop.listed() == {listed.path}


def _commit_says(text: str) -> Callable[[Shop], object]:
    return lambda shop: (shop.clicks / "commit.json").write_text(text)


def _first_file(shop: Shop) -> Path:
    return shop.clicks / shop.commit.files[0].path


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_commit_says('{"format_version": 1, "files": [{'), "commit.json: is damaged: the whole file"),
        (_commit_says('{"format_version": 2}'), "commit.json: is damaged: format_version"),
        (
            lambda shop: (shop.clicks / "commit.json").unlink(),
            "commit.json: is missing, though there are collected",
        ),
        (lambda shop: _first_file(shop).unlink(), ".parquet: is missing, though commit.json lists it"),
        (lambda shop: _first_file(shop).write_text("!"), ".parquet: has 1 bytes instead of"),
    ],
)
def test_damage_is_refused_and_nothing_is_touched(
    shop: Shop, damage: Callable[[Shop], object], said: str
) -> None:
    shop.send(("s", click("a")), ("t", click("b", NOON + DAY)))
    shop.collect()
    shop.send(("s", click("c")))
    damage(shop)
    (shop.clicks / "day=2024-10-04/00000009-000.parquet").write_text("an orphan")
    before = shop.contents()
    positions = [shop.client.get(keys.collected(shard)) for shard in range(2)]
    result = shop.run()
    assert result.exit_code == 2
    assert said in result.stderr
    assert shop.contents() == before
    assert [shop.client.get(keys.collected(shard)) for shard in range(2)] == positions
