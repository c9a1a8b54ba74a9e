"""Trains and measures a list of models, one after another; what is done stays done, whatever ends it.

Each model is a `train` in a process of its own: its peak memory is its own, a crash costs one model and not
the list, and the command in its result file is one that anyone can run again. A model is done when its result
file is there; one that was cut short goes on from its checkpoint.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Literal

from training.data.dataset import Dataset
from training.learn.registry import baseline_names
from training.measure.results import ResultError, result_name

STDERR = 2  # the file descriptor: stdout is for --json
GRACE_SECONDS = 60  # for a `train` to leave after it was told to

State = Literal["done before", "done", "failed", "out of budget"]


@dataclass(frozen=True)
class BenchmarkOptions:
    """What the command line decides beside the models."""

    data: Path
    results: Path
    artifacts: Path
    seed: int
    threads: int
    budget_minutes: float | None
    device: str = "auto"
    devices: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one model; `figures` are its test Recall@20 and MRR@20 if it is done."""

    model: str
    state: State
    seconds: float
    figures: tuple[float, float] | None = None


def benchmark(
    models: Sequence[str], options: BenchmarkOptions
) -> Iterator[tuple[str, Outcome | float | None]]:
    """Yield each model's name twice: with the seconds left of the budget (None: no limit), then its outcome.

    Raises `ResultError` when a result file is of other data, before anything is trained.
    """
    data = Dataset.load(options.data)
    place = options.results / data.info.name
    files = {model: place / result_name(model, options.seed) for model in models}
    before = {model: figures for model, file in files.items() if (figures := _figures(file, data))}
    end = None if options.budget_minutes is None else monotonic() + 60 * options.budget_minutes
    for model in models:
        started = monotonic()
        left = None if end is None else max(0.0, end - started)
        yield model, left
        if model in before:
            yield model, Outcome(model, "done before", 0, before[model])
            continue
        state = "out of budget" if left == 0 else _train(model, options, left)
        figures = _figures(files[model], data) if state == "done" else None
        yield model, Outcome(model, state, monotonic() - started, figures)


def train_command(model: str, options: BenchmarkOptions) -> list[str]:
    """The `train` that a benchmark runs, without the interpreter.

    Models are compared by exact search: the index that `auto` would choose may cost a tenth of a point.
    """
    return [
        *("-m", "training", "train", "--data", str(options.data), "--model", model, "--refit", "--resume"),
        *("--seed", str(options.seed), "--threads", str(options.threads), "--index", "flat"),
        *("--artifacts", str(options.artifacts), "--results", str(options.results)),
        *(("--device", options.device) if options.device != "auto" else ()),
        *(
            ("--devices", str(options.devices))
            if options.devices is not None and model not in baseline_names()
            else ()
        ),
    ]


def _train(model: str, options: BenchmarkOptions, seconds: float | None) -> State:
    command = train_command(model, options)
    print(f"$ python {shlex.join(command)}", file=sys.stderr, flush=True)
    with subprocess.Popen([sys.executable, *command], stdout=STDERR) as process:
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            _stop(process)
            return "out of budget"
        except BaseException:  # Ctrl-C, or whoever ends this: it must not train on alone
            _stop(process)
            raise
    return "done" if code == 0 else "failed"


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()  # not SIGINT, which a process in a shell's background ignores
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _figures(file: Path, data: Dataset) -> tuple[float, float] | None:
    try:
        result = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    if result.get("data_fingerprint", data.info.fingerprint) != data.info.fingerprint:
        raise ResultError(f"{file}: is of other data than {data.path}; move it away to train anew")
    return result["test"]["recall@20"], result["test"]["mrr@20"]
