"""How much memory and time `prepare` takes for a long log: 30 million clicks, generated out of core.

    python benchmarks/prepare_memory.py [--clicks 30000000] [--format csv|parquet] [--beside CHECKOUT]

With `--beside` another checkout of the project prepares the same log first, and must make the same of it.

Sessions are interleaved, as in a real log: every click of one is a thousand lines from its next.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb

ITEMS = 40_000
SESSIONS_PER_BLOCK = 1_000
CLICKS_PER_BLOCK = 4_000


def write_log(file: Path, clicks: int) -> None:
    """Write a log of 30 days; memory stays small, since it counts towards the peak of a child process too."""
    con = duckdb.connect(config={"memory_limit": "300MB", "threads": 1})
    con.execute(
        f"""
        copy (
            select 'session-' || (i // {CLICKS_PER_BLOCK} * {SESSIONS_PER_BLOCK}
                       + floor({SESSIONS_PER_BLOCK} * pow(random(), 1.5))::bigint) as session_id,
                   'SKU-' || floor({ITEMS} * pow(random(), 3))::bigint as item_id,
                   1700000000 + i * (30 * 86400.0 / {clicks}) as timestamp
            from range({clicks}) as clicks(i)
        ) to '{file}'
        """
    )


def main() -> None:
    """Generate, prepare in a process of its own, print what it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clicks", type=int, default=30_000_000)
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv")
    parser.add_argument("--beside", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prepare-memory-") as directory:
        log = Path(directory) / f"clicks.{arguments.format}"
        write_log(log, arguments.clicks)
        print(f"{arguments.clicks:,} clicks ({log.stat().st_size / 1024**3:.2f} GiB of {arguments.format})")
        here = Path(__file__).parents[1]
        checkouts = [arguments.beside.resolve(), here] if arguments.beside else [here]
        made = {prepared(checkout, log, Path(directory) / "data") for checkout in checkouts}
    if len(made) > 1:
        sys.exit("error: the two checkouts made different data sets of the same log")


def prepared(checkout: Path, log: Path, output: Path) -> str:
    """Prepare a log by the code of a checkout, in a process of its own; tells what it took."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "training",
            "prepare",
            "--input",
            str(log),
            "--output",
            str(output),
            "--force",
        ],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"error: {checkout}: prepare failed")
    seconds, of_processors = time.perf_counter() - began, used.ru_utime + used.ru_stime
    print(
        f"{checkout}: {seconds:.0f} s, {of_processors:.1f} s of processors, "
        f"peak RSS {used.ru_maxrss / 1024**2:.2f} GiB",
        flush=True,
    )
    files: dict[str, str] = json.loads((output / "dataset.json").read_text())["files"]
    return json.dumps(files)


if __name__ == "__main__":
    main()
