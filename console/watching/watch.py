"""The one who looks at the service again and again, however many pages are open."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import httpx

from console.service import Json, Service, ServiceError
from console.watching.alarms import OF_THE_CONSOLE, Alarm, Alarms
from console.watching.rates import History, parse

log = logging.getLogger("console")
LOOK_SECONDS = 5.0


OWN = {  # why, and what to do
    "The service does not answer": (
        "Shoppers get no answers from this address either.",
        "Is it running, and is this its address? See its log. The console is told another by --service.",
    ),
    "The service is not ready": (
        "It answers, but without a model or without Redis; a balancer sends it nothing.",
        "The figure says what is missing. Publish a bundle, or look after Redis.",
    ),
    "There are no metrics": (
        "No alarm can be evaluated; the figures below are as they were.",
        "Are NEXTCLICK_METRICS_HOST and NEXTCLICK_METRICS_PORT those of --metrics?",
    ),
}


class Watch:
    """What was seen so far."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        service_url: str,
        metrics_url: str,
        every_seconds: float = LOOK_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._http = http
        self._service = Service(http, service_url)
        self.metrics_url = metrics_url
        self._every_seconds = every_seconds
        self._clock = clock
        self.history = History()
        self.alarms = Alarms()
        self.looked = 0  # how often
        self.no_metrics: str | None = None  # why the newest look saw none
        self.no_answer: str | None = None  # why the service does not answer
        self.not_ready: str | None = None  # what it says is missing
        self.since: float | None = None  # when one of these began
        self._models: tuple[int, Json | ServiceError] | None = None  # after which look it was asked for
        self._asks = asyncio.Lock()

    async def follow(self) -> None:
        """Look for good."""
        while True:
            try:
                await self.look()
            except (
                Exception
            ):  # whatever it was: the next look may go well, and pages would show old figures for good
                log.exception("a look at the service failed")
            await asyncio.sleep(self._every_seconds)

    async def look(self) -> None:
        """Look once; whatever is not there is something seen as well."""
        was_well = self.problem() is None
        try:
            self.not_ready, self.no_answer = await self._service.not_ready(), None
        except ServiceError as error:
            self.not_ready, self.no_answer = None, error.detail
        try:
            answer = await self._http.get(self.metrics_url)
            answer.raise_for_status()
            values = parse(answer.text)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            self.no_metrics = f"no metrics from {self.metrics_url}: {error or type(error).__name__}"
            self.alarms.forget()
        else:
            self.no_metrics = None
            self.history.add(values, self._clock())
            self.alarms.look(self.history, self._clock())
        if was_well or self.problem() is None:
            self.since = None if self.problem() is None else self._clock()
        self.looked += 1

    def problem(self) -> str | None:
        """Why what is shown may be old, or shoppers go without; the gravest first."""
        if self.no_answer is not None:
            return self.no_answer
        if self.not_ready is not None:
            return f"The service is not ready: {self.not_ready}"
        return self.no_metrics

    def wrong(self) -> list[Alarm]:
        """What is wrong right now: what the console itself meets, then the alarms."""
        own = []
        for name, problem in (
            ("The service does not answer", self.no_answer),
            ("The service is not ready", self.not_ready),
            ("There are no metrics", self.no_metrics),
        ):
            if problem is not None and self.since is not None:
                own.append(Alarm(name, *OWN[name], problem, self.since, False, OF_THE_CONSOLE))
        return own + self.alarms.now

    def now(self) -> float:
        """The time of the clock that the looks go by."""
        return self._clock()

    async def models(self, service: Service) -> Json:
        """What GET /models answers, or has since the newest look to another page. Raises `ServiceError`."""
        async with self._asks:
            if self._models is None or self._models[0] != self.looked:
                looked = self.looked
                try:
                    self._models = looked, await service.get("/models")
                except (
                    ServiceError
                ) as error:  # one page waits for a service that hangs, not each after another
                    self._models = looked, error
        found = self._models[1]
        if isinstance(found, ServiceError):
            raise found
        return found
