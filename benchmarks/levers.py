"""Which settings validation likes: many trainings at once, for a machine with a GPU that is lent for minutes.

    python -m benchmarks.levers --jobs jobs.txt --device cuda --together 8 --seconds 500 --output levers.json

A line of jobs.txt is a data set, a model and what is `--set` on it:

    artifacts/data/diginetica  niser  dim=200 time_order=true

Each is the `select` phase of `train` in a process of its own, stopped by validation MRR@20, or when the time
is up; the test sessions are not read. The output is written anew after each of a job's epochs and holds every
job's epochs so far, so that a kill loses nothing; jobs start in the order of the file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Job:
    """One training."""

    data: str
    model: str
    settings: tuple[str, ...]
    seed: int

    @classmethod
    def read(cls, line: str, seed: int) -> Job:
        """Of a line. Raises `ValueError`."""
        data, model, *settings = line.split()
        return cls(data, model, tuple(settings), seed)


@dataclass
class Outcome:
    """What came of a job so far."""

    job: Job
    epochs: list[dict[str, float]] = field(default_factory=list)
    state: str = "waiting"  # running, done, out of time, or why it failed
    parameters: int = 0


class OutOfTime(Exception):  # noqa: N818
    """The time is up; the epochs so far stay."""


def train(job: Job, device: str, deadline: float, file: Path) -> None:
    """Run a job in this process; what came of it is in `file`, after every epoch."""
    from training.data.dataset import Dataset
    from training.learn.checkpoint import RunConfig
    from training.learn.devices import open_fabric
    from training.learn.hyper import resolve
    from training.learn.registry import find_model
    from training.learn.train import default_precision, train_phase
    from training.measure.validation import validation_on

    outcome = Outcome(job, state="running")

    def save() -> None:
        aside = file.with_suffix(".new")
        aside.write_text(json.dumps(asdict(outcome)))
        aside.replace(file)

    def on_epoch(record: dict[str, float]) -> None:
        outcome.epochs.append(record)
        save()

    parent = multiprocessing.parent_process()

    def on_progress(_: object) -> None:
        if time.time() > deadline or (parent is not None and not parent.is_alive()):
            raise OutOfTime

    try:
        data, model = Dataset.load(Path(job.data)), find_model(job.model)
        recipe, hyper = resolve(model, job.settings)
        outcome.parameters = sum(each.numel() for each in model.build(data.train, **hyper).parameters())
        fabric = open_fabric(device)
        precision = default_precision(fabric.device)
        config = RunConfig(job.model, data.info.fingerprint, job.seed, precision, 1, recipe, hyper)
        train_phase(
            config,
            model,
            data.train,
            validation_on(data.validation),
            phase="select",
            file=file.with_suffix(".pt"),
            resume=False,
            on_progress=on_progress,
            on_epoch=on_epoch,
            fabric=fabric,
        )
        outcome.state = "done"
    except OutOfTime:
        outcome.state = "out of time"
    except Exception as error:  # the other jobs go on, and this one tells why
        outcome.state = f"{type(error).__name__}: {error}"
    save()


def outcomes_in(directory: Path, jobs: list[Job]) -> list[dict[str, Any]]:
    """What came of each job so far."""
    files = [directory / f"{number}.json" for number in range(len(jobs))]
    return [
        json.loads(file.read_text()) if file.exists() else asdict(Outcome(job))
        for file, job in zip(files, jobs, strict=True)
    ]


def run(jobs: list[Job], options: argparse.Namespace) -> list[dict[str, Any]]:
    """All jobs, so many together."""
    deadline = time.time() + options.seconds
    spawn = multiprocessing.get_context("spawn")  # a fork could not use the GPU
    with TemporaryDirectory() as name:
        directory = Path(name)
        with ProcessPoolExecutor(options.together, spawn, max_tasks_per_child=1) as pool:
            running = [
                pool.submit(train, job, options.device, deadline, directory / f"{number}.json")
                for number, job in enumerate(jobs)
            ]
            waiting: set[Any] = set(running)
            while waiting:
                time.sleep(1)
                waiting = {each for each in waiting if not each.done()}
                if time.time() > deadline:
                    for each in waiting:
                        each.cancel()
                options.output.write_text(json.dumps(outcomes_in(directory, jobs)))
        for each in running:
            if not each.cancelled():
                each.result()
        return outcomes_in(directory, jobs)


def table(outcomes: list[dict[str, Any]]) -> Table:
    """A line for each job, the best epoch of validation."""
    shown = Table(title="validation, percent")
    for column in ("data", "model", "settings", "Recall@20", "MRR@20", "epoch", "of", "s an epoch", "state"):
        shown.add_column(column)
    for each in outcomes:
        job, epochs = each["job"], each["epochs"]
        row = [Path(job["data"]).name, job["model"], " ".join(job["settings"])]
        if epochs:
            best = max(epochs, key=lambda epoch: epoch["mrr@20"])
            seconds = sum(epoch["train_seconds"] for epoch in epochs) / len(epochs)
            row += [f"{best['recall@20']:.2f}", f"{best['mrr@20']:.2f}", f"{best['epoch']:.0f}"]
            row += [str(len(epochs)), f"{seconds:.1f}"]
        else:
            row += ["-"] * 5
        shown.add_row(*row, each["state"])
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--together", type=int, default=1, help="processes")
    parser.add_argument("--seconds", type=float, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    lines = options.jobs.read_text().splitlines()
    jobs = [Job.read(line, options.seed) for line in lines if line.strip() and line[0] != "#"]
    outcomes = run(jobs, options)
    Console(width=160).print(table(outcomes))
    return 0 if all(each["epochs"] for each in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
