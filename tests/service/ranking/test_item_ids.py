"""Item ids by index, and back: what a tuple and a dict would say, from two mapped files."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.ranking import item_ids
from service.ranking.bundle import BundleError, write_items, write_lookup
from service.ranking.item_ids import BadItems, IndexOf, ItemIds, ItemTable, item_id_problem, lookup_of

IDS = st.lists(
    st.text(min_size=1, max_size=5).filter(lambda text: item_id_problem(text) is None),
    min_size=1,
    unique=True,
)


def written(path: Path, ids: list[str]) -> ItemTable:
    write_items(path / "items.txt", ids)
    write_lookup(path)
    return ItemTable.open(path / "items.txt", path / "items.lookup.npy")


@pytest.fixture(params=[0, 3, 100])
def head(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many are kept as Python objects."""
    monkeypatch.setattr(item_ids, "HEAD", request.param)
    monkeypatch.setattr(item_ids, "READ_ITEMS", 2)
    monkeypatch.setattr(item_ids, "READ_AT_ONCE", 7)
    return int(request.param)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ids=IDS, others=st.lists(st.text(max_size=6)))
def test_it_says_what_a_tuple_and_a_dict_say(
    tmp_path: Path, head: int, ids: list[str], others: list[str]
) -> None:
    table = written(tmp_path, ids)
    items, index_of = ItemIds(table), IndexOf(table)
    every, of = ("", *ids), {item_id: item for item, item_id in enumerate(ids, start=1)}
    assert tuple(items) == every
    assert (len(items), len(index_of)) == (len(every), len(ids))
    assert [items[item] for item in range(-len(every), len(every))] == [*every, *every]
    assert items[1:3] == list(every[1:3])
    assert items.of(range(len(every))) == list(every)
    assert list(index_of) == ids
    asked = [*ids, *others, "", "\ud800", "\n".join(ids[:2]), ids[0] + "x"]
    assert index_of.of(asked) == [of.get(item_id, 0) for item_id in asked]
    assert [index_of.get(item_id) for item_id in asked] == [of.get(item_id) for item_id in asked]
    assert [item_id in index_of for item_id in asked] == [item_id in of for item_id in asked]
    assert table.problem() is None


@pytest.mark.parametrize("item", [4, -5])
def test_there_is_no_other_index(tmp_path: Path, head: int, item: int) -> None:
    items = ItemIds(written(tmp_path, ["a", "b", "c"]))
    with pytest.raises(IndexError):
        items[item]
    with pytest.raises(KeyError):
        IndexOf(written(tmp_path, ["a", "b", "c"]))["d"]


def test_many_ids_of_one_checksum_are_found_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which are easily made: each is looked up in a dict, and not compared with all the others."""
    monkeypatch.setattr(item_ids, "HEAD", 0)
    ids = ["".join(words) for words in product(["gnyijstj", "etislvlf"], repeat=6)]
    assert len({crc32(item_id.encode()) for item_id in ids}) == 1
    table = written(tmp_path, [*ids, "other"])
    assert table.find("other") == len(ids) + 1
    assert table.find("oyntrkpa" + ids[0][8:]) == 0
    monkeypatch.setattr(table, "_content", None)  # looks at no id
    assert [table.find(item_id) for item_id in ids] == list(range(1, len(ids) + 1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\nb\n", ":2: item id is empty"),
        (b"a\nb\x1f", ":2: item id holds a control character"),
        (b"a\n" + "\x85".encode(), ":2: item id holds a control character"),
        (b"a\n" + b"x" * 257, ":2: item id is longer than 256"),
        (b"gnyijstj\nb\netislvlf\ngnyijstj\n", ":4: item 'gnyijstj' already stands on line 1"),
        (b"a\n\xff", ": not UTF-8"),
    ],
)
def test_what_is_no_list_of_ids_gets_no_lookup(
    tmp_path: Path, head: int, content: bytes, message: str
) -> None:
    with pytest.raises((BadItems, UnicodeDecodeError)):
        lookup_of(content)
    (tmp_path / "items.txt").write_bytes(content)
    with pytest.raises(BundleError, match=re.escape(message)):
        write_lookup(tmp_path)


def test_the_last_line_need_not_end(tmp_path: Path, head: int) -> None:
    (tmp_path / "items.txt").write_bytes("a\né".encode())
    table = ItemTable.build(tmp_path / "items.txt")
    assert (list(ItemIds(table)), table.find("é"), table.problem()) == (["", "a", "é"], 2, None)


def test_nothing_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "items.txt").touch()
    table = ItemTable.build(tmp_path / "items.txt")
    assert (list(ItemIds(table)), IndexOf(table).of(["a"])) == ([""], [0])


def test_two_files_of_the_same_ids_are_the_same(tmp_path: Path, head: int) -> None:
    tables = []
    for number, ids in enumerate([["a", "b", "c"], ["a", "b", "c"], ["a", "c", "b"], ["a", "b"]]):
        (tmp_path / str(number)).mkdir()
        tables.append(ItemIds(written(tmp_path / str(number), ids)))
    assert [tables[0].same(other) for other in tables] == [True, True, False, False]
