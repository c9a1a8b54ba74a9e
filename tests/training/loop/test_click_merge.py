"""What becomes of a batch: clicks exactly as acknowledged, no duplicates, no erased sessions, few files."""

from __future__ import annotations

import math
import random

import duckdb
import pytest

from service.state.store import Click
from tests.training.shop import DAY, NOON, Shop, click
from training.data.clicks import Commit, Totals
from training.loop.click_files import Commits
from training.loop.click_log import ClickLog
from training.loop.click_merge import NEAR_DAYS, Merge


def test_clicks_are_collected_exactly_as_they_were_acknowledged(shop: Shop) -> None:
    numbers = random.Random(1)
    times = [0.0, 0.1, 1e-7, 1_795_324_051.140837, 253_402_300_799.5]
    times += [numbers.uniform(0, 2e9) for _ in range(300)]
    sent = [
        (f"a session: {{5}} ü {i % 7}", Click(f'größe, "{i}"', at, "view-1", f"event {i}" if i % 2 else None))
        for i, at in enumerate(times)
    ]
    shop.send(*sent)
    assert shop.collect().totals == Totals(clicks=len(sent))
    assert shop.collected() == sorted(sent, key=lambda clicked: clicked[1].timestamp)
    assert shop.collect().totals == Totals()
    assert len(shop.collected()) == len(sent)


def test_a_click_lies_in_the_utc_day_of_its_own_time(shop: Shop) -> None:
    midnight = 20_000.0 * DAY
    shop.send(("s", click("late", midnight)), ("s", click("early", math.nextafter(midnight, 0))))
    shop.collect()
    assert [(file.day.isoformat(), file.rows) for file in shop.commit.files] == [
        ("2024-10-03", 1),
        ("2024-10-04", 1),
    ]


def test_columns_are_those_that_are_promised(shop: Shop) -> None:
    shop.send(("s", click("a")))
    entry = {"session": "s", "item": "b", "ts": str(NOON), "type": "click", "event": "", "rec": "champion-7"}
    shop.log_raw(shop.log("s"), {"seq": 2, **entry})
    shop.collect()
    (file,) = shop.commit.files
    with duckdb.connect() as database:
        found = database.execute(f"FROM read_parquet('{shop.clicks / file.path}', hive_partitioning = false)")
        assert [(column[0], str(column[1])) for column in found.description or ()] == [
            ("session_id", "VARCHAR"),
            ("item_id", "VARCHAR"),
            ("timestamp", "DOUBLE"),
            ("type", "VARCHAR"),
            ("event_id", "VARCHAR"),
            ("recommendation_id", "VARCHAR"),
            ("shard", "INTEGER"),
            ("seq", "BIGINT"),
        ]
        assert found.fetchall() == [
            ("s", "a", NOON, "click", None, None, shop.shard("s"), 1),
            ("s", "b", NOON, "click", None, "champion-7", shop.shard("s"), 2),
        ]
    assert (file.rows, file.bytes) == (2, (shop.clicks / file.path).stat().st_size)


@pytest.mark.parametrize("between", ["one batch", "batches", "collections"])
@pytest.mark.parametrize("later", [0.0, 2 * DAY])
def test_of_clicks_with_the_same_event_id_the_first_stays(shop: Shop, between: str, later: float) -> None:
    shop.send(("s", click("a", event_id="e")), ("t", click("b", event_id="e")))
    totals = shop.collect().totals if between == "collections" else Totals()
    for item in ("c", "d"):
        shop.forget_events()
        shop.send(("s", click(item, NOON + later, event_id="e")))
    shop.send(("s", click("no event id")), ("s", click("no event id")))
    totals += shop.collect(batch=1 if between == "batches" else 100).totals
    assert shop.items() == ["a", "b", "no event id", "no event id"]
    assert totals == shop.commit.totals == Totals(clicks=4, duplicates=2)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_an_erased_session_is_gone_but_for_what_it_clicked_later(shop: Shop, batch: int) -> None:
    shop.send(
        ("s", click("secret a", event_id="e")),
        ("t", click("b")),
        ("s", click("secret c", NOON + DAY)),
        ("u", click("d", NOON + 2 * DAY)),
    )
    shop.collect(batch)
    before = {file.day.day: file.path for file in shop.commit.files}
    shop.send(
        ("s", click("secret e", NOON + 2 * DAY)),
        ("s", None),
        ("s", click("a again", NOON + 3 * DAY, event_id="e")),
    )
    shop.collect(batch)
    assert shop.items() == ["a again", "b", "d"]
    assert shop.commit.totals == Totals(clicks=6, erased_sessions=1, erased_clicks=3)
    assert sum(file.rows for file in shop.commit.files) == 3
    after = {file.day.day: file.path for file in shop.commit.files}
    assert 5 not in after, "nothing of that day is left"
    assert after[6] == before[6], "what holds none of it is not rewritten"

    shop.collect()
    assert shop.parquet() == shop.listed()
    with duckdb.connect() as database:
        found = database.execute(f"SELECT item_id FROM '{shop.clicks}/**/*.parquet'").fetchall()
    assert not [item for (item,) in found if item.startswith("secret")]


def test_a_session_that_is_erased_twice_keeps_what_comes_last(shop: Shop) -> None:
    shop.send(("s", click("a")), ("s", None), ("s", click("b")), ("s", None), ("s", click("c")))
    assert shop.collect().totals == Totals(clicks=3, erased_sessions=2, erased_clicks=2)
    assert shop.items() == ["c"]


def committed(shop: Shop) -> tuple[Commit, int]:
    """Make one commit of what is in the log, and count the files that it has read."""
    commit = shop.commit
    with duckdb.connect() as database:
        click_log = ClickLog(shop.client, shop.settings, database)
        (batch,) = click_log.batches(commit.positions, click_log.ends(commit), 1000)
        database.execute("CALL enable_logging('FileSystem')")
        commit = Merge(Commits(shop.clicks), database).commit(commit, batch)
        query = (
            "SELECT count(DISTINCT path) FROM duckdb_logs_parsed('FileSystem') WHERE path LIKE '%.parquet'"
        )
        (read,) = database.execute(query).fetchone() or (0,)
    return commit, read


def test_what_a_commit_reads_does_not_grow_with_the_days_that_are_collected(shop: Shop) -> None:
    shop.collect()
    read = []
    for day in range(3 * NEAR_DAYS):
        shop.send(("s", click(f"i{day}", NOON + day * DAY, f"e{day}")))
        commit, files = committed(shop)
        read.append(files)
    assert commit.days == 3 * NEAR_DAYS
    assert read == [min(day, NEAR_DAYS) for day in range(3 * NEAR_DAYS)]
    shop.send(("s", click("no event id", NOON)))
    assert committed(shop)[1] == 0


def test_a_click_is_known_again_however_old_by_its_own_day_and_those_around_it(shop: Shop) -> None:
    for day in range(0, 5 * NEAR_DAYS, NEAR_DAYS):
        shop.send(("s", click(f"i{day}", NOON + day * DAY, f"e{day}")))
        shop.collect()
    shop.forget_events()
    shop.send(("s", click("the first again", NOON, "e0")))
    shop.send(("s", click("the next with another time", NOON, f"e{NEAR_DAYS}")))
    shop.send(
        ("s", click("sent with the time of its arrival", NOON + 3 * NEAR_DAYS * DAY, f"e{2 * NEAR_DAYS}"))
    )
    assert shop.collect().totals == Totals(duplicates=3)


def test_a_day_of_many_files_becomes_one(shop: Shop) -> None:
    shop.send(("s", click("another day", NOON - DAY)))
    shop.collect()
    for i in range(4):
        assert len(shop.commit.files) == 1 + i
        shop.send(("s", click(f"i{i}", NOON - i)))
        shop.collect(max_files_of_a_day=3)
    assert [file.rows for file in shop.commit.files] == [1, 4]
    assert [clicked.item_id for _, clicked in shop.collected()] == ["another day", "i3", "i2", "i1", "i0"]
