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
from functools import partial
from pathlib import Path

import pytest
from redis import Redis
from structlog.testing import capture_logs

from service.process.embedded_redis import EmbeddedRedis
from service.state.store import Arrival, Click, SessionStore
from tests.training.shop import DAY, NOON, Shop, click
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
