"""The one poller: what it makes of a service that comes and goes, and that pages cost the service nothing."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from console.service import Service, ServiceError, connection
from console.watching.watch import Watch
from tests.waiting import eventually

METRICS = 'nextclick_click_log_fill_ratio {fill}\nnextclick_clicks_total{{outcome="accepted"}} 5\n'
pytestmark = pytest.mark.anyio


class Shop:
    """A service, as it is at the moment."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers = True
        self.ready = True
        self.metrics = METRICS.format(fill=0.1)
        self.now = 1000.0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        if request.url.path == "/metrics":
            return httpx.Response(200 if self.metrics else 500, text=self.metrics)
        if not self.answers:
            raise httpx.ConnectError("connection refused")
        if request.url.path == "/health/ready" and not self.ready:
            return httpx.Response(503, json={"detail": "no model is published yet"})
        return httpx.Response(200, json={"loaded": []})

    def stumbles_once(self, request: httpx.Request) -> httpx.Response:
        """As nobody has foreseen."""
        if not self.asked:
            self.asked.append("stumbled")
            raise RuntimeError("something else")
        return self(request)

    def clock(self) -> float:
        return self.now

    def watch(self) -> tuple[Watch, httpx.AsyncClient]:
        http = connection(httpx.MockTransport(self))
        return Watch(http, "http://service", "http://metrics/metrics", clock=self.clock), http


@pytest.fixture
def shop() -> Shop:
    return Shop()


async def test_what_is_wrong_is_told_with_since_when(shop: Shop) -> None:
    watch, _ = shop.watch()
    await watch.look()
    assert (watch.problem(), watch.wrong()) == (None, [])
    shop.answers, shop.now = False, 1005
    await watch.look()
    shop.now = 1010
    await watch.look()
    [alarm] = watch.wrong()
    assert (alarm.name, alarm.since, alarm.pending) == ("The service does not answer", 1005, False)
    assert watch.problem() == "the service at http://service does not answer: connection refused"
    shop.answers, shop.ready = True, False
    await watch.look()
    assert [(alarm.name, alarm.figure) for alarm in watch.wrong()] == [
        ("The service is not ready", "no model is published yet")
    ]
    shop.ready = True
    await watch.look()
    assert (watch.problem(), watch.wrong()) == (None, [])


async def test_without_metrics_nothing_is_claimed(shop: Shop) -> None:
    watch, _ = shop.watch()
    shop.metrics = METRICS.format(fill=0.9)
    await watch.look()
    assert [alarm.name for alarm in watch.wrong()] == ["NextclickClickLogFills"]
    shop.metrics = ""
    await watch.look()
    assert [alarm.name for alarm in watch.wrong()] == ["There are no metrics"]
    assert len(watch.alarms.unknown) == 14
    shop.metrics = "<html>another program</html>"
    await watch.look()
    assert [alarm.name for alarm in watch.wrong()] == ["There are no metrics"]
    shop.metrics, shop.now = METRICS.format(fill=0.9), 1010
    await watch.look()
    assert [(alarm.name, alarm.since) for alarm in watch.wrong()] == [("NextclickClickLogFills", 1010)]


async def test_it_looks_again_whatever_happens(shop: Shop) -> None:
    http = connection(httpx.MockTransport(shop.stumbles_once))
    watch = Watch(http, "http://service", "http://metrics/metrics", 0.001)
    task = asyncio.create_task(watch.follow())
    await eventually(lambda: watch.looked)
    task.cancel()
    assert shop.asked[0] == "stumbled"


async def test_pages_share_what_is_asked(shop: Shop) -> None:
    watch, http = shop.watch()
    services = [Service(http, "http://service", "key") for _ in range(5)]
    await watch.look()
    shop.asked.clear()
    await asyncio.gather(*(watch.models(service) for service in services))
    assert shop.asked == ["/models"]
    await watch.look()
    await watch.models(services[0])
    assert shop.asked.count("/models") == 2


async def test_models_that_were_not_told_are_asked_for_after_the_next_look(shop: Shop) -> None:
    watch, http = shop.watch()
    service = Service(http, "http://service", "key")
    await watch.look()
    shop.answers = False
    shop.asked.clear()
    for _ in range(3):
        with pytest.raises(ServiceError):
            await watch.models(service)
    assert shop.asked == ["/models"], "the others do not wait for it as well"
    shop.answers = True
    await watch.look()
    assert await watch.models(service) == {"loaded": []}
