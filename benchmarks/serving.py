"""Closed-loop load on the live bundle: clicks and recommendations over keep-alive connections.

    python -m benchmarks.serving --artifacts artifacts --workers 1 --concurrency 16 --seconds 20

Starts its own service on a free port with its own Redis. Every answer must be 200, and every recommendation
hold 20 items. The yardstick is the same service's /health/live, which does nothing: the ratio says what a
request costs beside HTTP itself. Load generator, service and Redis share the machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.bundle import ITEMS, read_items
from service.deployment import FILE, bundle_path, read_deployment

READY_SECONDS = 60
Request = tuple[bytes, bool]  # what to send, and whether the answer must hold 20 items


@dataclass
class Tally:
    """What the connections saw."""

    milliseconds: list[float]
    errors: int = 0

    def row(self, name: str, seconds: float) -> dict[str, str | float | int]:
        ordered = sorted(self.milliseconds)
        quantiles = {f"p{q}_ms": round(ordered[int(len(ordered) * q / 100)], 2) for q in (50, 90, 99)}
        return {
            "what": name,
            "requests": len(ordered),
            "errors": self.errors,
            "per_second": round(len(ordered) / seconds),
            **quantiles,
        }


def shopper(items: list[str], seed: int) -> Callable[[], Request]:
    """Alternates a click and a recommendation; items by a Zipf law, a new session every 1 to 15 clicks."""
    rng = random.Random(seed)
    weights = [1 / (rank + 10) for rank in range(len(items))]
    clicked = iter(rng.choices(items, weights, k=200_000))
    session, left, click_next = "", 0, True

    def next_request() -> Request:
        nonlocal session, left, click_next
        if click_next:
            if left == 0:
                session, left = f"load-{seed}-{rng.getrandbits(48):x}", min(15, int(rng.paretovariate(0.8)))
            left -= 1
            click_next = False
            body = json.dumps({"item_id": next(clicked)}).encode()
            head = f"POST /sessions/{session}/click HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            return head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body, False
        click_next = True
        return f"GET /recommend?session_id={session} HTTP/1.1\r\nhost: x\r\n\r\n".encode(), True

    return next_request


def nothing() -> Request:
    """The yardstick's request."""
    return b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n", False


async def connection(port: int, next_request: Callable[[], Request], until: float, tally: Tally) -> None:
    """Send, wait, check, repeat, on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        request = next_request()
        began = time.perf_counter()
        tally.errors += await ask(reader, writer, request) is None
        tally.milliseconds.append(1000 * (time.perf_counter() - began))
    writer.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Request) -> bytes | None:
    """Send a request and read its answer; None when it is not what it should be."""
    content, items_wanted = request
    writer.write(content)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    good = head.startswith(b"HTTP/1.1 200") and (not items_wanted or body.count(b'"item_id"') == 20)
    return body if good else None


async def load(port: int, requests: list[Callable[[], Request]], seconds: float) -> Tally:
    """One connection for each source of requests, all at once."""
    tally = Tally([])
    until = time.perf_counter() + seconds
    await asyncio.gather(*(connection(port, source, until, tally) for source in requests))
    return tally


@dataclass(frozen=True)
class Running:
    """A service, and the artifacts that are its own: publishing there changes nothing elsewhere."""

    port: int
    artifacts: Path


@contextmanager
def service(artifacts: Path, workers: int, **settings: str) -> Iterator[Running]:
    """A service on what is live in `artifacts`, with state of its own; `settings` are NEXTCLICK_... names."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        own = Path(directory)
        (own / "bundles").symlink_to((artifacts / "bundles").resolve())
        shutil.copy(artifacts / FILE, own / FILE)
        environment = {**os.environ, "NEXTCLICK_ARTIFACTS_DIR": directory, "NEXTCLICK_LOG_LEVEL": "warning"}
        environment |= settings
        command = [sys.executable, "-m", "service", "--port", str(port), "--workers", str(workers)]
        process = subprocess.Popen(command, env=environment)
        try:
            deadline = time.monotonic() + READY_SECONDS
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=1).close()
                    break
                except (urllib.error.URLError, TimeoutError):
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError("the service did not become ready") from None
                    time.sleep(0.2)
            yield Running(port, own)
        finally:
            process.terminate()
            process.wait()


def main() -> int:
    """Print one JSON line per measurement; returns 1 if any request failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    champion = read_deployment(options.artifacts).champion
    if champion is None:
        parser.error(f"{options.artifacts}: nothing is published there")
    items = read_items(bundle_path(options.artifacts, champion) / ITEMS)
    shoppers = [shopper(items, seed) for seed in range(options.concurrency)]
    with service(options.artifacts, options.workers) as running:
        asyncio.run(load(running.port, shoppers, 2))  # warm up
        mixed = asyncio.run(load(running.port, shoppers, options.seconds))
        idle = asyncio.run(load(running.port, [nothing] * options.concurrency, options.seconds / 4))
    rows = [
        mixed.row("click / recommend, half each", options.seconds),
        idle.row("yardstick: /health/live", options.seconds / 4),
    ]
    for row in rows:
        print(json.dumps({"items": len(items), "workers": options.workers, **row}))
    print(f"ratio to the yardstick: {rows[0]['per_second'] / rows[1]['per_second']:.2f}")  # type: ignore[operator]
    return 1 if mixed.errors else 0


if __name__ == "__main__":
    sys.exit(main())
