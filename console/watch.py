"""The one who looks at the service again and again, however many pages are open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httpx

from console.rates import History, parse
from console.service import Json, Service, ServiceError

LOOK_SECONDS = 5.0
MODELS_SECONDS = 5.0  # an answer of /models is shown for so long


class Watch:
    """What was seen so far."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        service_url: str,
        metrics_url: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._http = http
        self._service = Service(http, service_url)
        self.metrics_url = metrics_url
        self._clock = clock
        self.history = History()
        self.no_metrics: str | None = None  # why the newest look saw none
        self.no_answer: str | None = None  # why the service does not answer
        self.not_ready: str | None = None  # what it says is missing
        self.since: float | None = None  # when one of these began
        self._models: tuple[float, Json] | None = None
        self._asks = asyncio.Lock()

    async def follow(self) -> None:
        """Look for good."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

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
        else:
            self.no_metrics = None
            self.history.add(values, self._clock())
        if was_well or self.problem() is None:
            self.since = None if self.problem() is None else self._clock()

    def problem(self) -> str | None:
        """Why what is shown may be old, or shoppers go without; the gravest first."""
        if self.no_answer is not None:
            return self.no_answer
        if self.not_ready is not None:
            return f"The service is not ready: {self.not_ready}"
        return self.no_metrics

    async def models(self, service: Service) -> Json:
        """What GET /models answers, or answered a moment ago to another page. Raises `ServiceError`."""
        async with self._asks:
            if self._models is None or self._clock() >= self._models[0] + MODELS_SECONDS:
                self._models = None
                answer = await service.get("/models")
                self._models = (self._clock(), answer)
            return self._models[1]
