"""What a swap of bundles costs the requests that come meanwhile, open loop, at a fixed rate.

    python -m benchmarks.swap --artifacts artifacts --workers 2 --rate 300 --swaps 10

The live version and the one before it take turns. A request's latency counts from when it was due, so that
waiting for a busy service counts too. A swap lasts from its publication to the last answer by the version
before; requests due in that time are compared with all others, the calm of the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.load.client import GOOD
from benchmarks.load.loops import open_loop
from benchmarks.load.processes import CpuMeter, Running, service
from benchmarks.load.traffic import due_times, interleave, power_law_clicks, visits
from service.live.deployment import bundle_path, read_deployment, rollback
from service.ranking.bundle import ITEMS, read_items

CALM_SECONDS = 3.0  # between two swaps
EDGE_SECONDS = 0.5  # what is due this short before the next swap may be answered by the version after
VERSION = re.compile(rb'"version":"([^"]+)"')


async def measure(running: Running, items: list[str], options: argparse.Namespace) -> dict[str, object]:
    """Swap again and again under load; quantiles of both kinds of requests."""
    due = due_times(options.rate, CALM_SECONDS * (options.swaps + 1), 0)
    plan = interleave(visits(power_law_clicks(items, seed=1), "swap"), len(due), seed=1)
    versions = np.zeros(len(due), dtype="U128")  # that answered; empty for a click

    def look(number: int, body: bytes) -> None:
        if answered := VERSION.search(body):
            versions[number] = answered[1].decode()

    meter = CpuMeter(*running.pids)
    loading = asyncio.create_task(open_loop(running.port, plan, due, 0, meter.read, look))
    published: list[tuple[float, str]] = []
    for _ in range(options.swaps):
        await asyncio.sleep(CALM_SECONDS)
        start = time.perf_counter()
        # In a thread: writing and syncing the file shall not hold up the load.
        champion = (await asyncio.to_thread(rollback, running.artifacts)).champion
        assert champion is not None
        published.append((start, champion))
    seen = await loading
    in_swap = np.zeros(len(due), dtype=bool)
    lasted = []
    for published_at, champion in published:
        start = published_at - seen.start
        until = start + CALM_SECONDS - EDGE_SECONDS
        by_old = (due >= start) & (due < until) & (versions != champion) & (versions != "")
        end = due[by_old].max(initial=start)
        lasted.append(end - start)
        in_swap |= (due >= start) & (due <= end)
    parts = {"calm": ~in_swap & (due >= CALM_SECONDS), "swap": in_swap}
    if not parts["swap"].any():
        sys.exit(f"no request was due in a swap: take more than {options.rate:g} requests a second")
    milliseconds = 1000 * seen.took
    p99 = {name: float(np.percentile(milliseconds[mask], 99)) for name, mask in parts.items()}
    return {
        "rate": options.rate,
        "errors": int((seen.outcome != GOOD).sum()),
        "swap_seconds": round(float(np.median(lasted)), 2),
        **{
            name: {"requests": int(mask.sum())}
            | {f"p{q}_ms": round(float(np.percentile(milliseconds[mask], q)), 2) for q in (50, 90, 99)}
            for name, mask in parts.items()
        },
        "p99_ratio": round(p99["swap"] / p99["calm"], 2),
    }


def main() -> int:
    """Print one JSON object; returns 1 if any request failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rate", type=float, default=300, help="requests per second")
    parser.add_argument("--swaps", type=int, default=10)
    options = parser.parse_args()
    deployment = read_deployment(options.artifacts)
    if deployment.champion is None or deployment.previous is None:
        parser.error(f"{options.artifacts}: two versions must have been published there, one after the other")
    items = read_items(bundle_path(options.artifacts, deployment.champion) / ITEMS)
    at_once = {"NEXTCLICK_DEPLOYMENT_POLL_SECONDS": "0.02"}  # so that a swap is loading, not waiting for it
    with service(options.artifacts, options.workers, **at_once) as running:
        found = asyncio.run(measure(running, items, options))
    print(json.dumps({"items": len(items), "workers": options.workers, **found}))
    return 1 if found["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
