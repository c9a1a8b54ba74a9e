"""What it costs to keep a click: three ways to bring Redis's file to the disk, on disks of different speed.

    python -m benchmarks.durability --artifacts artifacts --data artifacts/data/diginetica

Clicks and recommendations, half and half, in an open loop at a fixed rate. `fsync` takes what it takes on
this disk, or so many milliseconds more (`tests/faults/disk.c` plays that).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from benchmarks.load.__main__ import clicks_for
from benchmarks.load.measure import Measure, measured
from benchmarks.load.processes import Running, service
from benchmarks.load.report import hardware, middle, table
from service.process.embedded_redis import find_redis_server
from tests.faults.disk import compiled, environment
from tests.waiting import until

BESIDE, ALWAYS, EVERYSEC = "synced beside Redis (standard)", "always (strict)", "everysec"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns 1 if any request failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    parser.add_argument("--data", type=Path, help="sessions of this data set, which the bundle is made of")
    parser.add_argument("--rate", type=float, default=2000, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--fsync", type=int, nargs="+", default=[0, 5, 50], help="milliseconds more")
    options = parser.parse_args(arguments)
    measure = Measure(clicks_for(options.artifacts, options.data), options.seconds, options.rate, 0, 0)
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        library = compiled(Path(directory))
        if library is None:
            sys.exit("no C compiler (or no Linux): slow disks cannot be played")
        for milliseconds in options.fsync:
            disk = environment(library, fsync_milliseconds=milliseconds)
            with ExitStack() as stack:
                lines = [
                    measure.open_loop(f"{way}, fsync +{milliseconds} ms", stack.enter_context(running))
                    for way, running in _ways(options.artifacts, options.workers, disk)
                ]
                rows += [middle(runs) for runs in measured(lines).values()]
    stated = ", ".join(f"{name} {value}" for name, value in hardware().items())
    Console(width=150).print(table(rows, f"{options.rate:g} requests a second; {stated}"))
    return 1 if any(row.errors for row in rows) else 0


def _ways(
    artifacts: Path, workers: int, disk: dict[str, str]
) -> Iterator[tuple[str, AbstractContextManager[Running]]]:
    yield BESIDE, service(artifacts, workers, **disk)
    yield ALWAYS, service(artifacts, workers, **disk, NEXTCLICK_DURABILITY="strict")
    yield EVERYSEC, _everysec(artifacts, workers, disk)


@contextmanager
def _everysec(artifacts: Path, workers: int, disk: dict[str, str]) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory) / "redis.sock"
        redis = subprocess.Popen(
            [
                *(find_redis_server(), "--port", "0", "--unixsocket", str(socket), "--dir", directory),
                *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            ],
            env={**os.environ, **disk},
            stdout=subprocess.DEVNULL,
        )
        try:
            until(socket.exists)
            with service(artifacts, workers, NEXTCLICK_REDIS_URL=f"unix://{socket}") as running:
                yield running
        finally:
            redis.terminate()
            redis.wait()


if __name__ == "__main__":
    sys.exit(main())
