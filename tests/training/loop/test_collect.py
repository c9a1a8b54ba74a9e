"""Collecting: every acknowledged click once, whatever is killed, and when; one collector at a time."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from redis import Redis
from structlog.testing import capture_logs

from service.process.embedded_redis import EmbeddedRedis
from service.state.store import Arrival, Click, SessionStore
from tests.training.shop import DAY, NOON, Shop, click, keys
from tests.waiting import until
from training.data.clicks import ClicksError, Commit, Totals
from training.loop.collect import CollectError


def test_the_command_says_what_it_did(shop: Shop) -> None:
    shop.send(("s", click("a")), ("s", click("b", NOON + DAY)), ("t", click("c")), ("t", None))
    result = shop.run("--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "clicks": 3,
        "duplicates": 0,
        "erased_sessions": 1,
        "erased_clicks": 1,
        "rejected": 0,
        "missing": 0,
        "expired_days": 0,
        "expired_clicks": 0,
        "files": 2,
        "days": 2,
        "generation": 1,
    }
    assert shop.run().stdout == (
        "0 clicks collected, 0 duplicates dropped, 0 sessions erased; there are 2 files of 2 days\n"
    )


def test_a_private_redis_is_read_when_no_service_runs(artifacts: Path, redis_client: Redis) -> None:
    with EmbeddedRedis(artifacts / "redis") as server:
        Shop.at(artifacts, server.url, redis_client).send(("s", click("a")))
    shop = Shop.at(artifacts, "unix:///none", redis_client).configured(redis_url=None)
    assert shop.collect().totals.clicks == 1
    assert shop.items() == ["a"]


def test_a_redis_without_a_click_log_gives_nothing(shop: Shop) -> None:
    with capture_logs() as logs:
        assert shop.collect().totals == Totals()
    assert ["holds no click log" in entry["event"] for entry in logs] == [True]
    assert shop.commit == Commit()


def test_errors_have_types_of_their_own(shop: Shop) -> None:
    with pytest.raises(CollectError, match=r"unix:///nowhere: .*; what is committed stays"):
        shop.configured(redis_url="unix:///nowhere").collect()
    (shop.clicks / "commit.json").write_text("")
    with pytest.raises(ClicksError, match=r"commit\.json: is damaged"):
        shop.collect()


def test_a_second_collector_is_refused(shop: Shop) -> None:
    shop.send(("s", click("a")), ("s", click("b")))
    seconds = []

    def disturb(_: Commit) -> None:
        before = shop.contents()
        seconds.append(shop.run())
        assert shop.contents() == before

    assert shop.collect(batch=1, on_commit=disturb).totals.clicks == 2
    assert [second.exit_code for second in seconds] == [1, 1]
    assert f"{shop.clicks}: another collection is running" in seconds[0].stderr


# Runs the command line that it is given, and kills itself at the n-th call of a function, or return from it.
# "any" are all functions, counted from the first commit on.
DYING = """
import os, signal, sys
import training.loop.collect  # before calls are counted
from training.__main__ import app

wanted_event, wanted, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
del sys.argv[1:4]
count, committed = 0, False

def profile(frame, event, _):
    global count, committed
    name = frame.f_code.co_qualname
    committed = committed or (event, name) == ("return", "Merge.commit")
    if event == wanted_event and (committed if wanted == "any" else name == wanted):
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

sys.setprofile(profile)
app()
"""
STEPS = [
    ("call", "Path.unlink", 1),  # of what the last collection has replaced
    ("call", "ClickLog.acknowledge", 1),
    *[("call", "Path.replace", number) for number in range(1, 6)],  # of new files, and of commit.json
    ("return", "Path.replace", 3),
    ("return", "Generation.commit", 2),
    ("call", "ClickLog._make_room", 4),
    ("return", "ClickLog._make_room", 4),
    ("return", "ClickLog.acknowledge", 4),
]


def die(shop: Shop, event: str, name: str, number: int, *, batch: int) -> None:
    """Collect, and be killed at that moment."""
    dying = subprocess.run(
        [sys.executable, "-c", DYING, event, name, str(number), "collect", "--batch", str(batch)],
        env=os.environ | shop.environment,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    assert dying.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("event", "name", "number"), STEPS)
def test_a_kill_at_any_step_loses_nothing_and_doubles_nothing(
    shop: Shop, event: str, name: str, number: int
) -> None:
    shop = shop.configured(click_log_max_entries_per_shard=40)
    shop.send(*[("old", click(f"o{i}", event_id=f"o{i}")) for i in range(5)], ("t", click("t0")))
    shop.collect()
    shop.send(("t", click("t1", event_id="t1")), ("old", None))
    shop.collect()  # leaves a file for the next one to remove
    shop.send(("old", click("o", NOON + DAY)), *[("s", click(f"i{i}", NOON, f"e{i}")) for i in range(20)])
    shop.forget_events()
    shop.send(("t", click("t1", NOON + DAY, "t1")), ("old", None))
    shop.send(*[("s", click("twice", NOON + DAY, f"e{i}")) for i in range(0, 20, 3)])

    die(shop, event, name, number, batch=9)
    shop.collect(batch=9)
    assert shop.items() == sorted(["t0", "t1", *(f"i{i}" for i in range(20))])
    assert not shop.commit.gaps
    assert shop.client.xlen(shop.log("s")) <= 20
    shop.collect()
    assert shop.parquet() == shop.listed()


@pytest.mark.parametrize(
    ("hours", "kept", "deleted"),
    [(0.0, [0, 1, 2], 0), (2 * 24 + 11.9, [0, 1, 2], 0), (2 * 24 + 12, [1, 2], 1), (4 * 24, [2], 2)],
)
def test_whole_days_go_once_they_are_too_old(shop: Shop, hours: float, kept: list[int], deleted: int) -> None:
    """By the clicks' own times: a day stays until it is over, and for two days more."""
    for day in range(3):
        shop.send(("s", click(f"{day}", NOON + day * DAY)), ("t", click(f"{day}", NOON + day * DAY)))
    done = shop.configured(click_retention_days=2).collect(clock=lambda: NOON + hours * 3600)
    assert shop.items() == sorted(2 * [str(day) for day in kept])
    assert (done.expired_days, done.expired_clicks) == (deleted, 2 * deleted)
    assert (done.totals.clicks, done.commit) == (6, shop.commit)
    on_disk = shop.parquet()
    assert len(on_disk) == 3, "who has read the commit before this one can still read its files"
    shop.collect()
    assert shop.parquet() == shop.listed() == {file.path for file in done.commit.files}
    assert len(list(shop.clicks.glob("day=*"))) == len(kept)


def test_all_clicks_are_kept_if_nothing_is_said(shop: Shop) -> None:
    shop.send(("s", click("a", 0.0)))
    assert shop.collect(clock=lambda: 4e9).expired_days == 0
    assert shop.items() == ["a"]


def test_one_wrong_clock_deletes_nothing(shop: Shop) -> None:
    """Not that of this machine; nor that of Redis, which is years ahead of the first of these."""
    shop = shop.configured(click_retention_days=30)
    now = time.time()
    shop.send(("s", click("a", now)), ("s", click("b", NOON)))
    assert shop.collect(clock=lambda: NOON).expired_days == 0
    assert shop.collect(clock=lambda: now + 100 * 365 * DAY).expired_days == 1
    assert shop.items() == ["a"]


def test_what_was_rejected_goes_as_clicks_do(shop: Shop) -> None:
    shop.client.set(keys.shards, shop.settings.shards)
    days = [f"{int((NOON + day * DAY) * 1000)}-0" for day in (0, 2)]
    for id_ in (*days, "18446744073709551614-0"):  # the last one that there can be
        shop.log_raw(shop.log("s"), {"session": "s"}, id_)
        shop.collect()
    _, second, third = shop.commit.rejected
    shop.configured(click_retention_days=1).collect(clock=lambda: NOON + 2 * DAY)
    assert shop.commit.rejected == (second, third)
    shop.collect()
    assert shop.parquet() == {second.path, third.path}


def test_a_session_is_erased_from_what_is_kept(shop: Shop) -> None:
    shop = shop.configured(click_retention_days=1)
    shop.send(
        *[(session, click(f"{session} {day}", NOON + day * DAY)) for day in range(3) for session in "st"]
    )
    shop.collect(clock=lambda: NOON + 2 * DAY)
    shop.send(("s", None))
    done = shop.collect(clock=lambda: NOON + 3 * DAY)
    assert done.totals == Totals(erased_sessions=1, erased_clicks=2)
    assert (done.expired_days, done.expired_clicks) == (1, 1)
    shop.collect(clock=lambda: NOON + 3 * DAY)
    assert shop.items() == ["t 2"]
    assert shop.parquet() == shop.listed()


def test_the_command_says_what_it_has_deleted(shop: Shop) -> None:
    shop = shop.configured(click_retention_days=30)
    shop.send(("s", click("a")), ("s", click("b", NOON + DAY)), ("t", click("c", time.time())))
    assert "2 old days with 2 clicks deleted; there are 1 files of 1 days" in shop.run().stdout
    shop.send(("s", click("late", NOON)))
    told = json.loads(shop.run("--json").stdout)
    assert (told["clicks"], told["expired_days"], told["expired_clicks"]) == (1, 1, 1)
    assert (told["files"], told["days"]) == (1, 1)


@pytest.mark.parametrize(
    ("event", "name", "number"),
    [
        ("call", "Merge.without_days_before", 1),
        ("call", "Path.replace", 3),  # of commit.json, without the old day
        ("return", "Path.replace", 3),
        ("return", "Merge.without_days_before", 1),
    ],
)
def test_a_kill_leaves_no_day_half_deleted(shop: Shop, event: str, name: str, number: int) -> None:
    shop.collect()
    now = time.time()
    shop.send(("s", click("a")), ("s", click("b", NOON + 1, "e")))
    shop.collect()
    shop = shop.configured(click_retention_days=30)
    shop.send(("s", click("c", now)), ("t", click("d", now)))
    die(shop, event, name, number, batch=100)
    assert shop.items() in (["a", "b", "c", "d"], ["c", "d"])
    for file in shop.commit.files:
        assert (shop.clicks / file.path).stat().st_size == file.bytes
    shop.collect()
    assert shop.items() == ["c", "d"]
    shop.collect()
    assert shop.parquet() == shop.listed()
    assert shop.commit.totals.clicks == 4


class Shoppers(threading.Thread):
    """Click on and on, now and then twice; `acknowledged` holds what the service has promised to keep."""

    def __init__(self, shop: Shop) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[tuple[str, Click]] = []
        self._shop = shop
        self._wanted = 0
        self._may_go_on = threading.Condition()
        self._closed = False

    def want(self, clicks: int) -> None:
        """Have them click until so many are acknowledged."""
        with self._may_go_on:
            self._wanted = clicks
            self._may_go_on.notify()

    def have_clicked(self, clicks: int) -> bool:
        """Whether so many are acknowledged."""
        assert self.is_alive(), "they failed"
        return len(self.acknowledged) >= clicks

    def close(self) -> None:
        with self._may_go_on:
            self._closed = True
            self._may_go_on.notify()
        self.join()

    def run(self) -> None:
        asyncio.run(self._click())

    def _is_wanted(self) -> bool:
        """Whether another click is; waits for that, or for the end."""
        with self._may_go_on:
            self._may_go_on.wait_for(lambda: self._closed or len(self.acknowledged) < self._wanted)
            return not self._closed

    async def _click(self) -> None:
        store = SessionStore(self._shop.settings, str(self._shop.settings.redis_url))
        numbers = random.Random(3)
        while self._is_wanted():
            made = len(self.acknowledged)
            sent = [
                (f"s{numbers.randrange(40)}", click(f"i{i}", NOON + numbers.uniform(0, DAY), f"e{i}"))
                for i in range(made, made + 20)
            ]
            await store.append_many([Arrival(*each) for each in sent])
            self.acknowledged += sent
            if numbers.random() < 0.1:
                self._shop.forget_events()
                await store.append_many([Arrival(*each) for each in sent[:7]])
        await store.close()


def test_random_kills_lose_nothing_and_double_nothing(shop: Shop) -> None:
    """At some call of some function, while shoppers go on clicking."""
    numbers = random.Random(5)
    shoppers = Shoppers(shop)
    shoppers.start()
    for _ in range(6):
        there = len(shoppers.acknowledged) + 400  # ten batches for the collection at least
        shoppers.want(there + 400)
        until(partial(shoppers.have_clicked, there))
        die(shop, "call", "any", numbers.randint(1, 3000), batch=40)
        until(partial(shoppers.have_clicked, there + 400))
    shoppers.close()
    last = shop.collect()
    assert last.totals.clicks > 0
    assert sorted(map(repr, shop.collected())) == sorted(map(repr, shoppers.acknowledged))
    assert last.commit.totals.duplicates > 0
    assert not last.commit.gaps


def test_a_redis_that_dies_stops_the_collection_and_the_next_one_goes_on(
    artifacts: Path, redis_client: Redis, tmp_path: Path
) -> None:
    with EmbeddedRedis(tmp_path / "redis", strict=True) as server:
        shop = Shop.at(artifacts, server.url, redis_client)
        sent = [(f"s{i}", click(f"i{i}", event_id=f"e{i}")) for i in range(300)]
        shop.send(*sent)
        pid = server.pid

        def kill_redis(commit: Commit) -> None:
            if commit.generation == 3:
                os.kill(pid, signal.SIGKILL)

        with pytest.raises(CollectError, match="what is committed stays"):
            shop.collect(batch=50, on_commit=kill_redis)
        assert shop.commit.generation == 3

        def is_back() -> bool:
            server.restart_if_dead()
            return server.pid != pid

        until(is_back)
        sent.append(("s", click("after the restart")))
        shop.send(sent[-1])
        assert shop.collect().totals.clicks == 151
        assert sorted(map(repr, shop.collected())) == sorted(map(repr, sent))
        assert not shop.commit.gaps
