"""What the catalogue costs an answer: fields, filters, and changes; and what it holds in memory.

    python -m benchmarks.catalogue --bundle artifacts/bundles/<version>

One process and one thread answer sessions that are in the request: reading what is asked, model and search,
and the answer as JSON, but neither HTTP nor Redis. Each variant takes turns with plain answers to the same
sessions, so that what else the machine does meets both alike; `over_plain_us` is the middle of the
differences within a turn. (Were all of them to take turns, each would find the caches filled by eight
others.) Attributes are made up: about one item in a hundred is of a rare brand, prices are even from 0 to
100. Of changes it tells how long one piece of 200 holds up the event loop, with as many rules compiled as a
shop may have; of memory what columns hold for 100,000 items, ids and texts included.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import cast

import msgspec
import numpy as np

from service.catalogue.asked import Asked
from service.catalogue.attributes import KNOWN, Values
from service.catalogue.columns import Columns
from service.catalogue.filters import Filters
from service.catalogue.follower import AT_ONCE
from service.http.api import _recommendation
from service.live.deployment import Deployment
from service.live.follower import DeploymentFollower, load_bundle, snapshot_of
from service.live.quality import QualityMonitor
from service.live.trending import Trending
from service.process.settings import Settings
from service.ranking.bundle import Bundle
from service.ranking.retriever import use_one_thread
from service.recommender import Options, Recommender
from service.state.store import SessionStore

K = 20
ANSWERS = 2000  # of each variant
WARM_UP = 50
SESSIONS = 500
CHANGES = 200  # pieces
RULES = 50  # compiled while changes are applied
MEMORY_ITEMS = 100_000
SEED = 0
FIELDS = "title,price,image_url"

PLAIN = "plain"
HALF = {"attribute": "price", "lt": 50}
FILTERS: dict[str, dict[str, object] | None] = {
    PLAIN: None,
    "fields": None,
    "stored filter (half of the items)": HALF,
    "stored filter (nine in ten)": {"attribute": "price", "lt": 90},
    "selective filter (1 %)": {"attribute": "brand", "eq": "rare"},
    "selective filter (5 %)": {"attribute": "price", "lt": 5},
    "price range of the session": {"near": "price", "percent": 20},
    "category of the newest click": {"same": "categories"},
    "fields and stored filter": HALF,
}


def attributes(number: int, rng: np.random.Generator) -> Values:
    """Of a made-up item: a title of 40 characters, two categories, three tags, a price from 0 to 100."""
    return {
        "title": f"{number:>8} A very fine thing for your home!!"[:40],
        "url": f"https://shop.example.com/products/{number}/a-very-fine-thing",
        "image_url": f"https://images.example.com/{number}/front-800x800.webp",
        "categories": [f"category {c}" for c in rng.choice(200, 2, replace=False).tolist()],
        "brand": "rare" if rng.random() < 0.01 else f"brand {rng.integers(500)}",
        "tags": [f"tag {t}" for t in rng.choice(1000, 3, replace=False).tolist()],
        "price": round(float(rng.random() * 100), 2),
        "available": True,
    }


class FakeStore:
    """Nothing is trending: no stage but the model answers."""

    async def trending(self, limit: int) -> list[tuple[str, float]]:
        return []


def answering(bundle: Bundle, filters: Filters) -> Recommender:
    """A recommender of one bundle."""
    store = cast("SessionStore", FakeStore())
    follower = DeploymentFollower(bundle.path, poll_seconds=3600, filters=filters)
    follower.current = snapshot_of(Deployment(champion="it"), {"it": bundle}, None)
    return Recommender(store, follower, Trending(store), QualityMonitor(store, 0), Settings())


async def answers(bundle: Bundle, filters: Filters, n: int) -> dict[str, tuple[list[float], list[float]]]:
    """Microseconds of each answer, by variant, and of the plain ones that it took turns with."""
    recommender, asked = answering(bundle, filters), Asked(KNOWN)
    rng, encode = np.random.default_rng(SEED), msgspec.json.Encoder().encode
    popular = bundle.items[1 : 1 + min(5000, len(bundle.items) - 1)]
    sessions = [rng.choice(popular, rng.integers(1, 8)).tolist() for _ in range(SESSIONS)]
    texts = {name: None if rule is None else json.dumps(rule) for name, rule in FILTERS.items()}
    taken: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in FILTERS}

    async def answer(name: str, session: Sequence[str]) -> float:
        text = texts[name]
        began = time.perf_counter()
        rule = None if text is None else asked.query(text, (), None, None)
        fields = asked.fields(FIELDS, "fields") if "fields" in name else ()
        found = await recommender.recommend_items(session, Options(K, fields=fields, filter=rule))
        encode(_recommendation(found))
        seconds = time.perf_counter() - began
        assert len(found.items) == K
        return seconds * 1e6

    for name, pair in taken.items():
        for turn in range(WARM_UP + n):
            session = sessions[turn % len(sessions)]
            order = [(name, pair[0]), (PLAIN, pair[1])]
            for each, into in order if turn % 2 else reversed(order):
                microseconds = await answer(each, session)
                if turn >= WARM_UP:
                    into.append(microseconds)
    return taken


def changes(bundle: Bundle, filters: Filters) -> list[float]:
    """Microseconds that a piece of changes holds up the event loop."""
    rng = np.random.default_rng(SEED + 1)
    rules = [Asked(KNOWN).query(None, (), None, 1.0 + n) for n in range(RULES)]
    served = snapshot_of(Deployment(champion="it"), {"it": bundle}, None).champion
    assert served is not None
    for rule in rules:
        filters.served(served, rule)
    taken = []
    for _ in range(CHANGES):
        numbers = rng.integers(1, len(bundle.items), AT_ONCE).tolist()
        piece = [(bundle.items[number], attributes(number, rng)) for number in numbers]
        began = time.perf_counter()
        filters.apply(piece)
        taken.append((time.perf_counter() - began) * 1e6)
    return taken


def memory() -> dict[str, float]:
    """Megabytes of columns for 100,000 items, item ids included."""
    rng = np.random.default_rng(SEED)
    gc.collect()
    tracemalloc.start()
    columns = Columns(KNOWN)
    for start in range(0, MEMORY_ITEMS, AT_ONCE):
        numbers = range(start, start + AT_ONCE)
        items = [(f"sku-{number:08}", attributes(number, rng)) for number in numbers]
        # As they come from Redis: no two items share a string.
        columns.apply(msgspec.convert(json.loads(json.dumps(items)), list[tuple[str, dict[str, object]]]))
        del items
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    return {"megabytes_per_100k_items": round(held, 1), "rows": columns.n_rows}


def told(taken: Sequence[float]) -> dict[str, float]:
    return {"p50_us": round(median(taken), 1), "p99_us": round(quantiles(taken, n=100)[98], 1)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--answers", type=int, default=ANSWERS, help="of each variant")
    arguments = parser.parse_args()
    use_one_thread()
    artifacts, version = arguments.bundle.parents[1], arguments.bundle.name
    bundle = load_bundle(artifacts, version)
    filters, rng = Filters(KNOWN), np.random.default_rng(SEED)
    items = [(item_id, attributes(number, rng)) for number, item_id in enumerate(bundle.items[1:])]
    for start in range(0, len(items), AT_ONCE):
        filters.apply(items[start : start + AT_ONCE])
    filters.rows_of(bundle)
    taken = asyncio.run(answers(bundle, filters, arguments.answers))
    row: Callable[[str], dict[str, float]] = lambda name: {  # noqa: E731
        **told(taken[name][0]),
        "over_plain_us": round(median(a - b for a, b in zip(*taken[name], strict=True)), 1),
        "times_plain": round(median(taken[name][0]) / median(taken[name][1]), 2),
    }
    report = {
        "items": len(bundle.items) - 1,
        "index": bundle.manifest.index.kind if bundle.manifest.index else bundle.manifest.model,
        "answers": {name: row(name) for name in taken},
        "apply_200_changes": told(changes(bundle, filters)),
        "memory": memory(),
    }
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
