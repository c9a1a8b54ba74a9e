"""How much memory and time `prepare` takes for a long log: 30 million clicks, generated out of core.

    python benchmarks/prepare_memory.py [--clicks 30000000] [--format csv|parquet]

Sessions are interleaved, as in a real log: every click of one is a thousand lines from its next.
"""

from __future__ import annotations

import argparse
import resource
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
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prepare-memory-") as directory:
        log = Path(directory) / f"clicks.{arguments.format}"
        write_log(log, arguments.clicks)
        command = [sys.executable, "-m", "training", "prepare", "--input", str(log)]
        began = time.perf_counter()
        subprocess.run([*command, "--output", f"{directory}/data"], check=True)
        seconds = time.perf_counter() - began
        size = log.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2
    log_size = f"{arguments.clicks:,} clicks ({size / 1024**3:.2f} GiB of {arguments.format})"
    print(f"{log_size}: {seconds:.0f} s, peak RSS {peak:.2f} GiB")


if __name__ == "__main__":
    main()
