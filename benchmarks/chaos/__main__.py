"""Whether acknowledged clicks survive: a service under load, killed again and again, and then counted.

    python -m benchmarks.chaos --artifacts artifacts --kills 54 --seed 1
    python -m benchmarks.chaos --soak

Kills (-9) of a worker, of the parent, of Redis or of all at once, on three disks: as it is, one whose fsync
takes a second and a half, and one that is full around each kill (`tests/faults/disk.c` plays them). Shoppers
send each click with an event id until it is acknowledged. At the end all processes are killed, and what the
click log still holds is compared with what was acknowledged. It exits with 1 if a click is lost or doubled,
or if an answer to GET /recommend has fewer items than it should.

With --soak nobody is killed: it looks whether the memory and the files of a busy service stay as they are.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.chaos.run import Disk, Outcome, StuckError, run
from benchmarks.chaos.soak import SHORT_LIVES, Soaked, soak
from benchmarks.chaos.victims import KINDS, Service, plan
from benchmarks.load.__main__ import live_bundle
from benchmarks.load.report import hardware
from service.ranking.bundle import ITEMS, read_items
from tests.faults.disk import compiled, environment

DEFAULTS, SLOW, FULL = "defaults", "slow fsync", "full disk"
FSYNC_MILLISECONDS = 1500
SOAK_SECONDS = 600


def disks(directory: Path) -> dict[str, Disk | None]:
    """By name; None is one that this machine cannot play."""
    library, full = compiled(directory), directory / "full"
    if library is None:
        return {DEFAULTS: Disk(DEFAULTS), SLOW: None, FULL: None}
    return {
        DEFAULTS: Disk(DEFAULTS),
        SLOW: Disk(SLOW, environment(library, fsync_milliseconds=FSYNC_MILLISECONDS)),
        FULL: Disk(FULL, environment(library, full_while=full), full),
    }


def chaos_table(outcomes: dict[str, Outcome | None], title: str) -> Table:
    """One line for each disk."""
    drawn = Table(title=title, title_justify="left")
    drawn.add_column("disk")
    counts = ("requests", "acknowledged", "lost", "doubled", "short GETs", "refused", "errors", "seconds")
    for name in (*KINDS, *counts):
        drawn.add_column(name, justify="right")
    for disk, outcome in outcomes.items():
        if outcome is None:
            drawn.add_row(f"{disk}: not run, there is no C compiler")
            continue
        tally, audit = outcome.tally, outcome.audit
        found = (tally.requests, len(tally.acknowledged), audit.lost, audit.doubled, tally.short)
        told = (*(outcome.kills[kind] for kind in KINDS), *found, tally.refused, tally.errors)
        drawn.add_row(disk, *(f"{number:,}" for number in told), f"{outcome.seconds:.0f}")
    reasons = [f"{disk}: {each.stuck}" for disk, each in outcomes.items() if each is not None and each.stuck]
    meanings = "worker to all: times killed; short GETs: answers without 20 items; refused: 503 to a click"
    drawn.caption = "\n".join([meanings, *reasons])
    return drawn


def soak_table(soaked: Soaked, title: str) -> Table:
    """One line for each thing that was sampled."""
    drawn = Table(title=title, title_justify="left")
    drawn.add_column("what")
    for name in ("start", "end", "slope an hour", "unit", "verdict"):
        drawn.add_column(name, justify="right")
    for each in soaked.series:
        figures = (f"{each.values[0]:,.1f}", f"{each.values[-1]:,.1f}", f"{each.slope:+,.1f}")
        drawn.add_row(each.what, *figures, each.unit, "flat" if each.flat else "GROWS")
    drawn.caption = ", ".join(f"{count:,} {name}" for name, count in soaked.counts.items())
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns 1 if anything was lost, doubled or short, or has grown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shoppers", type=int, default=16, help="who ask one thing at a time each")
    parser.add_argument("--kills", type=int, default=54, help="on all disks together")
    parser.add_argument("--seed", type=int, default=1, help="of who is killed, and when")
    parser.add_argument("--disks", nargs="+", default=[DEFAULTS, SLOW, FULL], metavar="NAME")
    parser.add_argument("--soak", type=float, nargs="?", const=SOAK_SECONDS, metavar="SECONDS")
    options = parser.parse_args(arguments)
    items = read_items(live_bundle(options.artifacts) / ITEMS)
    machine = ", ".join(f"{name} {value}" for name, value in hardware().items())
    title = f"{options.workers} workers, {options.shoppers} shoppers; {machine}"
    with tempfile.TemporaryDirectory() as directory:
        if options.soak is not None:
            return _soak(options, items, Path(directory), title)
        return _chaos(options, items, Path(directory), title)


def _chaos(options: argparse.Namespace, items: Sequence[str], directory: Path, title: str) -> int:
    known = disks(directory)
    outcomes: dict[str, Outcome | None] = {}
    for number, name in enumerate(options.disks):
        disk = known[name]
        if disk is None:
            outcomes[name] = None
            continue
        kills = plan(share(options.kills, len(options.disks), number), options.seed + number)
        service = Service(options.artifacts, directory / str(number), options.workers, disk.environment)
        outcomes[name] = uvloop.run(run(service, disk, kills, items, options.shoppers))
    Console(width=150).print(chaos_table(outcomes, title))
    return 1 if any(outcome is not None and outcome.failed for outcome in outcomes.values()) else 0


def _soak(options: argparse.Namespace, items: Sequence[str], directory: Path, title: str) -> int:
    service = Service(options.artifacts, directory / "soak", options.workers, SHORT_LIVES)
    try:
        soaked = uvloop.run(soak(service, options.workers, items, options.shoppers, options.soak))
    except StuckError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    finally:
        service.end()
    Console(width=150).print(soak_table(soaked, f"{options.soak:g} s, {title}"))
    return 1 if soaked.failed else 0


def share(kills: int, parts: int, number: int) -> int:
    """How many of the kills are the part's own; all parts together make them all."""
    return kills // parts + (number < kills % parts)


if __name__ == "__main__":
    sys.exit(main())
