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

from benchmarks.serving import Request, Running, ask, service, shopper
from service.bundle import ITEMS, read_items
from service.deployment import bundle_path, read_deployment, rollback

CONNECTIONS = 64
CALM_SECONDS = 3.0  # between two swaps
VERSION = re.compile(rb'"version":"([^"]+)"')


class OpenLoop:
    """Requests at a fixed rate, whatever becomes of those before."""

    def __init__(self, port: int, items: list[str], rate: float) -> None:
        self._port, self._rate = port, rate
        self._next_request = shopper(items, seed=1)
        self._free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self.due: list[float] = []
        self.milliseconds: list[float] = []
        self.versions: list[str] = []  # that answered; empty for a click
        self.errors = 0

    async def run(self, stop: asyncio.Event) -> None:
        for _ in range(CONNECTIONS):
            self._free.put_nowait(await asyncio.open_connection("127.0.0.1", self._port))
        requests: list[asyncio.Task[None]] = []
        due = time.perf_counter()
        while not stop.is_set():
            due += 1 / self._rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            requests.append(asyncio.create_task(self._request(due, self._next_request())))
        await asyncio.gather(*requests)
        while not self._free.empty():
            self._free.get_nowait()[1].close()

    async def _request(self, due: float, request: Request) -> None:
        connection = await self._free.get()
        body = await ask(*connection, request)
        self._free.put_nowait(connection)
        self.errors += body is None
        self.due.append(due)
        self.milliseconds.append(1000 * (time.perf_counter() - due))
        answered = VERSION.search(body or b"")
        self.versions.append(answered[1].decode() if answered else "")


async def measure(running: Running, items: list[str], options: argparse.Namespace) -> dict[str, object]:
    """Swap again and again under load; quantiles of both kinds of requests."""
    load, stop = OpenLoop(running.port, items, options.rate), asyncio.Event()
    loading = asyncio.create_task(load.run(stop))
    await asyncio.sleep(CALM_SECONDS)
    began = time.perf_counter()
    published: list[tuple[float, str]] = []
    for _ in range(options.swaps):
        champion = rollback(running.artifacts).champion
        assert champion is not None
        published.append((time.perf_counter(), champion))
        await asyncio.sleep(CALM_SECONDS)
    stop.set()
    await loading
    due, milliseconds, versions = np.array(load.due), np.array(load.milliseconds), np.array(load.versions)
    in_swap = np.zeros(len(due), dtype=bool)
    lasted = []
    for start, champion in published:
        by_old = (due >= start) & (due < start + CALM_SECONDS) & (versions != champion) & (versions != "")
        end = due[by_old].max(initial=start)
        lasted.append(end - start)
        in_swap |= (due >= start) & (due <= end)
    parts = {"calm": ~in_swap & (due >= began), "swap": in_swap}
    p99 = {name: float(np.percentile(milliseconds[mask], 99)) for name, mask in parts.items()}
    return {
        "rate": options.rate,
        "errors": load.errors,
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
