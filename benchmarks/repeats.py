"""What a table for repeats costs an answer: the bundle's own ranker, with a table and without, by turns.

    python -m benchmarks.repeats [--bundle artifacts/bundles/niser-…]

Processor time of `NearestItems.rank` beyond its encoder, one thread, for one session at a time and for some
that are ranked together. Without a bundle the catalogue is made up: random unit vectors in lists of fp16
codes, as an export of that size has them. Sessions are made up, too: a fifth of their clicks are repeats.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.load.report import hardware
from service.ranking.bundle import Bundle
from service.ranking.ranker import NearestItems
from service.ranking.repeats import Repeats, RepeatTable
from service.ranking.retriever import Retriever, Vectors, search_threads

TOP = 20
ITEMS, DIM, BREADTH = 43_097, 100, 12
MAX_LENGTH = 50
REPEATED = 0.2
SESSIONS = 2048
TABLES = {
    "a table that raises": RepeatTable(by_distance=(0.02, 0.1, 0.07, 0.05), by_count=(0.0, 0.05, 0.08)),
    "a table that also lowers": RepeatTable(by_distance=(-0.3, 0.1, 0.07, 0.05), by_count=(0.0, 0.05, 0.08)),
}

Batch = tuple[Vectors, list[list[int]]]
T = TypeVar("T")


def sessions(n_items: int, rng: np.random.Generator) -> list[list[int]]:
    """Sessions of one to many clicks, four on average."""
    made = []
    for length in np.minimum(rng.geometric(0.25, SESSIONS), MAX_LENGTH):
        clicks = [int(rng.integers(1, n_items + 1))]
        while len(clicks) < length:
            again = rng.random() < REPEATED
            clicks.append(int(rng.choice(clicks)) if again else int(rng.integers(1, n_items + 1)))
        made.append(clicks)
    return made


def made_up(rng: np.random.Generator) -> Retriever:
    """As an export of so many items has it."""
    vectors = rng.normal(size=(ITEMS, DIM)).astype(np.float32)
    retriever = Retriever.build(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), "ivf-sq")
    return retriever.searching(BREADTH)


def microseconds(
    calls: dict[str, Callable[[T], object]], batches: Sequence[T], sessions: int, rounds: int
) -> dict[str, float]:
    """Of processor time for a session, the median of rounds; in each round all calls take their turn."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + rounds):
        for name, call in calls.items():
            began = time.process_time_ns()
            for batch in batches:
                call(batch)
            found[name].append((time.process_time_ns() - began) / 1e3 / sessions)
    return {name: median(each[1:]) for name, each in found.items()}  # the first warms up


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="a bundle of an encoder; its own table is not used")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--together", type=int, nargs="+", default=[1, 8], help="sessions that are ranked at once"
    )
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    bundle = Bundle.load(options.bundle) if options.bundle else None
    if bundle is not None and not isinstance(bundle.ranker, NearestItems):
        parser.error(f"{options.bundle}: ranks by neighbours, and has no such table")
    retriever = bundle.retriever if bundle else made_up(rng)
    clicks = sessions(retriever.n_items, rng)
    near = 0.7 * retriever.vectors_of(np.array([each[-1] for each in clicks]))
    vectors = near + 0.3 / np.sqrt(near.shape[1]) * rng.normal(size=near.shape).astype(np.float32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    repeats = {name: Repeats.of(table, MAX_LENGTH) for name, table in TABLES.items()}

    def without(batch: Batch) -> object:
        return retriever.search_each(batch[0], [TOP] * len(batch[1]), [()] * len(batch[1]))

    def with_(table: Repeats) -> Callable[[Batch], object]:
        return lambda batch: table.rank(
            retriever, batch[0], batch[1], [TOP] * len(batch[1]), [()] * len(batch[1])
        )

    calls = {"no table": without, **{name: with_(each) for name, each in repeats.items()}}
    machine = ", ".join(f"{name} {value}" for name, value in hardware().items())
    of = bundle.manifest.version if bundle else f"made up, {retriever.n_items:,} items in lists of fp16 codes"
    drawn = Table(title=f"{of}; {machine}")
    drawn.add_column("µs of processor time a session")
    for name in (f"{together} at once" for together in options.together):
        drawn.add_column(name, justify="right")
        drawn.add_column("more", justify="right")
    columns = []
    with search_threads(1):
        for together in options.together:
            starts = range(0, len(clicks), together)
            batches = [(vectors[at : at + together], clicks[at : at + together]) for at in starts]
            columns.append(microseconds(calls, batches, len(clicks), options.rounds))
    for name in calls:
        cells = [(column[name], column[name] - column["no table"]) for column in columns]
        drawn.add_row(name, *(f"{value:.1f}" for pair in cells for value in pair))
    Console(width=120).print(drawn)
    return 0


if __name__ == "__main__":
    sys.exit(main())
