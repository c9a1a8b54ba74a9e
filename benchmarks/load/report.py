"""From what the loops saw to a table: quantiles, processor time for a request, the middle of three runs."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
from rich.table import Table

from benchmarks.load.client import GOOD, SHED
from benchmarks.load.loops import Seen
from service.process.embedded_redis import find_redis_server

QUANTILES = (50, 90, 99, 99.9)


@dataclass(frozen=True)
class Row:
    """One run, or the middle one of several."""

    what: str
    requests: int
    per_second: float  # answered as they should be
    errors: int
    shed: int
    milliseconds: dict[str, float]  # quantiles of the good answers, from when they were due; may be empty
    shed_milliseconds: dict[str, float]  # and of the others
    late_milliseconds: dict[str, float]  # from when all were due until they were sent
    cpu_microseconds: dict[str, float]  # for each request that was sent
    complaints: list[str]

    @classmethod
    def of(cls, what: str, seen: Seen) -> Row:
        """What a run came to."""
        good, shed = seen.outcome == GOOD, seen.outcome == SHED
        answered = int((seen.outcome > 0).sum())
        return cls(
            what=what,
            requests=len(seen.outcome),
            per_second=round(int(good.sum()) / seen.seconds, 1) if seen.seconds else 0.0,
            errors=len(seen.outcome) - int(good.sum()) - int(shed.sum()),
            shed=int(shed.sum()),
            milliseconds=_quantiles(seen.took[good]),
            shed_milliseconds=_quantiles(seen.took[shed]),
            late_milliseconds=_quantiles(seen.late[seen.outcome > 0]),
            cpu_microseconds={
                name: round(1e6 * seconds / max(1, answered), 1) for name, seconds in vars(seen.cpu).items()
            },
            complaints=seen.complaints,
        )


def middle(runs: Sequence[Row]) -> Row:
    """The run whose p90 is the median one; one without a good answer counts as the slowest."""
    ordered = sorted(runs, key=lambda run: run.milliseconds.get("p90", np.inf))
    return ordered[len(ordered) // 2]


def ratio(runs: Sequence[Row], yardstick: Sequence[Row]) -> float:
    """The middle one of the ratios of rates of runs that took turns; 0 where a yardstick never answered."""
    pairs = zip(runs, yardstick, strict=True)
    return median(run.per_second / other.per_second if other.per_second else 0.0 for run, other in pairs)


def table(rows: Sequence[Row], title: str) -> Table:
    """One line for each row."""
    drawn = Table(title=title, title_justify="left")
    drawn.add_column("what")
    times = [f"p{quantile:g}" for quantile in QUANTILES]
    for name in ("req/s", *times, "errors", "shed", "shed p99", "service", "redis", "generator"):
        drawn.add_column(name, justify="right")
    for row in rows:
        drawn.add_row(
            row.what,
            f"{row.per_second:,.0f}",
            *(_shown(row.milliseconds.get(name)) for name in times),
            f"{row.errors:,}",
            f"{row.shed:,}",
            _shown(row.shed_milliseconds.get("p99")),
            *(f"{microseconds:,.0f}" for microseconds in row.cpu_microseconds.values()),
        )
    drawn.caption = "p50 to p99.9 in ms; service, redis and generator: processor time for each request in µs"
    return drawn


def hardware() -> dict[str, str | int | float]:
    """What the figures are of."""
    described = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in described if line.startswith("model name")]
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    said = subprocess.run(
        [find_redis_server(), "--version"], capture_output=True, text=True, check=True
    ).stdout
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_bytes / 2**30, 1),
        "python": platform.python_version(),
        "redis": said.partition("v=")[2].split()[0],
        "load_average": round(os.getloadavg()[0], 2),
    }


def _quantiles(seconds: npt.NDArray[np.float64]) -> dict[str, float]:
    if not len(seconds):
        return {}
    found = np.percentile(1000 * seconds, QUANTILES)
    return {
        f"p{quantile:g}": round(float(value), 2) for quantile, value in zip(QUANTILES, found, strict=True)
    }


def _shown(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:,.1f}"
