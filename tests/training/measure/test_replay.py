"""What the service answered comes out again, byte for byte, or it is said why not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from typer.testing import CliRunner, Result

from service.live.deployment import challenge, hide, publish, unhide
from service.process.settings import Settings
from service.ranking.repeats import RepeatTable
from tests.service.bundles import Shop
from tests.service.serving import Serving, serving
from tests.waiting import eventually
from training.__main__ import app
from training.loop.collect import collect
from training.measure.replay import Collected, moments

pytestmark = pytest.mark.anyio

Given = dict[str, bytes]  # answers by their ids


@pytest.fixture
def published(artifacts: Path) -> Path:
    """v1 answers."""
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    return artifacts


async def asked(service: Serving, session_id: str, **parameters: Any) -> Given:
    answer = await service.client.get("/recommend", params={"session_id": session_id, **parameters})
    assert answer.status_code == 200
    return {answer.json()["recommendation_id"]: answer.content}


def replayed(artifacts: Path, recommendation_id: str, *options: str, **variables: str) -> Result:
    arguments = ["replay", recommendation_id, "--artifacts", str(artifacts), *options]
    return CliRunner().invoke(app, arguments, env=variables)


def collected(artifacts: Path, redis_url: str) -> None:
    collect(Settings(artifacts_dir=artifacts, redis_url=redis_url, redis_timeout_seconds=60))


async def test_every_answer_of_the_model_comes_out_again(published: Path, redis_url: str) -> None:
    """Clicked or not, in the middle of a session, whatever came later; with items that no bundle knows."""
    given: Given = {}
    async with serving(published, redis_url, quality_share=0.5) as service:
        for session_id in [f"s{i}" for i in range(12)]:
            for step in range(14):
                await service.click(session_id, f"i{1 + (step * step + len(session_id)) % 60}")
                given |= await asked(service, session_id, k=1 + 7 * step % 30, exclude_seen=step % 2 == 1)
        await service.click("cold", "i1", "no bundle knows me", "i2", "i3")
        given |= await asked(service, "cold")
        await service.click("mixed", "i1")
        await service.click("mixed", "i7", type="view")
        given |= await asked(service, "mixed", exclude_seen=True)
        now = await service.click("late", "i1")
        assert now.status_code == 200
        await service.click("late", "i2", timestamp=1e9)
        given |= await asked(service, "late")
    collected(published, redis_url)
    assert len(given) == 12 * 14 + 3
    for recommendation_id in list(given)[::9] + list(given)[-3:]:
        result = replayed(published, recommendation_id)
        assert result.stdout_bytes == given[recommendation_id] + b"\n", result.stderr
    assert json.loads(result.stdout)["stage"] == "model"
    assert result.stderr.startswith("session 'late' held 2 clicks, the newest on 'i1' at ")
    assert replayed(published, recommendation_id, "--session", "late").stdout_bytes == result.stdout_bytes
    assert "at no moment" in replayed(published, recommendation_id, "--session", "s1").stderr


async def test_answers_with_items_that_the_session_holds_come_out_again(
    artifacts: Path, redis_url: str
) -> None:
    """Raised or lowered by the bundle's table; none of them under exclude_seen."""
    table = RepeatTable(by_distance=(-0.4, 0.6, 0.2), by_count=(0.0, 0.3))
    Shop.make().write(artifacts, repeat=table)
    publish(artifacts, "v1")
    given: Given = {}
    async with serving(artifacts, redis_url) as service:
        for step, item_id in enumerate(["i1", "i2", "i1", "i3", "i1"]):
            await service.click("s", item_id)
            given |= await asked(service, "s", k=5 + step, exclude_seen=step == 3)
        unstored = await service.client.post(
            "/recommend", json={"items": ["i1", "i2", "i1", "i3", "i1"], "k": 9}
        )
    collected(artifacts, redis_url)
    for recommendation_id, body in given.items():
        result = replayed(artifacts, recommendation_id)
        assert result.stdout_bytes == body + b"\n", result.stderr
    answers = [json.loads(body)["items"] for body in given.values()]
    assert answers[2][0]["item_id"] == "i2", "an older item, raised"
    assert not {"i1", "i2", "i3"} & {item["item_id"] for item in answers[3]}, "under exclude_seen"
    assert unstored.json()["items"] == answers[4]


async def test_another_version_and_what_is_hidden_since_change_nothing(
    published: Path, redis_url: str
) -> None:
    async with serving(published, redis_url) as service:
        await service.click("s", "i5")
        ((recommendation_id, body),) = (await asked(service, "s")).items()
    collected(published, redis_url)
    Shop.make(seed=2).write(published, "v2")
    publish(published, "v2")
    hide(published, json.loads(body)["items"][0]["item_id"])
    assert replayed(published, recommendation_id).stdout_bytes == body + b"\n"


async def test_what_is_hidden_now_was_hidden_then(published: Path, redis_url: str) -> None:
    nearest = Shop.make().nearest(["i5"])
    hide(published, nearest[1])
    async with serving(published, redis_url) as service:
        await service.click("s", "i5")
        ((recommendation_id, body),) = (await asked(service, "s")).items()
    assert nearest[1] not in body.decode().split('"')
    collected(published, redis_url)
    assert replayed(published, recommendation_id).stdout_bytes == body + b"\n"


async def test_a_session_that_begins_anew_under_its_id(
    published: Path, redis_url: str, redis_client: Redis
) -> None:
    async with serving(published, redis_url) as service:
        await service.click("s", "i1", timestamp=1e9)
        redis_client.delete(*redis_client.keys("s:*"))
        await service.click("s", "i2", timestamp=1e9 + 1800)
        ((recommendation_id, body),) = (await asked(service, "s")).items()
    collected(published, redis_url)
    result = replayed(published, recommendation_id)
    assert result.stdout_bytes == body + b"\n"
    assert "held 1 clicks" in result.stderr


async def test_clicks_out_of_order_twice_or_too_many(published: Path, redis_url: str) -> None:
    """The session holds the newest three by their own times, of what had arrived, each once."""
    given: Given = {}
    async with serving(published, redis_url, session_max_clicks=3) as service:
        for item_id, timestamp in (("i1", 50), ("i2", 40), ("i3", 60), ("i4", 10), ("i5", 60), ("i6", 55)):
            for _ in range(2):
                fields = {"timestamp": 1e9 + timestamp, "event_id": item_id}
                assert (await service.click("s", item_id, **fields)).status_code == 200
            given |= await asked(service, "s")
        held = (await service.client.get("/sessions/s")).json()["clicks"]
    assert [click["item_id"] for click in held] == ["i6", "i3", "i5"]
    collected(published, redis_url)
    for recommendation_id, body in given.items():
        result = replayed(published, recommendation_id, NEXTCLICK_SESSION_MAX_CLICKS="3")
        assert result.stdout_bytes == body + b"\n", result.stderr
    assert "at no moment" in replayed(published, recommendation_id).stderr, "with other settings"


async def test_sessions_longer_than_the_model_sees(published: Path, redis_url: str) -> None:
    async with serving(published, redis_url) as service:
        await service.click("s", *(f"i{i}" for i in range(1, 56)))
        ((recommendation_id, body),) = (await asked(service, "s", exclude_seen=True, k=3)).items()
    collected(published, redis_url)
    result = replayed(published, recommendation_id)
    assert result.stdout_bytes == body + b"\n", result.stderr
    assert "held 50 clicks" in result.stderr
    assert "the model saw 10 of them" in result.stderr


async def test_whoever_answered_then_answers_again(published: Path, redis_url: str) -> None:
    """A trial, a version that was asked for, and another champion since."""
    Shop.make(seed=2).write(published, "v2")
    challenge(published, "v2", 0.5)
    given: Given = {}
    async with serving(published, redis_url) as service:
        for session_id in (f"s{i}" for i in range(8)):
            await service.click(session_id, "i5", "i9")
            given |= await asked(service, session_id)
        given |= await asked(service, "s0", model="v1")
        given |= await asked(service, "s0", model="v2")
        publish(published, "v2")
        await eventually(lambda: getattr(service.follower.current.champion, "version", None) == "v2")
        given |= await asked(service, "s0")
    assert {recommendation_id.partition("~")[0] for recommendation_id in list(given)[:8]} == {"v1", "v2"}
    collected(published, redis_url)
    for recommendation_id, body in given.items():
        result = replayed(published, recommendation_id)
        assert result.stdout_bytes == body + b"\n", result.stderr


async def test_what_is_popular(published: Path, redis_url: str, tmp_path: Path) -> None:
    """Of a session that is empty, or can't be read, or as filling, where nothing trends."""
    given: Given = {}
    async with serving(published, redis_url, trending_refresh_seconds=3600) as service:
        given |= await asked(service, "s")
        given |= await asked(service, "s", k=100)
        await service.click("s", "i1", type="view")
        given |= await asked(service, "s", exclude_seen=True)
        await service.click("s", "i2")
        given |= await asked(service, "s", k=100, exclude_seen=True)
    async with serving(published, f"unix://{tmp_path}/nobody.sock") as service:
        given |= await asked(service, "s", k=5)
    bodies = [json.loads(body) for body in given.values()]
    assert [body["stage"] for body in bodies] == ["popular", "popular", "popular", "model", "popular"]
    assert [body["degraded"] for body in bodies] == [False, False, False, False, True]
    collected(published, redis_url)
    for recommendation_id, body in given.items():
        result = replayed(published, recommendation_id)
        assert result.stdout_bytes == body + b"\n", result.stderr
    assert result.stderr.startswith("session 's' could not be read: Redis did not answer")


async def test_a_session_that_never_clicked_is_named(published: Path, redis_url: str) -> None:
    async with serving(published, redis_url) as service:
        ((recommendation_id, body),) = (await asked(service, "t")).items()
    assert replayed(published, recommendation_id, "--session", "t").stdout_bytes == body + b"\n"


async def test_what_was_excluded_or_hidden_is_told_by_who_asks(published: Path, redis_url: str) -> None:
    first, second, *_ = Shop.make().nearest(["i5"])
    async with serving(published, redis_url) as service:
        await service.click("s", "i5")
        excluded = await asked(service, "s", exclude=first)
        hide(published, second)
        await eventually(lambda: second in service.follower.current.hidden)
        hidden = await asked(service, "s")
        unhide(published, second)
    hide(published, "i60")
    collected(published, redis_url)
    for given, then in ((excluded, first), (hidden, second)):
        ((recommendation_id, body),) = given.items()
        refused = replayed(published, recommendation_id)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert "the request excluded items, or other ones were hidden than now" in refused.stderr
        result = replayed(published, recommendation_id, "--exclude", then)
        assert result.stdout_bytes == body + b"\n", result.stderr


async def test_what_others_clicked_is_not_given_again_but_checked(
    published: Path, redis_url: str, tmp_path: Path
) -> None:
    async with serving(published, redis_url) as service:
        await service.click("s", "i9")
        await service.click("other", "new", "i7")
        await service.click("near", "new")
        await eventually(lambda: len(service.trending.top(3, lambda _: True)) == 3)
        given = await asked(service, "t")
        await service.click("t", "i1")
        await service.click("u", "i1", type="view")
        given |= await asked(service, "u")
        given |= await asked(service, "near")
    collected(published, redis_url)
    said = (
        "session 't' held no click; v1 knows no item that it could go by: what was trending then answered",
        "session 'u' held 1 clicks, the newest on 'i1'",
        "what was trending then, or clicked together with 'new', answered",
    )
    stages = []
    for (recommendation_id, body), why in zip(given.items(), said, strict=True):
        stages.append(json.loads(body)["stage"])
        refused = replayed(published, recommendation_id)
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert why in refused.stderr
        kept = tmp_path / "answer.json"
        kept.write_bytes(body)
        checked = replayed(published, recommendation_id, "--check", str(kept))
        assert checked.exit_code == 0, checked.stderr
        assert "these 20 items were answered then" in checked.stdout
        first, second = (item["item_id"].encode() for item in json.loads(body)["items"][:2])
        kept.write_bytes(body.replace(first, b"?").replace(second, first).replace(b"?", second))
        checked = replayed(published, recommendation_id, "--check", str(kept))
        assert (checked.exit_code, checked.stdout) == (1, "")
        assert "were not answered then" in checked.stderr
    assert stages == ["trending", "trending", "neighbours"]
    kept.write_text("[]")
    assert replayed(published, recommendation_id, "--check", str(kept)).exit_code == 2


async def test_clicks_that_are_too_old_are_gone(published: Path, redis_url: str) -> None:
    async with serving(published, redis_url) as service:
        await service.click("s", "i5", timestamp=1e9)
        ((recommendation_id, _),) = (await asked(service, "s")).items()
        settings = Settings(
            artifacts_dir=published, redis_url=redis_url, redis_timeout_seconds=60, click_retention_days=3
        )
        collect(settings)
        variables = {"NEXTCLICK_CLICK_RETENTION_DAYS": "3"}
        refused = replayed(published, recommendation_id, **variables)
        assert refused.exit_code == 1
        assert "all collected clicks were deleted since: none is kept" in refused.stderr
        await service.click("another", "i1")
        collect(settings)
    refused = replayed(published, recommendation_id, **variables)
    assert refused.exit_code == 1
    today = datetime.now(UTC).date()
    assert any(f"kept are clicks since {today - timedelta(days=n)}" in refused.stderr for n in (0, 1))
    assert "deletes what is older than 3 days (NEXTCLICK_CLICK_RETENTION_DAYS)" in refused.stderr


async def test_the_click_log_itself_is_not_needed(
    published: Path, redis_url: str, redis_client: Redis
) -> None:
    async with serving(published, redis_url) as service:
        await service.click("s", "i5")
        ((recommendation_id, body),) = (await asked(service, "s")).items()
    collected(published, redis_url)
    redis_client.flushall()
    assert replayed(published, recommendation_id).stdout_bytes == body + b"\n"


async def test_what_cannot_be_found_is_told(published: Path, redis_url: str) -> None:
    async with serving(published, redis_url) as service:
        await service.click("s", "i5")
        ((early, _),) = (await asked(service, "s")).items()
        body = {"items": ["i5"]}
        unstored = (await service.client.post("/recommend", json=body)).json()["recommendation_id"]
        assert "no clicks are collected yet" in replayed(published, early).stderr
        collected(published, redis_url)
        await service.click("s", "i6")
        ((uncollected, _),) = (await asked(service, "s")).items()
    for recommendation_id, said in (
        (unstored, "at no moment of 1 collected sessions it was given"),
        (uncollected, "so `collect` deletes none. Were its clicks not collected yet"),
        (early.replace("v1", "v9"), "v9: is not there"),
        (early.replace("v1", "none"), "no bundle was published yet"),
        ("v1~made-up", "'v1~made-up' is no id of a recommendation"),
    ):
        result = replayed(published, recommendation_id)
        assert (result.exit_code, result.stdout) == (1, ""), recommendation_id
        assert said in result.stderr
    assert "at no moment of session 'x'" in replayed(published, early, "--session", "x").stderr


def of(*clicks: tuple[str, float]) -> Sequence[Collected]:
    return [Collected("s", item_id, timestamp, "click") for item_id, timestamp in clicks]


def test_a_session_is_followed_as_the_service_holds_it() -> None:
    settings = Settings(session_max_clicks=2, session_ttl_seconds=100)
    held = [
        "".join(click.item_id for click in moment)
        for moment in moments(settings, of(("a", 9), ("b", 5), ("c", 10), ("d", 110), ("e", 111), ("f", 400)))
    ]
    assert held == ["a", "ba", "ac", "cd", "d", "de", "de", "f"]
