"""Load on the live bundle: open loop at a rate, closed loop beside yardsticks, one table.

    python -m benchmarks.load --artifacts artifacts --data artifacts/data/diginetica --workers 2 \\
        --rate 2000 --seconds 60 --closed 16 --yardsticks --torchserve torchserve-venv

Starts a service of its own, whose state is its own too; load generator, service and Redis share the machine's
cores. Each line is the middle one, by p90, of three runs behind a linear ramp. Every answer must be 200, and
every recommendation hold 20 items; 429 and 503 are counted apart, as shed. Exits with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks.load.measure import Clicks, Measure, measured, once
from benchmarks.load.processes import service, stub
from benchmarks.load.report import Row, hardware, middle, ratio, table
from benchmarks.load.torchserve import noop, torchserve
from benchmarks.load.traffic import get, power_law_clicks, real_clicks
from service.live.deployment import bundle_path, read_deployment
from service.ranking.bundle import ITEMS, read_items, read_manifest
from training.data.dataset import Dataset

OPEN, MIXED, ALONE = "service, open loop", "service", "service, recommendations"
HEALTH, STUB, STUB_ALONE, NOOP = "/health/live", "stub", "stub, recommendations", "TorchServe, empty handler"
RATIOS = ((MIXED, HEALTH), (MIXED, STUB), (ALONE, STUB_ALONE), (ALONE, NOOP))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and write benchmarks/load.json among the artifacts; returns 1 if any request failed."""
    options = _options(arguments)
    bundle = live_bundle(options.artifacts)
    clicks = clicks_for(options.artifacts, options.data)
    measure = Measure(clicks, options.seconds, options.rate, options.closed, options.sessions)
    machine = hardware()
    runs = _measured(measure, options, bundle)
    kept = {what: middle(rows) for what, rows in runs.items()}
    ratios = {
        f"{one} / {other}": round(ratio(runs[one], runs[other]), 2)
        for one, other in RATIOS
        if one in runs and other in runs
    }
    manifest = read_manifest(bundle)
    served = f"{manifest.version}, {manifest.n_items:,} items, {options.workers} workers"
    stated = ", ".join(f"{name} {value}" for name, value in machine.items())
    Console(width=150).print(table(list(kept.values()), f"{served}; {stated}"))
    for name, quotient in ratios.items():
        print(f"{name}: {quotient:.2f}")
    for row in (row for rows in runs.values() for row in rows):
        for complaint in row.complaints:
            print(f"{row.what}: {complaint}", file=sys.stderr)
    report = {
        "machine": machine,
        "bundle": manifest.model_dump(mode="json", include={"version", "model", "n_items", "dim", "index"}),
        "options": {name: str(value) for name, value in vars(options).items()},
        "rows": [asdict(row) | {"runs": [asdict(run) for run in runs[what]]} for what, row in kept.items()],
        "ratios": ratios,
    }
    file = options.artifacts / "benchmarks" / "load.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if any(row.errors for rows in runs.values() for row in rows) else 0


def _measured(measure: Measure, options: argparse.Namespace, bundle: Path) -> dict[str, list[Row]]:
    lines = []
    with ExitStack() as stack:  # all of them at once: who waits for requests takes next to no processor time
        running = stack.enter_context(service(options.artifacts, options.workers))
        if options.rate:
            lines.append(measure.open_loop(OPEN, running))
        if options.closed:
            lines += [measure.closed_loop(MIXED, running), measure.recommendations(ALONE, running)]
        if options.yardsticks:
            lines.append(measure.same(HEALTH, running, get("/health/live")))
            running = stack.enter_context(stub(bundle, options.workers))
            lines += [measure.closed_loop(STUB, running), measure.recommendations(STUB_ALONE, running)]
        if options.torchserve:
            running = stack.enter_context(torchserve(options.torchserve, options.workers))
            lines.append(measure.same(NOOP, running, noop()))
            once(lines[-1], 0)  # not counted: Java compiles while it runs
        return measured(lines)


def live_bundle(artifacts: Path) -> Path:
    """The champion's directory; ends the program when there is none."""
    champion = read_deployment(artifacts).champion
    if champion is None:
        sys.exit(f"{artifacts}: nothing is published there")
    return bundle_path(artifacts, champion)


def clicks_for(artifacts: Path, data: Path | None) -> Clicks:
    """Sessions for the live bundle: those of the data set that it is made of, or by power laws."""
    bundle = live_bundle(artifacts)
    if data is None:
        item_ids = read_items(bundle / ITEMS)
        return lambda seed: power_law_clicks(item_ids, seed)
    dataset, made_of = Dataset.load(data), read_manifest(bundle).data_fingerprint
    if dataset.info.fingerprint != made_of:
        sys.exit(f"{data}: fingerprint {dataset.info.fingerprint}, but {bundle.name} was made of {made_of}")
    return lambda seed: real_clicks(dataset, seed)


def add_sessions_option(parser: argparse.ArgumentParser) -> None:
    """The same for every benchmark that measures recommendations alone."""
    parser.add_argument(
        "--sessions", type=int, default=1000, help="stored ones, that recommendations alone are asked for"
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    parser.add_argument(
        "--data",
        type=Path,
        help="sessions of this data set, which the bundle is made of; default: by power laws",
    )
    parser.add_argument("--rate", type=float, default=2000, help="requests a second, open loop; 0: none")
    parser.add_argument(
        "--seconds", type=float, default=60, help="of each open loop; closed ones take a third"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--closed", type=int, default=0, help="also closed loops of so many shoppers")
    add_sessions_option(parser)
    parser.add_argument(
        "--yardsticks", action="store_true", help="closed loops of /health/live and the stub too"
    )
    parser.add_argument("--torchserve", type=Path, help="and of TorchServe, from this virtual environment")
    options = parser.parse_args(arguments)
    if (options.yardsticks or options.torchserve) and not options.closed:
        parser.error("yardsticks are measured in closed loops: add --closed 16")
    return options


if __name__ == "__main__":
    sys.exit(main())
