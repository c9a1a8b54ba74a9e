"""What a request costs, counted rather than timed: a change that makes it dearer has to say so here."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from redis import Redis
from starlette.types import Message

from service.http.app import create_app
from service.live.deployment import publish
from service.process.settings import Settings
from tests.service.bundles import Shop
from tests.service.serving import PATIENT

pytestmark = pytest.mark.anyio

REQUESTS = 40
# Measured on Python 3.11, and a fifth more; a coroutine counts again whenever it goes on.
PYTHON_CALLS = {"recommend": 264, "click": 198}
PAGE = "https://shop.example"

Ask = Callable[[], Awaitable[None]]


@pytest.fixture
async def calls(artifacts: Path, redis_url: str) -> AsyncIterator[dict[str, Ask]]:
    """The two requests that matter, straight to the app: no client and no server is counted."""
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    seldom = {"trending_refresh_seconds": 3600, "deployment_poll_seconds": 3600, "quality_share": 0}
    seldom["catalogue_poll_seconds"] = 3600
    settings = {
        "artifacts_dir": artifacts,
        "redis_url": redis_url,
        "redis_timeout_seconds": PATIENT,
        "cors_origins": (PAGE,),
        **seldom,
    }
    app = create_app(Settings.model_validate(settings))

    async def ask(method: str, path: str, query: bytes, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query,
            "headers": [(b"host", b"x"), (b"content-type", b"application/json"), *headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "scheme": "http",
            "root_path": "",
            "http_version": "1.1",
        }
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        await app(scope, receive, send)
        assert sent[0]["status"] == 200
        may_read = any(name == b"access-control-allow-origin" for name, _ in sent[0]["headers"])
        assert may_read is bool(headers)

    async with app.router.lifespan_context(app):
        requests: dict[str, Ask] = {
            "click": lambda: ask("POST", "/sessions/s/click", b"", b'{"item_id": "i5"}'),
            "recommend": lambda: ask("GET", "/recommend", b"session_id=s", b""),
            "page": lambda: ask("GET", "/recommend", b"session_id=s", b"", (b"origin", PAGE.encode())),
        }
        for request in requests.values():  # whatever is done once is done
            for _ in range(3):
                await request()
        yield requests


async def counted_calls(request: Ask) -> Counter[str]:
    """All Python calls of so many requests."""
    counted: Counter[str] = Counter()

    def count(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            counted[frame.f_code.co_name] += 1

    sys.setprofile(count)
    try:
        for _ in range(REQUESTS):
            await request()
    finally:
        sys.setprofile(None)
    return counted


async def test_a_page_of_another_origin_costs_a_few_calls_more(calls: dict[str, Ask]) -> None:
    """The rest differs by a few, too: by how often Redis is waited for."""
    shop, page = [(await counted_calls(calls[name])).total() for name in ("recommend", "page")]
    assert page - shop < 15 * REQUESTS


@pytest.mark.parametrize("name", PYTHON_CALLS)
async def test_python_calls(calls: dict[str, Ask], name: str) -> None:
    counted = await counted_calls(calls[name])
    per_request = counted.total() / REQUESTS
    assert 0.5 * PYTHON_CALLS[name] < per_request < PYTHON_CALLS[name], counted.most_common(30)


class CountingExecutor(ThreadPoolExecutor):
    """Counts what is handed to another thread."""

    submitted = 0

    def submit(self, *arguments: Any, **options: Any) -> Future[Any]:
        self.submitted += 1
        return super().submit(*arguments, **options)


@pytest.mark.parametrize("name", PYTHON_CALLS)
async def test_no_request_is_handed_to_another_thread(calls: dict[str, Ask], name: str) -> None:
    loop, threads = asyncio.get_running_loop(), set(threading.enumerate())
    with CountingExecutor() as executor:
        loop.set_default_executor(executor)
        for _ in range(REQUESTS):
            await calls[name]()
        assert executor.submitted == 0
        assert set(threading.enumerate()) <= threads
        await asyncio.to_thread(int)
        assert executor.submitted == 1, "else the executor would not be the one that requests use"
    loop.set_default_executor(ThreadPoolExecutor())


@pytest.mark.parametrize(("name", "commands"), [("click", ["evalsha", "ping"]), ("recommend", ["zrange"])])
async def test_each_command_is_one_round_trip(
    calls: dict[str, Ask], name: str, commands: list[str], redis_client: Redis
) -> None:
    """A click is confirmed after it: only then it is known that Redis has written it."""
    redis_client.config_resetstat()
    for _ in range(REQUESTS):
        await calls[name]()
    sent = redis_client.info("commandstats")
    assert [sent[f"cmdstat_{command}"]["calls"] for command in commands] == [REQUESTS] * len(commands)
    reads = redis_client.info("stats")["total_reads_processed"]
    assert 0 <= reads - REQUESTS * len(commands) <= 5, "what this test asked is in it"


@pytest.mark.parametrize("name", PYTHON_CALLS)
async def test_nothing_is_left_for_the_garbage_collector(calls: dict[str, Ask], name: str) -> None:
    gc.collect()
    gc.disable()
    try:
        before = sys.getallocatedblocks()
        for _ in range(REQUESTS):
            await calls[name]()
        kept = sys.getallocatedblocks() - before
        cyclic = gc.collect()
    finally:
        gc.enable()
    assert cyclic / REQUESTS < 12, "objects in cycles, per request"
    assert kept / REQUESTS < 60, "blocks of memory still held, per request"
