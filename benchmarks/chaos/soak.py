"""Whether a busy service stays as it is: memory and open files of its processes, and the memory in Redis.

A leak goes on; what fills up once (caches, a catalogue that becomes known, the allocator's arenas) does not.
So the first third of a run is let be, and the middles of the second and the last third are compared: flat is
what grew by less than 2 %, or by less than what one page or one connection more or less makes. In ten minutes
at 500 requests a second a worker of 120 MiB that leaks 50 bytes a request is no longer flat. Medians, because
collecting empties the click log every few seconds: one sample may be of just before it or just after.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import linear_regression, median

from redis import Redis

from benchmarks.chaos.run import Load, StuckError, answers, until
from benchmarks.chaos.victims import Service
from service.process.embedded_redis import running_redis_url
from service.process.settings import Settings
from training.loop.collect import collect

MIB = 2**20
SHARE = 0.02
LEAST = {"MiB": 1.0, "files": 2.0}
SAMPLES = 300
COLLECTIONS = 60
PAUSE_SECONDS = 0.05
# What lives for long would not have been through its life in ten minutes, and would grow all the while.
SHORT_LIVES = {
    "NEXTCLICK_SESSION_TTL_SECONDS": "20",
    "NEXTCLICK_QUALITY_WINDOW_SECONDS": "20",
    "NEXTCLICK_CLICK_LOG_MAX_AGE_SECONDS": "10",
}


@dataclass(frozen=True)
class Series:
    """What was seen of one thing, at equal intervals over so many seconds."""

    what: str
    unit: str
    values: Sequence[float]
    seconds: float

    @property
    def slope(self) -> float:
        """By least squares over the last two thirds, in units an hour."""
        later = self.values[len(self.values) // 3 :]
        step = self.seconds / max(1, len(self.values) - 1)
        times = [step * number for number in range(len(later))]
        return 3600 * linear_regression(times, later).slope

    @property
    def growth(self) -> float:
        """From the middle of the second third to that of the last one."""
        third = len(self.values) // 3
        return median(self.values[-third:]) - median(self.values[third:-third])

    @property
    def flat(self) -> bool:
        third = len(self.values) // 3
        return self.growth <= max(SHARE * median(self.values[third:-third]), LEAST[self.unit])


@dataclass(frozen=True)
class Soaked:
    """What was sampled, and how many requests there were meanwhile, by what became of them."""

    series: Sequence[Series]
    counts: dict[str, int]

    @property
    def failed(self) -> bool:
        """A click that is refused and sent again is no failure: the machine may have been busy."""
        flat = all(each.flat for each in self.series)
        return not flat or self.counts["errors"] > 0 or self.counts["short"] > 0


async def soak(service: Service, workers: int, items: Sequence[str], shoppers: int, seconds: float) -> Soaked:
    """Load for so long, sampled. Raises `StuckError` where a process is replaced."""
    samples: list[dict[tuple[str, str], float]] = []
    async with Load(service, items, shoppers, PAUSE_SECONDS) as load:
        await until(lambda: len(service.processes()["worker"]) == workers, "every worker")
        await answers(load.tally, 10 * shoppers)
        settings = Settings(
            artifacts_dir=service.own,
            click_log_max_age_seconds=float(SHORT_LIVES["NEXTCLICK_CLICK_LOG_MAX_AGE_SECONDS"]),
        )
        collecting = asyncio.create_task(_collect(settings, seconds / COLLECTIONS))
        names, before = _names(service), replace(load.tally)
        begin = time.monotonic()
        try:
            while (passed := time.monotonic() - begin) < seconds:
                if _names(service) != names:
                    raise StuckError(f"a process was replaced after {passed:.0f} s")
                samples.append(_sample(names, settings))
                await asyncio.sleep(seconds / SAMPLES)
        finally:
            collecting.cancel()
            await asyncio.gather(collecting, return_exceptions=True)
    series = [Series(*key, [sample[key] for sample in samples], seconds) for key in samples[0]]
    told = ("requests", "refused", "errors", "short")
    return Soaked(series, {name: getattr(load.tally, name) - getattr(before, name) for name in told})


async def _collect(settings: Settings, every_seconds: float) -> None:
    while True:
        await asyncio.sleep(every_seconds)
        await asyncio.to_thread(collect, settings)


def _names(service: Service) -> dict[int, str]:
    return {
        pid: kind if kind != "worker" else f"worker {number}"
        for kind, pids in service.processes().items()
        for number, pid in enumerate(sorted(pids), start=1)
    }


def _sample(names: dict[int, str], settings: Settings) -> dict[tuple[str, str], float]:
    sample: dict[tuple[str, str], float] = {}
    for pid, name in names.items():
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        sample[f"{name}, resident", "MiB"] = pages * os.sysconf("SC_PAGE_SIZE") / MIB
        sample[f"{name}, open", "files"] = len(os.listdir(f"/proc/{pid}/fd"))
    url = running_redis_url(settings)
    assert url is not None
    with Redis.from_url(url) as client:
        sample["in Redis", "MiB"] = int(client.info("memory")["used_memory"]) / MIB
    return sample
