"""What an answer of a blend, and of its student, costs beside its slowest member.

    python -m benchmarks.blend --data artifacts/data/shop --members artifacts/bundles/… … --beside …

The bundles' own rankers, one thread, for one session at a time and for some that are ranked together, in
processor time; and the service under closed loops of clicks and recommendations. All take turns, and are
told as multiples of the slowest member.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.load.measure import Measure, measured
from benchmarks.load.processes import Running, service
from benchmarks.load.report import hardware, ratio
from benchmarks.load.traffic import real_clicks
from benchmarks.repeats import TOP, microseconds
from service.live.deployment import bundle_path, publish
from service.ranking.bundle import Bundle
from service.ranking.retriever import search_threads
from training.data.dataset import Dataset

SESSIONS = 1024


def prefixes(data: Dataset) -> list[list[int]]:
    """Of test sessions, each cut where a visitor may ask."""
    rng = np.random.default_rng(0)
    bounds = list(zip(data.test.offsets[:-1], data.test.offsets[1:], strict=True))
    cut = [data.test.items[a : rng.integers(a + 1, b + 1)] for a, b in bounds[: 2 * SESSIONS]]
    known = [part[part > 0].tolist() for part in cut]
    return [part for part in known if part][:SESSIONS]


def ranking(bundle: Bundle) -> Callable[[list[list[int]]], object]:
    """Twenty items for each of some sessions."""
    return lambda sessions: bundle.ranker.rank(sessions, [TOP] * len(sessions), [()] * len(sessions))


@contextmanager
def serving(bundle: Bundle, workers: int) -> Iterator[Running]:
    """The service with this bundle alone."""
    with tempfile.TemporaryDirectory() as directory:
        version, artifacts = bundle.manifest.version, Path(directory)
        place = bundle_path(artifacts, version)
        place.parent.mkdir()
        place.symlink_to(bundle.path.resolve())
        publish(artifacts, version)
        with service(artifacts, workers) as running:
            yield running


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns 1 if any request failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="what all of them are made of")
    parser.add_argument("--members", type=Path, nargs="+", required=True, help="bundles")
    parser.add_argument("--beside", type=Path, nargs="+", required=True, help="their blend, its student, …")
    parser.add_argument("--together", type=int, default=16, help="sessions that are ranked at once")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--closed", type=int, default=16, help="shoppers who wait for their answers")
    parser.add_argument("--seconds", type=float, default=5, help="of each of the three runs")
    options = parser.parse_args(arguments)
    data = Dataset.load(options.data)
    members = [Bundle.load(path) for path in options.members]
    bundles = {each.manifest.version: each for each in [*members, *map(Bundle.load, options.beside)]}
    sessions = prefixes(data)
    calls = {version: ranking(bundle) for version, bundle in bundles.items()}
    costs = []
    with search_threads(1):
        for together in (1, options.together):
            batches = [sessions[at : at + together] for at in range(0, len(sessions), together)]
            costs.append(microseconds(calls, batches, len(sessions), options.rounds))
    measure = Measure(lambda seed: real_clicks(data, seed), 3 * options.seconds, 0, options.closed, 0)
    with ExitStack() as stack:
        served = measured(
            [
                measure.closed_loop(version, stack.enter_context(serving(bundle, options.workers)))
                for version, bundle in bundles.items()
            ]
        )
    of_members = [member.manifest.version for member in members]
    slowest = [max(of_members, key=cost.__getitem__) for cost in costs]
    busiest = min(of_members, key=lambda version: median(row.per_second for row in served[version]))
    machine = ", ".join(f"{name} {value}" for name, value in hardware().items())
    drawn = Table(title=f"{data.info.n_items:,} items; {machine}", title_justify="left")
    drawn.add_column("bundle")
    for name in ("dim", "index", "µs alone", "times", f"µs of {options.together}", "times", "req/s", "times"):
        drawn.add_column(name, justify="right")
    for version, bundle in bundles.items():
        cells = [str(bundle.manifest.dim), bundle.manifest.index.kind if bundle.manifest.index else "–"]
        for cost, member in zip(costs, slowest, strict=True):
            cells += [f"{cost[version]:.0f}", f"{cost[version] / cost[member]:.2f}"]
        cells += [
            f"{median(row.per_second for row in served[version]):,.0f}",
            f"{1 / ratio(served[version], served[busiest]):.2f}",
        ]
        drawn.add_row(version, *cells)
    Console(width=150).print(drawn)
    return 1 if any(row.errors for rows in served.values() for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
