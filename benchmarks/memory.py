"""What a session, a logged click and an item of the catalogue take in memory.

    python -m benchmarks.memory --sessions 20000 --items 100000 --dim 100

Redis: `used_memory` before and after real clicks through the service's own store. A worker: its memory before
and after it loads a bundle of a GRU of that size (untrained: weights take the same room), as the system
counts it: `Rss` all of it, `Pss` with pages that workers share divided among them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from redis import Redis

from models.gru import GRUEncoder
from models.sessions import Sessions
from service.live.follower import load_bundle
from service.process.embedded_redis import EmbeddedRedis
from service.process.settings import Settings
from service.ranking.retriever import use_one_thread
from service.ranking.served import ServedBundle
from service.state.store import Arrival, Click, SessionStore
from training.bundling.export import export_bundle
from training.bundling.provenance import Provenance

MEAN_CLICKS = 4.5  # as in the click data sets


async def redis_bytes(sessions: int) -> dict[str, float]:
    """Bytes of a session, and of one of its clicks in the log."""
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as directory, EmbeddedRedis(Path(directory)) as server:
        store = SessionStore(Settings(redis_timeout_seconds=10), server.url)
        await store.ping()
        with Redis.from_url(server.url) as client:

            def used() -> int:
                return int(client.info("memory")["used_memory"])

            before, clicks = used(), 0
            for number in range(sessions):
                length = min(50, 1 + int(rng.expovariate(1 / (MEAN_CLICKS - 1))))
                clicks += length
                items = [f"sku-{rng.randrange(40_000):06}" for _ in range(length)]
                arrivals = [
                    Arrival(f"{number:032x}", Click(item, time.time(), event_id=f"{rng.getrandbits(64):x}"))
                    for item in items
                ]
                await store.append_many(arrivals)
            with_all = used()
            for key in client.scan_iter("clicks:*", count=1000):
                client.delete(key)
            without_log = used()
            for pattern in ("s:*", "m:*"):
                for key in client.scan_iter(pattern, count=1000):
                    client.delete(key)
            without_sessions = used()
        await store.close()
    return {
        "sessions": sessions,
        "clicks": clicks,
        "session_bytes": round((without_log - without_sessions) / sessions),
        "logged_click_bytes": round((with_all - without_log) / clicks),
        "trending_bytes": without_sessions - before,
    }


def write_bundle(artifacts: Path, items: int, dim: int) -> float:
    """A bundle of that many items; returns the mebibytes of its files."""
    rng = np.random.default_rng(1)
    clicks = rng.integers(1, items + 1, 2000)
    clicks[-1] = items
    sessions = Sessions(clicks.astype(np.int32), np.arange(0, 2001, 5), items)
    sample = [clicks[start : start + 5].tolist() for start in range(0, 500, 5)]
    model = GRUEncoder.build(sessions, dim=dim)
    origin = Provenance("gru", 1, {}, "benchmark", "benchmark")
    names = [f"sku-{number:08}" for number in range(items)]
    path = export_bundle(model, names, sample, origin, artifacts, "v1", lambda _: {})
    return sum(file.stat().st_size for file in path.iterdir()) / 2**20


def worker(artifacts: Path, answer: Connection) -> None:
    """What a worker does with a bundle; sends (Rss, Pss) in KiB before and after."""
    use_one_thread()
    before = memory()
    model = ServedBundle.of(load_bundle(artifacts, "v1"))
    answer.send((before, memory(), model.version))
    answer.recv()


def memory() -> tuple[int, int]:
    """Rss and Pss of this process, KiB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return kib["Rss"], kib["Pss"]


def worker_mebibytes(items: int, dim: int, workers: int) -> dict[str, float]:
    """Growth of each of several workers that load the same bundle, the last one's figures."""
    with tempfile.TemporaryDirectory() as directory:
        artifacts = Path(directory)
        files = write_bundle(artifacts, items, dim)
        context = multiprocessing.get_context("spawn")
        running = []
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=worker, args=(artifacts, theirs))
            process.start()
            before, after, _ = ours.recv()
            running.append((process, ours))
        for process, ours in running:
            ours.send("done")
            process.join()
    return {
        "items": items,
        "dim": dim,
        "workers": workers,
        "files_mib": round(files, 1),
        "rss_mib": round((after[0] - before[0]) / 1024, 1),
        "pss_mib": round((after[1] - before[1]) / 1024, 1),
    }


def main() -> None:
    """Print one JSON object for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    print(json.dumps({"redis": asyncio.run(redis_bytes(options.sessions))}))
    print(json.dumps({"worker": worker_mebibytes(options.items, options.dim, options.workers)}))


if __name__ == "__main__":
    main()
