"""What a training step costs by size of the catalogue: gradients of whole tables, and of the rows looked up.

    python -m benchmarks.catalogue_step --threads 1
    python -m benchmarks.catalogue_step --model tron --ways dense rows

`dense` is a sampled loss as it was trained before: each table's gradient is as large as the table, and Adam
moves all of it. `rows` is how it is trained now, `softmax` the full softmax. Sessions are made up, of items
as popular as Zipf's law has them. A step makes its batch, draws its negatives, goes forward and back, and
updates. Sizes and ways take turns, step by step, since other work on the machine then slows all of them
alike; figures are medians. Exits with 1 if a step of `rows` costs more than 1.3 times as much in the largest
catalogue as in the smallest.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from models.sessions import Sessions
from training.learn.hyper import resolve
from training.learn.negatives import NegativeSampler
from training.learn.registry import find_model
from training.learn.train import default_precision, keep_freed_memory, make_optimizer, training_examples

SIZES = (43_000, 300_000, 1_000_000)
WAYS = ("dense", "rows", "softmax")
WARM_UP_STEPS = 2
BAR = 1.3


def made_up(n_items: int, n_sessions: int) -> Sessions:
    """Sessions of two to eight clicks."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 9, n_sessions)
    popularity = 1 / np.arange(1, n_items + 1)
    cumulative = np.cumsum(popularity / popularity.sum())
    clicks = np.searchsorted(cumulative, rng.random(lengths.sum())).clip(max=n_items - 1) + 1
    return Sessions(clicks.astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]), n_items)


def stepping(model_name: str, settings: Sequence[str], train: Sessions, way: str) -> Callable[[int], None]:
    """What does a step of a model's training."""
    loss = "ce" if way == "softmax" else "sampled-ce"
    recipe, hyper = resolve(find_model(model_name), [f"loss={loss}", *settings])
    model = find_model(model_name).build(train, **hyper)
    model.recipe = recipe
    model.softmax_dtype = torch.bfloat16 if default_precision() == "bf16" else torch.float32
    model.set_sparse_rows(way == "rows")
    optimizer: torch.optim.Optimizer
    if way == "dense":
        optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr, fused=True)
    else:
        optimizer = make_optimizer(model, recipe)
    examples = training_examples(model, train)
    plan = examples.plan(recipe.batch_size, seed=0, epoch=0)
    sampler = None if way == "softmax" else NegativeSampler(train, recipe)

    def step(number: int) -> None:
        batch = examples.batch(plan[number % len(plan)])
        if sampler is not None:
            batch = dataclasses.replace(batch, negatives=sampler.draw(batch.targets, 0, 0, number))
        torch.autograd.backward(model.loss(batch))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gru")
    parser.add_argument(
        "--set", dest="settings", metavar="NAME=VALUE", action="append", default=[], help="as for train"
    )
    parser.add_argument("--negatives", type=int, default=8192)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--sessions", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    settings = [f"negatives={options.negatives}", *options.settings]
    steps = {
        (way, size): stepping(options.model, settings, made_up(size, options.sessions), way)
        for size, way in itertools.product(options.sizes, options.ways)
    }
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in steps}
    for number in range(WARM_UP_STEPS + options.steps):
        for key, step in steps.items():
            began = time.perf_counter()
            step(number)
            if number >= WARM_UP_STEPS:
                seconds[key].append(time.perf_counter() - began)
    milliseconds = {key: 1000 * median(each) for key, each in seconds.items()}
    table = Table(title=f"ms a step, {options.model} {' '.join(settings)}, {options.threads} thread(s)")
    for name in ("way", *(f"{size:,}" for size in options.sizes), "largest / smallest"):
        table.add_column(name, justify="left" if name == "way" else "right")
    first, last = min(options.sizes), max(options.sizes)
    growth = {way: milliseconds[way, last] / milliseconds[way, first] for way in options.ways}
    for way in options.ways:
        figures = (f"{milliseconds[way, size]:,.0f}" for size in options.sizes)
        table.add_row(way, *figures, f"{growth[way]:.2f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    table.caption = f"medians of {options.steps} steps; peak memory of all together {peak:,} MiB"
    Console(width=120).print(table)
    return 1 if growth.get("rows", 0) > BAR else 0


if __name__ == "__main__":
    sys.exit(main())
