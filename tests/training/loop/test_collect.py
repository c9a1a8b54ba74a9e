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
from pathlib import Path

import pytest
from redis import Redis
from structlog.testing import capture_logs

from service.process.embedded_redis import EmbeddedRedis
from service.state.store import Arrival, Click, SessionStore
from tests.training.shop import DAY, NOON, Shop, click
from training.data.clicks import ClicksError, Commit, Totals
from training.loop.click_merge import Merge
from training.loop.collect import CollectError

DEADLINE_SECONDS = 60.0


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


def test_a_second_collector_is_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.send(("s", click("a")), ("s", click("b")))
    commit, seconds = Merge.commit, []

    def disturbed(*arguments: object) -> object:
        before = shop.contents()
        seconds.append(shop.run())
        assert shop.contents() == before
        return commit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Merge, "commit", disturbed)
    assert shop.collect(batch=1).totals.clicks == 2
    assert [second.exit_code for second in seconds] == [1, 1]
    assert f"{shop.clicks}: another collection is running" in seconds[0].stderr


# Runs the command line it is given, and is gone without a word before or after the n-th call of a function.
DYING = """
import os, sys
from pathlib import Path
from training.loop import click_files, click_log
from training.__main__ import app

name, when, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
del sys.argv[1:4]
owner, attribute = {
    "rename": (Path, "replace"),
    "commit": (click_files.Generation, "commit"),
    "remove": (Path, "unlink"),
    "settle": (click_log.ClickLog, "settle"),
    "make room": (click_log.ClickLog, "_make_room"),
}[name]
original, calls = getattr(owner, attribute), 0

def dying(*arguments, **options):
    global calls
    calls += 1
    if calls == number and when == "before":
        os._exit(99)
    result = original(*arguments, **options)
    if calls == number and when == "after":
        os._exit(99)
    return result

setattr(owner, attribute, dying)
app()
"""
STEPS = [
    ("before", "remove", 1),  # what the last collection has replaced
    ("before", "settle", 1),
    *[("before", "rename", number) for number in range(1, 6)],  # of new files, and of commit.json
    ("after", "rename", 3),
    ("after", "commit", 2),
    ("before", "make room", 4),
    ("after", "make room", 4),
    ("after", "settle", 4),
]


@pytest.mark.parametrize(("when", "name", "number"), STEPS)
def test_a_kill_at_any_step_loses_nothing_and_doubles_nothing(
    shop: Shop, when: str, name: str, number: int
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

    dying = subprocess.run(
        [sys.executable, "-c", DYING, name, when, str(number), "collect", "--batch", "9"],
        env=os.environ | shop.environment,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert dying.returncode == 99
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
        self._enough = threading.Event()

    def run(self) -> None:
        asyncio.run(self._click())

    def stop(self) -> None:
        self._enough.set()
        self.join(DEADLINE_SECONDS)

    async def _click(self) -> None:
        store = SessionStore(self._shop.settings, str(self._shop.settings.redis_url))
        numbers = random.Random(3)
        while not self._enough.is_set():
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
            await asyncio.sleep(0.005)
        await store.close()


def test_random_kills_lose_nothing_and_double_nothing(shop: Shop) -> None:
    numbers = random.Random(5)
    shoppers = Shoppers(shop)
    shoppers.start()
    kills = 0
    for _ in range(8):
        generation = shop.commit.generation
        with subprocess.Popen(
            [sys.executable, "-m", "training", "collect", "--batch", "40"],
            env=os.environ | shop.environment,
            stdout=subprocess.DEVNULL,
        ) as process:
            deadline = time.monotonic() + DEADLINE_SECONDS
            while process.poll() is None and shop.commit.generation == generation:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(numbers.uniform(0, 0.3))
            process.kill()
            kills += process.wait(DEADLINE_SECONDS) == -signal.SIGKILL
    shoppers.stop()
    assert not shoppers.is_alive()
    assert kills >= 4, "most collections ended before they were killed: the test says little"
    last = shop.collect()
    assert last.totals.clicks > 0
    assert sorted(map(repr, shop.collected())) == sorted(map(repr, shoppers.acknowledged))
    assert last.commit.totals.duplicates > 0
    assert not last.commit.gaps


def test_a_redis_that_dies_stops_the_collection_and_the_next_one_goes_on(
    artifacts: Path, redis_client: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedRedis(tmp_path / "redis", strict=True) as server:
        shop = Shop.at(artifacts, server.url, redis_client)
        sent = [(f"s{i}", click(f"i{i}", event_id=f"e{i}")) for i in range(300)]
        shop.send(*sent)
        pid, commit = server.pid, Merge.commit

        def killing(*arguments: object) -> object:
            done = commit(*arguments)  # type: ignore[arg-type]
            if done.generation == 3:
                os.kill(pid, signal.SIGKILL)
            return done

        with monkeypatch.context() as patch:
            patch.setattr(Merge, "commit", killing)
            result = shop.run("--batch", "50")
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        assert "what is committed stays" in result.stderr
        assert shop.commit.generation == 3

        deadline = time.monotonic() + DEADLINE_SECONDS
        while server.pid == pid:
            assert time.monotonic() < deadline
            server.restart_if_dead()
        sent.append(("s", click("after the restart")))
        shop.send(sent[-1])
        assert shop.collect().totals.clicks == 151
        assert sorted(map(repr, shop.collected())) == sorted(map(repr, sent))
        assert not shop.commit.gaps
