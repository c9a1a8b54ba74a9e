"""What the service answered comes out again, byte for byte, or it is said why not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from typer.testing import CliRunner, Result

from service.live.deployment import hide, publish
from service.process.settings import Settings
from tests.service.bundles import Shop
from tests.service.serving import Serving, serving
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


async def test_what_cannot_be_given_again_is_told(published: Path, redis_url: str) -> None:
    async with serving(published, redis_url) as service:
        await service.click("s", "i5")
        ((excluded, _),) = (await asked(service, "s", exclude=Shop.make().nearest(["i5"])[0])).items()
        ((empty, _),) = (await asked(service, "t")).items()
        await service.click("t", "i1")
        await service.click("u", "i1", type="view")
        ((unknown, _),) = (await asked(service, "u")).items()
        body = {"items": ["i5"]}
        unstored = (await service.client.post("/recommend", json=body)).json()["recommendation_id"]
        assert "no clicks are collected yet" in replayed(published, excluded).stderr
        collected(published, redis_url)
        await service.click("s", "i6")
        ((uncollected, _),) = (await asked(service, "s")).items()
    for recommendation_id, said in (
        (excluded, "session 's' then held 1 clicks, but the model alone does not answer as it was answered"),
        (empty, "session 't' was answered without a click"),
        (unknown, "session 'u' then held 1 clicks, and none that v1 knows"),
        (unstored, "at no moment of 3 collected sessions it was given"),
        (uncollected, "at no moment of 3 collected sessions it was given"),
        (excluded.replace("v1", "v9"), "v9: is not there"),
        ("v1~made-up", "'v1~made-up' is no id of a recommendation"),
    ):
        result = replayed(published, recommendation_id)
        assert (result.exit_code, result.stdout) == (1, ""), recommendation_id
        assert said in result.stderr


def of(*clicks: tuple[str, float]) -> Sequence[Collected]:
    return [Collected("s", item_id, timestamp, "click") for item_id, timestamp in clicks]


def test_a_session_is_followed_as_the_service_holds_it() -> None:
    settings = Settings(session_max_clicks=2, session_ttl_seconds=100)
    held = [
        "".join(click.item_id for click in moment)
        for moment in moments(settings, of(("a", 9), ("b", 5), ("c", 10), ("d", 110), ("e", 111), ("f", 400)))
    ]
    assert held == ["a", "ba", "ac", "cd", "d", "de", "de", "f"]
