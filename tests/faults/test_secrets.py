"""A password of Redis is in no output, whatever is wrong with it or with Redis."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.process.settings import Settings
from service.state.link import StoreUnavailable
from service.state.store import SessionStore
from tests.faults.redis_servers import Server, running_redis
from tests.service.processes import clean_environment
from tests.waiting import DEADLINE_SECONDS
from training.loop.collect import CollectError, collect

SECRET = "hush-hush"
COMMANDS = (("service",), ("service", "--print-settings"), ("training", "collect"))


@pytest.fixture
def ignorant(tmp_path: Path) -> Iterator[Server]:
    """A Redis, or a proxy before it, that does not know how to log in: it quotes what it was sent."""
    with running_redis(tmp_path / "redis", 'rename-command AUTH ""', 'rename-command HELLO ""') as server:
        yield server


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    "url",
    [
        f"redis://:p@{SECRET}@localhost:6379/0",
        f"redis://:p/{SECRET}@localhost:6379/0",
        f"redis://:p#{SECRET}@localhost:6379/0",
        f"redis://localhost:6379/{SECRET}",
    ],
)
def test_of_a_url_that_is_refused_nothing_is_printed(
    tmp_path: Path, arguments: tuple[str, ...], url: str
) -> None:
    environment = {"NEXTCLICK_REDIS_URL": url, "NEXTCLICK_ARTIFACTS_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-m", *arguments],
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert ended.returncode == 2
    assert "NEXTCLICK_REDIS_URL: " in ended.stderr
    assert SECRET not in ended.stdout + ended.stderr


@pytest.mark.anyio
async def test_a_redis_that_quotes_the_password_is_not_quoted(ignorant: Server, tmp_path: Path) -> None:
    url = f"redis://:{SECRET}@127.0.0.1:{ignorant.port}"
    settings = Settings(redis_url=url, redis_timeout_seconds=DEADLINE_SECONDS, artifacts_dir=tmp_path)
    store = SessionStore(settings, url)
    with capture_logs() as logs, pytest.raises(StoreUnavailable, match=r"unknown command .?AUTH") as refused:
        await store.ping()
    await store.close()
    with pytest.raises(CollectError, match=r"unknown command .?HELLO") as stopped:
        collect(settings)
    assert [entry["event"] for entry in logs] == ["no connection to redis"]
    assert SECRET not in f"{logs} {refused.value!r} {refused.value.__cause__!r} {stopped.value!r}"
