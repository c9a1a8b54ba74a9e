"""What a recommendation takes over HTTP by size of the catalogue, at a fixed rate in an open loop.

    python -m benchmarks.sizes --artifacts artifacts --data artifacts/data/diginetica --rate 1000

The catalogues are those of `benchmarks.retrieval`: the most popular items, or all of them and noisy copies.
Each has a bundle with the live one's encoder and the index that export chooses for it, and a service of its
own; sessions are real ones, and what a smaller catalogue does not hold is unknown to it. Beside it stands one
scoring of the whole catalogue in eager PyTorch, without HTTP, Redis and encoder. Exits with 1 if a request
failed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from rich.console import Console
from rich.table import Table

from benchmarks.load.__main__ import add_sessions_option, clicks_for, live_bundle
from benchmarks.load.measure import Measure, measured
from benchmarks.load.processes import service
from benchmarks.load.report import Row, hardware, middle
from benchmarks.retrieval import catalogue, eager
from service.live.deployment import publish
from service.ranking.bundle import (
    ENCODER,
    ENCODER_DATA,
    INDEX,
    ITEMS,
    LOOKUP,
    Bundle,
    IndexInfo,
    Manifest,
    read_manifest,
    write_items,
    write_lookup,
    write_manifest,
)
from service.ranking.checksums import file_sha256
from service.ranking.retriever import Vectors
from training.bundling.indexes import FASTEST, INDEX_SESSIONS, write_index

SIZES = (10_000, 43_097, 100_000, 1_000_000)


def grown(live: Bundle, n_items: int, queries: Vectors, artifacts: Path) -> Path:
    """Publish a bundle of so many items there; one that is there already stays."""
    version = f"{live.manifest.version}-{n_items}"
    path = artifacts / "bundles" / version
    if not (path / "manifest.json").exists():
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        grow_encoder(live.path / ENCODER, path / ENCODER, live.manifest.n_items, n_items)
        vectors = catalogue(live.retriever.vectors(), n_items)
        names = live.items[1 : n_items + 1]
        copies = [f"copy-{number}" for number in range(n_items - len(names))]
        write_items(path / ITEMS, [*names, *copies])
        write_lookup(path)
        info = write_index(vectors, queries, FASTEST, path / INDEX)
        files = {name: file_sha256(path / name) for name in (*live.manifest.required, LOOKUP)}
        write_manifest(
            path,
            live.manifest.model_copy(
                update={"version": version, "n_items": n_items, "index": info, "files": files}
            ),
        )
    publish(artifacts, version)
    return path


def grow_encoder(source: Path, target: Path, n_known: int, n_items: int) -> None:
    """The same encoder, whose tables have rows for so many items at least: those of the real ones again."""
    model = onnx.load(source)
    rows = np.arange(n_known + 1, n_items + 1)
    for table in model.graph.initializer:
        if len(table.dims) == 2 and table.dims[0] == n_known + 1:
            values = numpy_helper.to_array(table)
            more = values[(rows - 1) % n_known + 1]
            table.CopyFrom(numpy_helper.from_array(np.concatenate([values, more]), table.name))
    onnx.save(model, target, save_as_external_data=True, location=ENCODER_DATA)


def index_of(manifest: Manifest) -> IndexInfo:
    """The index of an encoder's bundle, which always has one."""
    assert manifest.index is not None
    return manifest.index


def print_table(
    rows: Mapping[str, Row],
    indexes: Mapping[str, IndexInfo],
    scored: Mapping[str, Mapping[str, object]],
    title: str,
) -> None:
    """One line for each size."""
    drawn = Table(title=title)
    for name in ("items", "index", "recall", "p50", "p90", "p99", "service, µs", "eager p50", "eager p99"):
        drawn.add_column(name, justify="left" if name == "index" else "right")
    for what, row in rows.items():
        index = indexes[what]
        drawn.add_row(
            what,
            f"{index.kind} {index.codes or ''}",
            f"{index.recall_at_20:.4f}",
            *(f"{row.milliseconds[quantile]:.2f}" for quantile in ("p50", "p90", "p99")),
            f"{row.cpu_microseconds['service']:,.0f}",
            *(f"{float(str(scored[what][name])) / 1000:.2f}" for name in ("p50_us", "p99_us")),
        )
    drawn.caption = "p50 to p99 and eager PyTorch in ms"
    Console(width=120).print(drawn)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and write it to benchmarks/sizes.json among the artifacts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    parser.add_argument("--data", type=Path, help="as for benchmarks.load")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1000, help="recommendations a second")
    parser.add_argument("--seconds", type=float, default=20, help="of each of three runs, behind a ramp")
    add_sessions_option(parser)
    options = parser.parse_args(arguments)
    live = Bundle.load(live_bundle(options.artifacts))
    clicks = clicks_for(options.artifacts, options.data)
    sessions = (
        [live.index_of[item_id] for item_id in item_ids if item_id in live.index_of] for item_ids in clicks(0)
    )
    queries = live.encoder.encode(list(islice(filter(None, sessions), INDEX_SESSIONS)))
    measure = Measure(clicks, options.seconds, options.rate, 16, options.sessions)
    machine = hardware()
    scored, indexes, lines = {}, {}, []
    with ExitStack() as stack:
        for n_items in options.sizes:
            place = options.artifacts / "benchmarks" / f"items-{n_items}"
            place.mkdir(parents=True, exist_ok=True)
            what = f"{n_items:,}"
            indexes[what] = index_of(read_manifest(grown(live, n_items, queries, place)))
            scored[what] = eager(catalogue(live.retriever.vectors(), n_items), queries)
            running = stack.enter_context(service(place, options.workers))
            lines.append(measure.recommendations_at_rate(what, running))
        runs = measured(lines)
    kept = {what: middle(rows) for what, rows in runs.items()}
    print_table(kept, indexes, scored, f"{live.manifest.version}, {options.rate:g} recommendations a second")
    report = [
        {"index": indexes[what].model_dump(), "eager": scored[what], **asdict(row)}
        for what, row in kept.items()
    ]
    file = options.artifacts / "benchmarks" / "sizes.json"
    file.write_text(json.dumps({"machine": machine, "rows": report}, indent=2) + "\n")
    return 1 if any(row.errors for rows in runs.values() for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
