"""What each worker costs Redis beside the requests: it reads what is trending, and how full the click log is.

    python -m benchmarks.idle --shards 16 64 256

Processor time of Redis (`INFO cpu`) for one round, which each worker does every
NEXTCLICK_TRENDING_REFRESH_SECONDS, by the service's own store; every shard is full of trending items (as
many as NEXTCLICK_TRENDING_MAX_ITEMS by default). Beside it, which share of the shards the busiest master of
a cluster has, where each has as many slots as the others: keys of a shard lie in one slot.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

from redis import Redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from service.live.trending import KEPT
from service.process.embedded_redis import EmbeddedRedis
from service.process.settings import Settings
from service.state.keys import Keys
from service.state.store import SessionStore

MASTERS = (3, 6, 18)


def busiest(shards: int, masters: int) -> float:
    """The share of the shards on the master that has most of them."""
    slots = [key_slot(f"{{{shard}}}".encode()) for shard in range(shards)]
    on = Counter(slot * masters // REDIS_CLUSTER_HASH_SLOTS for slot in slots)
    return round(max(on.values()) / shards, 3)


async def measured(shards: int, rounds: int) -> dict[str, float]:
    """Microseconds of Redis' processor for a round, and what a hundred workers make of that."""
    with tempfile.TemporaryDirectory() as directory, EmbeddedRedis(Path(directory)) as server:
        settings = Settings(redis_timeout_seconds=60, shards=shards)
        store = SessionStore(settings, server.url)
        await store.ping()
        keys = Keys(settings.redis_prefix)
        with Redis.from_url(server.url) as client:
            for shard in range(shards):
                items = {f"sku-{number:06}": 1.0 + number for number in range(settings.trending_max_items)}
                counts, origin = keys.trending(shard)
                client.zadd(counts, items)
                client.set(origin, f"{time.time()} {settings.trending_half_life_seconds}")

            def spent() -> float:
                told = client.info("cpu")
                return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])

            await store.trending(KEPT)
            before = spent()
            for _ in range(rounds):
                assert len(await store.trending(KEPT)) == KEPT
                await store.click_log()
            seconds = (spent() - before) / rounds
        await store.close()
    return {
        "shards": shards,
        "microseconds": round(seconds * 1e6),
        "cores_for_100_workers": round(100 * seconds / settings.trending_refresh_seconds, 3),
        **{f"busiest_of_{masters}": busiest(shards, masters) for masters in MASTERS},
    }


def main() -> None:
    """Print one JSON object for each number of shards."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    for shards in options.shards:
        print(json.dumps(asyncio.run(measured(shards, options.rounds))))


if __name__ == "__main__":
    main()
