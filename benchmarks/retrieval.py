"""What each kind of index costs and loses, by size of the catalogue, on one thread.

    python -m benchmarks.retrieval --bundle artifacts/bundles/<version> --data artifacts/data/diginetica

Item vectors, session vectors and test cases are a real bundle's. A smaller catalogue is its most popular
items; a larger one holds all of them and copies of them, each with noise of 0.3 of its length, at length 1
again. Of each kind it measures the narrowest search that is sure to reach recall@20 >= 0.99, as export does,
or the widest. `lost` is what answers by that index score less than answers by exact search, in points of
Recall@20 and MRR@20, over test cases whose target is in the catalogue. The yardstick multiplies session and
item vectors and takes the best 20, in eager PyTorch. `--large` adds 10 million items, and builds HNSW beyond
100,000.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from service.ranking.bundle import Bundle
from service.ranking.retriever import Items, Retriever, Vectors, search_threads
from training.bundling.indexes import (
    CANDIDATES,
    INDEX_SESSIONS,
    MAX_HNSW_ITEMS,
    TOP,
    Candidate,
    build,
    narrowest,
    nearest_scores,
)
from training.data.dataset import Dataset
from training.learn.batches import Examples
from training.measure.metrics import MISSED, Ranks, mrr_at_k, recall_at_k

SIZES = (10_000, 43_097, 100_000, 1_000_000)
LARGE = 10_000_000
CASES = 5000  # test cases of the losses
TIMED = 300  # searches
NOISE = 0.3
WARM_UP = 20
SEED = 0


def catalogue(vectors: Vectors, n_items: int) -> Vectors:
    """So many item vectors, the real ones first."""
    if n_items <= len(vectors):
        return vectors[:n_items].copy()
    rng = np.random.default_rng(SEED)
    grown = np.empty((n_items, vectors.shape[1]), dtype=np.float32)
    grown[: len(vectors)] = vectors
    for start in range(len(vectors), n_items, len(vectors)):
        part = grown[start : start + len(vectors)]
        noise = rng.standard_normal(part.shape, dtype=np.float32)
        part[:] = vectors[: len(part)] + NOISE / np.sqrt(vectors.shape[1]) * noise
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return grown


def sampled_cases(bundle: Bundle, data: Dataset) -> tuple[list[list[int]], Items]:
    """Prefixes of test sessions at random, and their targets; none whose items are unknown."""
    if list(bundle.items[1:]) != list(data.items):
        raise ValueError(f"{bundle.path}: its items are not those of {data.path}")
    examples = Examples.of(data.test, "prefixes", bundle.encoder.max_length)
    drawn = examples.batch(np.random.default_rng(SEED).permutation(len(examples))[: 2 * CASES])
    prefixes = [row[row > 0].tolist() for row in drawn.sessions.numpy()]
    targets = drawn.targets.numpy()
    known = [case for case, prefix in enumerate(prefixes) if prefix and targets[case] > 0]
    return [prefixes[case] for case in known], targets[known]


def quantiles(search: Callable[[Vectors], object], queries: Vectors) -> dict[str, float]:
    """Microseconds of one query, in the middle and at the worst of a hundred."""
    seconds = []
    with search_threads(1):
        for number in range(WARM_UP + TIMED):
            query = queries[number % len(queries)][None, :]
            started = time.perf_counter()
            search(query)
            seconds.append(time.perf_counter() - started)
    p50, p99 = np.percentile(seconds[WARM_UP:], (50, 99)) * 1e6
    return {"p50_us": round(float(p50), 1), "p99_us": round(float(p99), 1)}


def ranks(retriever: Retriever, queries: Vectors, targets: Items) -> Ranks:
    """Where each target stands among the 20 answered."""
    hit = retriever.search(queries, TOP)[1] == targets[:, None]
    return np.where(hit.any(1), hit.argmax(1) + 1, MISSED)


def measure(
    candidate: Candidate, vectors: Vectors, queries: Vectors, targets: Items, exact: Ranks, directory: Path
) -> dict[str, object]:
    """One row of the table."""
    file = directory / "index"
    began = time.perf_counter()
    build(candidate, vectors, file)
    seconds = time.perf_counter() - began
    sample = queries[:INDEX_SESSIONS]
    served, recall = narrowest(candidate, vectors, sample, nearest_scores(vectors, sample), file)
    own = ranks(served, queries, targets)
    return {
        "items": len(vectors),
        "index": str(candidate),
        "breadth": served.breadth,
        "build_seconds": round(seconds, 1),
        "megabytes": round(file.stat().st_size / 1e6, 1),
        **quantiles(lambda query: served.search(query, TOP), queries),
        "recall@20_of_exact": round(recall, 4),
        "lost_recall@20": round(100 * (recall_at_k(exact, TOP) - recall_at_k(own, TOP)), 3),
        "lost_mrr@20": round(100 * (mrr_at_k(exact, TOP) - mrr_at_k(own, TOP)), 3),
    }


def eager(vectors: Vectors, queries: Vectors) -> dict[str, object]:
    """Full scoring by PyTorch, on one thread."""
    items, threads = torch.from_numpy(vectors), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            found = quantiles(lambda query: (torch.from_numpy(query) @ items.T).topk(TOP), queries)
    finally:
        torch.set_num_threads(threads)
    return {"items": len(vectors), "index": "eager PyTorch", **found}


def rows_of(
    n_items: int, bundle_vectors: Vectors, queries: Vectors, targets: Items, wanted: Sequence[Candidate]
) -> list[dict[str, object]]:
    """All that is measured at one size of the catalogue, printed as it comes."""
    vectors = catalogue(bundle_vectors, n_items)
    inside = targets <= n_items
    queries, targets = queries[inside][:CASES], targets[inside][:CASES]
    exact = ranks(Retriever.build(vectors, "flat"), queries, targets)
    rows = [eager(vectors, queries)]
    print(json.dumps(rows[0]), flush=True)
    for candidate in wanted:
        with tempfile.TemporaryDirectory() as directory:
            rows.append(measure(candidate, vectors, queries, targets, exact, Path(directory)))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> int:
    """Print one JSON object a row, and write them all to artifacts/benchmarks/retrieval.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="the data set that it was trained on")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("artifacts/benchmarks/retrieval.json"))
    options = parser.parse_args()
    bundle = Bundle.load(options.bundle)
    prefixes, targets = sampled_cases(bundle, Dataset.load(options.data))
    queries = bundle.encoder.encode(prefixes)
    rows = []
    for n_items in [*options.sizes, *([LARGE] if options.large else [])]:
        wanted = [
            candidate
            for of_kind in CANDIDATES.values()
            for candidate in of_kind
            if candidate.kind != "hnsw" or n_items <= MAX_HNSW_ITEMS or options.large
        ]
        rows += rows_of(n_items, bundle.retriever.vectors(), queries, targets, wanted)
    report = {"bundle": bundle.manifest.version, "cores": os.cpu_count(), "rows": rows}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
