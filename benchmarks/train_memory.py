"""How much memory training takes of a long log: 30 million generated clicks, and the first steps on them.

    python benchmarks/train_memory.py [--clicks 30000000] [--models gru4rec:paper gru …]

Sessions of 4 clicks on average, of 40,000 items, lie in memory-mapped arrays as `prepare` leaves them. Each
model trains in a process of its own by its recipe, for some steps of an epoch whose plan is that of all
clicks. Peak memory is the system's count of the process, mapped pages and libraries among it. `NAME:paper`
trains by what the model's paper says: GRU4Rec session-parallel.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from models.sessions import Sessions

ITEMS = 40_000
MEAN_CLICKS = 4
AT_ONCE = 1_000_000  # clicks


class Enough(Exception):  # noqa: N818
    """So many steps were to be seen."""


def write_sessions(directory: Path, clicks: int) -> None:
    """The arrays of so many clicks."""
    rng = np.random.default_rng(1)
    items = open_memmap(directory / "train.items.npy", mode="w+", dtype=np.int32, shape=(clicks,))
    for start in range(0, clicks, AT_ONCE):
        some = items[start : start + AT_ONCE]
        some[:] = 1 + ITEMS * rng.random(len(some)) ** 3
    items[:ITEMS] = np.arange(1, ITEMS + 1)  # each was clicked
    lengths = rng.geometric(1 / MEAN_CLICKS, clicks)
    ends = np.cumsum(lengths)
    ends = ends[: np.searchsorted(ends, clicks)]
    np.save(directory / "train.offsets.npy", np.concatenate([[0], ends, [clicks]]))


def train(directory: Path, model: str, steps: int) -> None:
    """Train a model for some steps, and print what that took."""
    from training.learn.checkpoint import RunConfig
    from training.learn.hyper import resolve
    from training.learn.registry import find_model
    from training.learn.train import Pace, Progress, train_phase

    before = peak_gib()
    arrays = (np.load(directory / f"train.{part}.npy", mmap_mode="r") for part in ("items", "offsets"))
    items, offsets = arrays
    sessions = Sessions(items, offsets, ITEMS)
    name, _, published = model.partition(":")
    model_class = find_model(name)
    recipe, hyper = resolve(model_class, [], published or None)
    began = time.perf_counter()
    seen: list[Progress] = []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if progress.step >= steps:
            raise Enough

    with suppress(Enough):
        train_phase(
            RunConfig(name, "generated", 1, "32", 2, recipe, hyper),
            model_class,
            sessions,
            None,
            phase="select",
            file=directory / f"{name}.pt",
            resume=False,
            on_progress=watch,
            on_epoch=lambda _: None,
            pace=Pace(report_steps=steps),
        )
    seconds = time.perf_counter() - began
    print(
        f"{model}: peak {peak_gib():.2f} GiB, {before:.2f} of them before there was any session;"
        f" {seen[-1].step} of {seen[-1].steps:,} steps, {seconds:.0f} s",
        flush=True,
    )


def peak_gib() -> float:
    """Of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def main() -> None:
    """Generate, and train each model in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clicks", type=int, default=30_000_000)
    parser.add_argument("--models", nargs="+", default=["gru4rec:paper", "gru", "sasrec", "tron"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--directory", type=Path, help="where the arrays are already; of a process of its own"
    )
    arguments = parser.parse_args()
    if arguments.directory is not None:
        train(arguments.directory, *arguments.models, arguments.steps)
        return
    with tempfile.TemporaryDirectory(prefix="train-memory-") as directory:
        # In a process of its own: what this one had counts towards the peak of its children.
        writer = get_context("spawn").Process(target=write_sessions, args=(Path(directory), arguments.clicks))
        writer.start()
        writer.join()
        for model in arguments.models:
            command = [sys.executable, __file__, "--directory", directory, "--models", model]
            more = ["--steps", str(arguments.steps)]
            subprocess.run([*command, *more], check=True)


if __name__ == "__main__":
    main()
