"""Training on a GPU, beside the processor of the same machine, and beside RecBole on the same GPU.

    python -m benchmarks.gpu --data artifacts/data/diginetica --output artifacts/benchmarks/gpu

Trains every model by the very loop that `train` runs, at its own recipe, on the GPU and on the processor,
and counts targets a second after a warm-up. Where RecBole can be imported by `--recbole-python` and has the
model, both train at the same sizes and settings on the GPU (`benchmarks/README.md`, "Beside RecBole");
RecBole in float32, which is its own default, ours in float32 and in the precision that is ours here.

Without `--data` the sessions are drawn: as many, as long, over as many items as diginetica's. `gpu.json` and
`gpu.md` in `--output` are written anew after each model, so that nothing measured is lost. Exits with 1 if a
model failed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from benchmarks import recbole_ours
from benchmarks.recbole import PAIRS, SEED, WARM_UP_STEPS, Pair, RecBole
from models.base import Hyper
from models.interactions import interactions
from models.sessions import Sessions
from training.data.dataset import Dataset
from training.learn.checkpoint import Precision, RunConfig
from training.learn.devices import open_fabric
from training.learn.hyper import resolve
from training.learn.registry import find_model, model_names
from training.learn.train import Pace, Progress, default_precision, train_phase

LANES = ("batch_size=128", "loss=bpr-max", "lr=0.05", "momentum=0.1")  # of gru4rec: near what was published
WARM_UP = 2  # reports
REPORT_STEPS = {"cuda": 50, "cpu": 5}
N_SESSIONS, N_ITEMS, MEAN_LENGTH = 168_003, 43_097, 4.85  # diginetica's, without validation

Figures = dict[str, Any]


class Enough(Exception):  # noqa: N818
    """The clock has seen what it wanted to."""


@dataclass
class Clock:
    """Counts steps between reports of the same epoch: what lies between epochs is no step."""

    limit: float  # seconds
    reports: int = 0
    steps: int = 0
    seconds: float = 0.0
    of_epoch: int = 0
    last: tuple[int, int, float] = (0, 0, 0.0)
    began: float = dataclasses.field(default_factory=time.perf_counter)

    def __call__(self, progress: Progress) -> None:
        now = time.perf_counter()
        epoch, step, before = self.last
        if self.reports >= WARM_UP and progress.epoch == epoch:
            self.steps += progress.step - step
            self.seconds += now - before
        self.reports += 1
        self.of_epoch = progress.steps
        self.last = progress.epoch, progress.step, now
        # A step that takes seconds may not get past its warm-up: then the whole counts.
        if self.seconds >= self.limit or now - self.began > 4 * self.limit + 20:
            if not self.steps:
                self.steps, self.seconds = progress.step, now - self.began
            raise Enough


def throughput(name: str, train: Sessions, fabric: Fabric, seconds: float, threads: int) -> Figures:
    """Targets a second of the loop that `train` runs, and the memory of the GPU that it took."""
    model = find_model(name)
    recipe, hyper = resolve(model, LANES if name == "gru4rec" else ())
    recipe = dataclasses.replace(recipe, epochs=10**6, lr_step=10**6)
    on_gpu = fabric.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(fabric.device)
    clock = Clock(seconds)
    precision = default_precision(fabric.device)
    with tempfile.TemporaryDirectory() as work, contextlib.suppress(Enough):
        train_phase(
            _config(name, precision, threads, recipe, hyper, fabric),
            model,
            train,
            None,
            phase="refit",
            file=Path(work) / "refit.pt",
            resume=False,
            on_progress=clock,
            on_epoch=lambda record: None,
            pace=Pace(REPORT_STEPS[fabric.device.type], float("inf")),
            fabric=fabric,
        )
    batching = hyper.get("batching", model.batching)
    targets = len(interactions(train)[0]) if batching == "interactions" else train.n_targets
    found: Figures = {
        "targets_per_second": targets / clock.of_epoch * clock.steps / clock.seconds,
        "milliseconds_per_step": 1000 * clock.seconds / clock.steps,
        "steps": clock.steps,
        "precision": precision,
    }
    if on_gpu:
        found["peak_memory_mib"] = torch.cuda.max_memory_allocated(fabric.device) >> 20
    return found


def _config(
    name: str, precision: Precision, threads: int, recipe: Any, hyper: dict[str, Hyper], fabric: Fabric
) -> RunConfig:
    return RunConfig(name, "", SEED, precision, threads, recipe, hyper, None, fabric.device.type)


def beside_recbole(name: str, recbole: RecBole, device: torch.device, seconds: float) -> Figures:
    """Examples a second of both, of the same size and at the same settings."""
    pair = PAIRS[name]
    clock: Figures = {"warm_up": WARM_UP_STEPS, "steps": 10**6, "seconds": seconds}
    on_gpu = device.type == "cuda"
    found: Figures = {"recbole": recbole.ask(pair, clock | {"gpu": on_gpu})["examples_per_second"]}
    for precision in dict.fromkeys(("32", default_precision(device))):
        found[f"ours_{precision}"] = _ours(name, pair, recbole.train, device, precision, clock)
    return found


def _ours(
    name: str, pair: Pair, train: Sessions, device: torch.device, precision: str, clock: Figures
) -> float:
    model = recbole_ours.build(name, pair.ours, train, SEED, **pair.same_recipe)
    model.softmax_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    figures = recbole_ours.throughput(model.to(device), train, SEED, **clock)
    return figures["examples_per_second"]


def drawn_sessions() -> Sessions:
    """Sessions of diginetica's number and mean length; items by Zipf's law, neighbours of the last one half
    the time."""
    rng = np.random.default_rng(0)
    lengths = 1 + rng.geometric(1 / (MEAN_LENGTH - 1), N_SESSIONS)
    popularity = 1 / np.arange(1, N_ITEMS + 1) ** 0.7
    clicks = rng.choice(N_ITEMS, lengths.sum(), p=popularity / popularity.sum())
    near = (np.roll(clicks, 1) + rng.integers(1, 20, len(clicks))) % N_ITEMS
    items = np.where(rng.random(len(clicks)) < 0.5, near, clicks) + 1
    items[:N_ITEMS] = np.arange(1, N_ITEMS + 1)  # each was clicked
    return Sessions(items.astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]), N_ITEMS)


def recbole_there(python: Path) -> str | None:
    """Why RecBole cannot be imported, None if it can be."""
    worker = Path(__file__).with_name("recbole_worker.py")
    tried = subprocess.run(
        [python, "-P", worker, "--try"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    return None if tried.returncode == 0 else (tried.stderr.strip().splitlines() or ["unknown"])[-1]


def machine(device: torch.device) -> Figures:
    """What the figures are of."""
    return {
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def table(report: Figures) -> str:
    """All that was measured, in Markdown."""
    about = report["machine"]
    lines = [
        f"{about['gpu']}, beside {about['cores']} processor cores; torch {about['torch']};"
        f" {report['data']}, {report['sessions']:,} sessions.",
        "",
        "| model | GPU, targets/s | processor | ratio | ms a step | peak GPU memory, MiB |"
        " at RecBole's settings: RecBole, examples/s | ours, float32 | ratio | ours, bf16 | ratio |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, found in report["models"].items():
        if not found:
            continue
        gpu, cpu, beside = (found.get(part, {}) for part in ("gpu", "processor", "beside_recbole"))
        fast, slow, theirs = (
            part.get(key)
            for part, key in ((gpu, "targets_per_second"), (cpu, "targets_per_second"), (beside, "recbole"))
        )
        cells = [
            _cell(fast),
            _cell(slow),
            _cell(fast and slow and fast / slow, "{:.1f}x"),
            _cell(gpu.get("milliseconds_per_step"), "{:.2f}"),
            _cell(gpu.get("peak_memory_mib")),
            _cell(theirs),
        ]
        for ours in (beside.get("ours_32"), beside.get("ours_bf16")):
            cells += [_cell(ours), _cell(theirs and ours and ours / theirs, "{:.1f}x")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for name, found in report["models"].items():
        lines += [f"\n{name}, {part}: {each['error']}" for part, each in found.items() if "error" in each]
    if report.get("recbole_missing"):
        lines.append(f"\nRecBole was left out: {report['recbole_missing']}")
    return "\n".join(lines) + "\n"


def _cell(value: float | None, pattern: str = "{:,.0f}") -> str:
    return pattern.format(value) if value else "–"


def main() -> int:
    """Measure each model in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = model_names()
    parser.add_argument("--data", type=Path, help="a prepared data set; default: drawn sessions")
    parser.add_argument("--output", type=Path, default=Path("artifacts/benchmarks/gpu"))
    parser.add_argument("--models", nargs="+", choices=known, default=known)
    parser.add_argument("--device", default="cuda", help="cpu tries the program out")
    parser.add_argument("--seconds", type=float, default=20, help="of each model on the GPU")
    parser.add_argument("--cpu-seconds", type=float, default=10, help="on the processor; 0: not at all")
    parser.add_argument("--recbole-seconds", type=float, default=10, help="of each side; 0: not at all")
    parser.add_argument("--recbole-python", type=Path, default=Path(sys.executable))
    parser.add_argument(
        "--recbole-sessions", type=int, default=20_000, help="the newest, which it has to read"
    )
    parser.add_argument("--sessions", type=int, help="only so many: to try it out")
    parser.add_argument(
        "--budget-seconds", type=float, default=float("inf"), help="nothing begins after them"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    end = time.monotonic() + options.budget_seconds
    options.output.mkdir(parents=True, exist_ok=True)
    fabric, on_cpu = open_fabric(options.device), open_fabric("cpu")
    if options.data:
        data = Dataset.load(options.data)
        train, called = data.train, data.info.name
    else:
        train, called = drawn_sessions(), "drawn sessions"
    if options.sessions:
        train = train[-options.sessions :]
    missing = recbole_there(options.recbole_python) if options.recbole_seconds else "not asked for"
    if missing:
        print(f"RecBole is left out: {missing}", file=sys.stderr, flush=True)
    report: Figures = {
        "machine": machine(fabric.device),
        "data": called,
        "sessions": len(train),
        "threads": options.threads,
        "recbole_missing": missing,
        "models": {name: {} for name in options.models},
    }
    failed = False

    def measure(name: str, part: str, figures: Any) -> None:
        nonlocal failed
        if time.monotonic() > end:
            print(f"{name}, {part}: the budget is spent", file=sys.stderr, flush=True)
            return
        began = time.monotonic()
        try:
            found = figures()
        except Exception as error:  # of one model: the others are measured all the same
            failed = True
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}"}
        report["models"][name][part] = found
        (options.output / "gpu.json").write_text(json.dumps(report, indent=2) + "\n")
        (options.output / "gpu.md").write_text(table(report))
        took = time.monotonic() - began
        print(f"{name}, {part}, {took:.0f} s: {json.dumps(found)}", file=sys.stderr, flush=True)

    each = options.threads
    for name in options.models:
        measure(name, "gpu", lambda n=name: throughput(n, train, fabric, options.seconds, each))
    with tempfile.TemporaryDirectory() as work:
        few = train[-options.recbole_sessions :]
        recbole = RecBole(options.recbole_python.absolute(), Path(work), each, few, few[-200:])
        for name in options.models:
            if missing is None and name in PAIRS:
                measure(
                    name,
                    "beside_recbole",
                    lambda n=name: beside_recbole(n, recbole, fabric.device, options.recbole_seconds),
                )
    for name in options.models:
        if options.cpu_seconds:
            measure(name, "processor", lambda n=name: throughput(n, train, on_cpu, options.cpu_seconds, each))
    print(table(report))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
