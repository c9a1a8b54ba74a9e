"""What benchmarks.chaos counts, and that it really kills."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from redis import Redis

from benchmarks.chaos import run, victims
from benchmarks.chaos.__main__ import FULL, SLOW, chaos_table, disks, main, share, soak_table
from benchmarks.chaos.ledger import Audit, Event, logged
from benchmarks.chaos.run import Outcome
from benchmarks.chaos.shoppers import Tally, shop
from benchmarks.chaos.soak import Series, Soaked
from benchmarks.chaos.victims import KINDS, plan
from service.live.deployment import publish
from service.process.embedded_redis import EmbeddedRedis
from tests.service.bundles import Shop

pytestmark = pytest.mark.anyio

A, B, C = Event("s", "a"), Event("s", "b"), Event("t", "a")
ITEMS: dict[str, list[dict[str, str]]] = {"items": [{}] * 20}


def test_lost_is_what_was_acknowledged_and_is_not_there() -> None:
    assert Audit.of({A, B, C}, [C, A]) == Audit(lost=1, doubled=0)
    assert Audit.of({A}, [A, B]) == Audit(lost=0, doubled=0), "B's answer may have got lost"
    assert Audit.of(set(), []) == Audit(lost=0, doubled=0)


def test_doubled_is_what_is_there_more_than_once_acknowledged_or_not() -> None:
    assert Audit.of({A, B}, [A, B, A, A, C, C]) == Audit(lost=0, doubled=2)


def test_the_click_log_is_read_to_its_end_with_each_time_that_a_click_is_there(
    redis_server: EmbeddedRedis, redis_client: Redis
) -> None:
    for key, events in {"clicks:{0}": [A, B, A, A, B], "shop:clicks:{1}": [C]}.items():
        for event in events:
            redis_client.xadd(key, {"session": event.session, "item": "i1", "event": event.id})
    redis_client.xadd("clicks:{0}", {"session": "s", "erased": 1})
    redis_client.set("collected:{0}", "0-0 0")
    with Redis.from_url(redis_server.url) as client:
        assert Counter(logged(client, batch=2)) == {A: 3, B: 2, C: 1}


class Answers:
    """Says what it was told to say, then that all is well; notes what it was asked."""

    def __init__(self, *first: int | OSError) -> None:
        self.first = list(first)
        self.asked: list[tuple[str, str, bytes]] = []
        self.items = ITEMS

    async def __call__(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        self.asked.append((method, target, body))
        answer = self.first.pop(0) if self.first else 200
        if isinstance(answer, OSError):
            raise answer
        return answer, json.dumps(self.items).encode()


async def shopped(ask: Answers, clicks: int) -> Tally:
    """So many clicks of one shopper."""
    tally = Tally()

    async def pause() -> None:
        pass

    await shop(ask, tally, "one", ["i1", "i2"], lambda: len(tally.acknowledged) < clicks, pause)
    return tally


async def test_what_was_not_acknowledged_is_sent_again_with_its_event_id() -> None:
    ask = Answers(OSError(), 503, 500, 200)
    tally = await shopped(ask, clicks=1)
    first, *others = ask.asked[:4]
    assert first[0] == "POST"
    assert others == [first] * 3, "the same click again"
    assert (tally.requests, tally.answers, tally.refused, tally.errors) == (5, 4, 1, 2)
    (event,) = tally.acknowledged
    assert json.loads(first[2])["event_id"] == event.id
    assert first[1] == f"/sessions/{event.session}/click"


async def test_every_click_has_an_event_id_of_its_own_and_a_recommendation_after_it() -> None:
    ask = Answers()
    tally = await shopped(ask, clicks=50)
    assert [method for method, *_ in ask.asked] == ["POST", "GET"] * 50
    assert len(tally.acknowledged) == 50
    assert len({event.session for event in tally.acknowledged}) > 3
    assert tally.short == tally.errors == tally.refused == 0


@pytest.mark.parametrize(
    ("status", "items"), [(200, 19), (200, 0), (503, 20), (500, 20)], ids=["19", "none", "503", "500"]
)
async def test_an_answer_without_20_items_is_short(status: int, items: int) -> None:
    ask = Answers(200, status)
    ask.items = {"items": [{}] * items}
    assert (await shopped(ask, clicks=1)).short == 1


async def test_no_answer_is_an_error_and_not_short() -> None:
    tally = await shopped(Answers(200, OSError()), clicks=1)
    assert (tally.short, tally.errors) == (0, 1)


def test_kills_are_of_each_kind_and_the_same_for_a_seed() -> None:
    kills = plan(54, seed=1)
    assert len(kills) == 54
    assert {kill.kind for kill in plan(4, seed=2)} == KINDS.keys()
    assert 0 in {kill.after_answers for kill in kills}, "some at once after the one before"
    assert plan(54, seed=1) == kills != plan(54, seed=2)
    assert [share(54, 3, number) for number in range(3)] == [18, 18, 18]
    assert sum(share(50, 3, number) for number in range(3)) == 50


@pytest.mark.parametrize(
    ("audit", "tally", "stuck", "failed"),
    [
        (Audit(0, 0), Tally(refused=3, errors=9, acknowledged={A}), "", False),
        (Audit(1, 0), Tally(acknowledged={A}), "", True),
        (Audit(0, 1), Tally(acknowledged={A}), "", True),
        (Audit(0, 0), Tally(short=1, acknowledged={A}), "", True),
        (Audit(0, 0), Tally(acknowledged={A}), "it did not come", True),
        (Audit(0, 0), Tally(refused=3), "", True),
    ],
)
def test_what_fails_a_run(audit: Audit, tally: Tally, stuck: str, failed: bool) -> None:
    assert Outcome(Counter(), tally, audit, 1.0, stuck).failed is failed


def test_the_table_says_what_was_not_run() -> None:
    outcome = Outcome(Counter(redis=2), Tally(requests=7), Audit(3, 4), 1.0, "it did not come")
    drawn = chaos_table({"defaults": outcome, SLOW: None}, "title")
    cells = [list(column.cells) for column in drawn.columns]
    assert cells[0] == ["defaults", f"{SLOW}: not run, there is no C compiler"]
    assert [cell[0] for cell in cells[1:]] == ["0", "2", "0", "0", "7", "0", "3", "4", "0", "0", "0", "1"]
    assert "it did not come" in str(drawn.caption)


def test_disks_are_those_of_the_machine(tmp_path: Path) -> None:
    found = disks(tmp_path)
    assert (found[SLOW] is None) == (found[FULL] is None)


def series(values: Sequence[float], unit: str = "MiB") -> Series:
    return Series("worker 1, resident", unit, values, seconds=3600)


@pytest.mark.parametrize(
    ("values", "flat"),
    [
        ([100.0] * 30, True),
        ([60.0 + 4 * n for n in range(10)] + [100.0] * 20, True),  # it warms up
        ([100.0 + n for n in range(30)], False),  # it leaks
        ([100.0] * 20 + [103.0] * 10, False),
        ([100.0 + 20 * (n % 3) for n in range(30)], True),  # it is emptied again and again
        ([100.0 - n for n in range(30)], True),
        ([5.0] * 20 + [5.9] * 10, True),  # less than a MiB
    ],
)
def test_flat_is_what_does_not_go_on_growing(values: list[float], flat: bool) -> None:
    assert series(values).flat is flat


def test_a_few_files_are_no_leak_and_many_are() -> None:
    assert series([30.0] * 20 + [32.0] * 10, "files").flat
    assert not series([30.0] * 20 + [33.0] * 10, "files").flat


def test_a_soak_is_told_by_start_end_slope_and_verdict() -> None:
    leaking = series([100.0 + n for n in range(31)])
    assert leaking.slope == pytest.approx(30)  # 30 steps an hour
    soaked = Soaked([leaking, series([7.0] * 30)], {"requests": 5000, "errors": 0, "short": 0})
    drawn = soak_table(soaked, "title")
    cells = [list(column.cells) for column in drawn.columns]
    assert cells[1:3] == [["100.0", "7.0"], ["130.0", "7.0"]]
    assert cells[3:] == [["+30.0", "+0.0"], ["MiB", "MiB"], ["GROWS", "flat"]]
    assert str(drawn.caption).startswith("5,000 requests")


@pytest.mark.parametrize(
    ("values", "bad", "failed"),
    [
        ([7.0] * 30, {}, False),
        ([7.0] * 30, {"refused": 9}, False),
        ([7.0] * 30, {"errors": 1}, True),
        ([7.0] * 30, {"short": 1}, True),
        ([100.0 + n for n in range(30)], {}, True),
    ],
)
def test_what_fails_a_soak(values: list[float], bad: dict[str, int], failed: bool) -> None:
    counts = {"requests": 9, "refused": 0, "errors": 0, "short": 0} | bad
    assert Soaked([series([7.0] * 30), series(values)], counts).failed is failed


def test_a_real_service_is_killed_and_keeps_what_it_acknowledged(
    artifacts: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SLOW_SECONDS", math.inf)  # each kill waits for its answers on any machine
    monkeypatch.setattr(victims, "MAX_ANSWERS", 2 * victims.MIN_ANSWERS)
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    options = ["--artifacts", str(artifacts), "--kills", "4", "--shoppers", "4", "--disks", "defaults"]
    assert main(options) == 0, capsys.readouterr().out
    row = next(line for line in capsys.readouterr().out.splitlines() if "defaults" in line)
    *kills, requests, acknowledged, lost, doubled, short = (
        row.replace("│", " ").replace(",", "").split()[1:10]
    )
    assert kills == ["1"] * 4
    assert int(requests) > int(acknowledged) > 50
    assert [lost, doubled, short] == ["0"] * 3
