"""The log as it is found: gaps, another Redis, entries that are no clicks; and the room made in it."""

from __future__ import annotations

import json
from collections.abc import Mapping

import duckdb
import pytest

from service.state.keys import Keys
from service.state.link import ClickLogFull, StoreUnavailable
from tests.training.shop import Shop, click
from tests.waiting import until
from training.data.clicks import Position, Totals
from training.loop.click_log import ClickLog

keys = Keys()

MALFORMED: Mapping[str, dict[str, str]] = {
    "no seq": {"session": "s", "item": "a", "ts": "1.5", "type": "click", "event": ""},
    "seq is no whole number": {
        "seq": "2.0",
        "session": "s",
        "item": "a",
        "ts": "1",
        "type": "c",
        "event": "",
    },
    "no session": {"seq": "2", "item": "a", "ts": "1.5", "type": "click", "event": ""},
    "no item": {"seq": "3", "session": "s", "ts": "1.5", "type": "click", "event": "", "new": "field"},
    "no ts": {"seq": "4", "session": "s", "item": "a", "type": "click", "event": "e"},
    "no type": {"seq": "5", "session": "s", "item": "a", "ts": "1.5", "event": ""},
    "no event": {"seq": "6", "session": "s", "item": "a", "ts": "1.5", "type": "click"},
    "ts is no number": {"seq": "7", "session": "s", "item": "a", "ts": "now", "type": "click", "event": ""},
    "ts is out of range": {"seq": "8", "session": "s", "item": "a", "ts": "nan", "type": "c", "event": ""},
}


def test_a_gap_is_told_once_and_stays_recorded(shop: Shop) -> None:
    shop.send(*[("s", click(f"i{i}")) for i in range(6)])
    shop.collect()
    shop.send(*[("s", click(f"i{i}")) for i in range(6, 10)])
    entries = shop.logged(shop.log("s"))
    shop.client.xdel(shop.log("s"), entries[6][0], entries[7][0])
    result = shop.run()
    assert result.exit_code == 1
    assert "2 entries of the click log are missing; all others are collected" in result.stderr
    for said in (f"shard={shop.shard('s')}", "after_seq=6", "next_seq=9"):
        assert said in result.stderr
    assert len(shop.items()) == 8
    (gap,) = shop.commit.gaps
    assert (gap.shard, gap.after_seq, gap.next_seq, gap.missing) == (shop.shard("s"), 6, 9, 2)
    shop.send(("s", click("i10")))
    assert shop.run().exit_code == 0
    assert shop.commit.gaps == (gap,)
    assert shop.commit.totals.missing == 2


@pytest.mark.parametrize("batch", [1, 100])
def test_entries_missing_at_the_very_start_are_a_gap(shop: Shop, batch: int) -> None:
    shop.send(*[("s", click(f"i{i}")) for i in range(6)])
    shop.client.xtrim(shop.log("s"), maxlen=3, approximate=False)
    assert [(gap.after_seq, gap.next_seq) for gap in shop.collect(batch).gaps] == [(0, 4)]


def test_a_log_whose_numbers_go_back_is_a_gap_too(shop: Shop) -> None:
    shop.send(*[("s", click(f"i{i}")) for i in range(3)])
    shop.collect()
    shop.client.set(keys.sequence(shop.shard("s")), 1)
    shop.send(("s", click("i3")))
    result = shop.run()
    assert result.exit_code == 1
    assert "0 entries of the click log are missing, and 1 times it went back" in result.stderr
    assert len(shop.items()) == 4
    assert [(gap.after_seq, gap.next_seq) for gap in shop.commit.gaps] == [(3, 2)]


@pytest.mark.parametrize("end", ["0-0", "17-3"])
def test_a_log_that_ends_before_the_committed_position_is_refused(shop: Shop, end: str) -> None:
    shop.send(("s", click("a")))
    shop.collect()
    position = shop.commit.positions[shop.shard("s")]
    shop.client.delete(shop.log("s"))
    if end != "0-0":
        shop.log_raw(shop.log("s"), {"seq": 1}, end)
    (shop.clicks / "day=2024-10-04/00000009-000.parquet").write_text("an orphan")
    before = shop.contents()
    result = shop.run()
    assert result.exit_code == 2
    said = f"the log of shard {shop.shard('s')} ends at {end}, but is collected up to {position.id}"
    assert said in result.stderr
    assert shop.contents() == before
    assert shop.client.get(keys.collected(shop.shard("s"))) == f"{position.id} 1"


def test_a_redis_with_other_shards_is_refused(shop: Shop) -> None:
    shop.send(("s", click("a")))
    shop.collect()
    before = shop.contents()
    shop.client.set(keys.shards, 3)
    result = shop.run()
    assert result.exit_code == 2
    assert "it has 3 shards instead of 2: this is another Redis" in result.stderr
    assert shop.contents() == before


def rejected(shop: Shop) -> dict[str, dict[str, str]]:
    """Reason -> entry."""
    paths = [str(shop.clicks / file.path) for file in shop.commit.rejected]
    with duckdb.connect() as database:
        found = database.execute("SELECT reason, entry FROM read_parquet(?)", [paths]).fetchall()
    return {reason: json.loads(entry) for reason, entry in found}


def test_entries_that_are_no_clicks_are_kept_as_they_are(shop: Shop) -> None:
    shop.send(("s", click("first")))
    for fields in MALFORMED.values():
        shop.log_raw(shop.log("s"), fields)
    shop.client.set(keys.sequence(shop.shard("s")), 8)
    shop.send(("s", click("last")))
    result = shop.run()
    assert result.exit_code == 0
    assert "2 clicks collected, 0 duplicates dropped, 0 sessions erased, 9 entries rejected" in result.stdout
    assert rejected(shop) == MALFORMED
    assert shop.items() == ["first", "last"]
    assert not shop.commit.gaps


def test_erasing_a_session_takes_its_rejected_entries_as_well(shop: Shop) -> None:
    shop.send(("s", click("first")))
    for reason in ("no item", "no session"):
        shop.log_raw(shop.log("s"), MALFORMED[reason])
    shop.collect()
    assert set(rejected(shop)) == {"no item", "no session"}
    shop.log_raw(shop.log("s"), MALFORMED["no ts"])
    shop.send(("s", None))
    shop.collect()
    assert set(rejected(shop)) == {"no session"}
    assert shop.commit.totals.rejected == 3


def test_an_entry_that_is_no_text_does_not_stop_the_collection(shop: Shop) -> None:
    shop.send(("t", click("a")))
    entry: dict[str, str | bytes | int] = {"seq": 1, "session": "s", "item": b"\xff"}
    entry |= {"ts": "1", "type": "click", "event": ""}
    shop.log_raw(shop.log("s"), entry)
    shop.collect()
    assert shop.items() == [r"\xff", "a"]


def seqs(shop: Shop, stream: str) -> list[int]:
    return [int(fields["seq"]) for _, fields in shop.logged(stream)]


@pytest.mark.parametrize(
    "changed", [{"click_log_max_age_seconds": 1e-9}, {"click_log_max_entries_per_shard": 1}]
)
@pytest.mark.parametrize("seq", [1, 7, 19, 20])
def test_nothing_is_trimmed_beyond_the_committed_position(
    shop: Shop, changed: dict[str, float], seq: int
) -> None:
    shop = shop.configured(shards=1)
    shop.send(*[("s", click(f"i{i}")) for i in range(20)])
    stream = keys.click_log(0)
    position = Position(id=shop.logged(stream)[seq - 1][0], seq=seq)
    with duckdb.connect() as database:
        ClickLog(shop.client, shop.configured(**changed).settings, database).acknowledge({0: position})
    assert seqs(shop, stream) == list(range(seq + 1, 21))
    assert shop.client.get(keys.collected(0)) == f"{position.id} {seq}"


def test_collected_entries_go_when_they_are_old(shop: Shop) -> None:
    shop.send(("s", click("new")))
    stream = shop.log("t")
    assert stream != shop.log("s")
    now, _ = shop.client.time()
    entry: dict[str, str | bytes | int] = {
        "session": "t",
        "item": "old",
        "ts": "1",
        "type": "click",
        "event": "",
    }
    for seq, age in ((1, 3_700), (2, 3_500)):
        shop.log_raw(stream, entry | {"seq": seq}, f"{now - age}000-0")
    hour = shop.configured(click_log_max_age_seconds=3_600.0)
    hour.collect()
    assert seqs(shop, stream) == [2]
    assert seqs(shop, shop.log("s")) == [1]
    shop.configured(click_log_max_age_seconds=1e-9).collect()
    assert shop.client.xlen(stream) == shop.client.xlen(shop.log("s")) == 0
    shop.send(("s", click("newer")))
    assert hour.collect().totals == Totals(clicks=1), "an empty log is still the same log"
    assert shop.items() == ["new", "newer", "old", "old"]


def test_a_full_log_keeps_half_of_what_it_may_hold(shop: Shop) -> None:
    shop = shop.configured(shards=1, click_log_max_entries_per_shard=20)
    shop.send(*[("s", click(f"i{i}")) for i in range(20)])
    with pytest.raises(ClickLogFull):
        shop.send(("s", click("one too many")))
    shop.collect(batch=7)
    assert seqs(shop, keys.click_log(0)) == list(range(11, 21))
    shop.send(*[("s", click(f"j{i}")) for i in range(10)])
    assert shop.collect().totals.clicks == 10
    assert len(shop.items()) == 30


def test_a_redis_without_memory_is_emptied_of_what_is_collected(shop: Shop) -> None:
    """Long before the log is half full, and before anything in it is old."""
    shop = shop.configured(shards=1)
    shop.send(*[("s", click(f"i{i}")) for i in range(20)])
    shop.client.config_set("maxmemory", 1)
    try:
        assert shop.collect(batch=7).totals.clicks == 20
        assert seqs(shop, keys.click_log(0)) == []
        assert shop.collect().totals == Totals()
    finally:
        shop.client.config_set("maxmemory", 0)
    shop.send(("s", click("after")))
    assert shop.collect().totals.clicks == 1
    assert len(shop.items()) == 21, "nothing is lost, nothing doubled"
    assert str(shop.client.get(keys.collected(0))).endswith(" 21")


def test_a_redis_that_is_full_of_clicks_takes_more_after_a_collection(shop: Shop) -> None:
    shop = shop.configured(shards=1, session_max_clicks=1, session_max_logged=100_000)

    def used() -> int:
        return int(shop.client.info("memory")["used_memory"])

    most = used() + 1_000_000
    shop.client.config_set("maxmemory", most)
    try:
        with pytest.raises(StoreUnavailable, match="OOM"):
            shop.send(*[("s", click("i"))] * 90_000)
        logged = shop.client.xlen(keys.click_log(0))
        assert shop.collect().totals.clicks == logged
        until(lambda: used() < most - 100_000)  # what the collector was sent leaves Redis' buffers with it
        shop.send(("s", click("after")))
        assert shop.collect().totals.clicks == 1
        assert str(shop.client.get(keys.collected(0))).endswith(f" {logged + 1}")
    finally:
        shop.client.config_set("maxmemory", 0)


def test_a_kill_between_trimming_and_telling_loses_and_doubles_nothing(shop: Shop) -> None:
    shop = shop.configured(shards=1)
    shop.send(*[("s", click(f"i{i}")) for i in range(5)])
    shop.collect()
    shop.client.delete(keys.collected(0))
    shop.client.xtrim(keys.click_log(0), maxlen=0, approximate=False)
    shop.send(("s", click("after")))
    found = shop.collect()
    assert (found.totals.clicks, found.gaps) == (1, ())
    assert len(shop.items()) == 6
    assert str(shop.client.get(keys.collected(0))).endswith(" 6")
