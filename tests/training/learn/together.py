"""Trains by several processes what one would: `python -m tests.training.learn.together PROCESSES DIRECTORY`.

Writes the weights of each run into the directory, and prints nothing but what a process may say at its end.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from models.base import Hyper
from tests.training.planted import planted_sessions
from training.learn.answers import Answers, row_of
from training.learn.checkpoint import RunConfig, load, save
from training.learn.devices import open_fabric
from training.learn.registry import find_model
from training.learn.train import Pace, Progress, train_phase
from training.measure.validation import validation_on

TRAIN = planted_sessions(61)
VALIDATION = planted_sessions(20, seed=1)
OFTEN = Pace(report_steps=3, checkpoint_seconds=0)
KEPT_AT = 3  # a report, by which a checkpoint of the middle of an epoch lies there

Run = tuple[str, dict[str, Any], dict[str, Hyper]]  # a model, what is changed of its recipe, its settings

# Without dropout, which is drawn by each process for its own rows. 16 targets a step: the last one has few.
RUNS: dict[str, Run] = {
    "gru": ("gru", {}, {"dim": 8, "dropout_embedding": 0.0}),
    "horizon": ("gru", {"horizon": 3}, {"dim": 8, "dropout_embedding": 0.0}),
    "in-batch": (
        "gru",
        {"loss": "sampled-ce", "negatives": 5},
        {"dim": 8, "dropout_embedding": 0.0},
    ),
    "stamp": ("stamp", {}, {"dim": 8}),
    "taught": ("gru", {"loss": "sampled-ce", "negatives": 5}, {"dim": 8, "dropout_embedding": 0.0}),
    "taught stamp": ("stamp", {"teacher_weight": 0.9}, {"dim": 8}),
    "srgnn": ("srgnn", {"loss": "sampled-ce", "negatives": 5}, {"dim": 8}),
    "lightgcn": ("lightgcn", {"negatives": 5}, {"dim": 8}),
    "lanes": (  # three lanes: one process has two, and they run out at different steps
        "gru4rec",
        {"batch_size": 3, "loss": "bpr-max", "negatives": 5},
        {"dim": 8, "dropout_hidden": 0.0},
    ),
}
DROPPING: Run = ("gru", {}, {"dim": 8, "dropout_embedding": 0.5})


def answers(directory: Path) -> Answers:
    """Of a teacher that knows nothing."""
    file = directory / "random.answers"
    if not file.exists():  # each process writes the same, so each its own
        rng = np.random.default_rng(0)
        rows = np.empty(TRAIN.n_targets, row_of(TRAIN.n_items))
        rows["items"] = rng.permuted(np.tile(np.arange(TRAIN.n_items) + 1, (len(rows), 1)), axis=1)
        rows["shares"] = rng.dirichlet(np.ones(TRAIN.n_items), len(rows))
        own = file.with_suffix(f".{os.getpid()}")
        own.write_bytes(rows.tobytes())
        own.replace(file)
    return Answers(file, TRAIN.n_items)


def train(
    fabric: Fabric,
    run: Run,
    file: Path,
    *,
    resume: bool = False,
    keep: Path | None = None,
    taught: bool = False,
) -> dict[str, torch.Tensor]:
    """The weights after two epochs; `keep` gets a checkpoint of the run's middle."""
    name, changes, hyper = run
    model = find_model(name)
    recipe = dataclasses.replace(
        model.recipe, **{"epochs": 2, "batch_size": 16, "lr": 0.01, "patience": 9, **changes}
    )
    reports = 0

    def report(progress: Progress) -> None:
        nonlocal reports
        reports += 1
        if reports == KEPT_AT and keep is not None:
            shutil.copy(file, keep)

    trained = train_phase(
        RunConfig(name, "planted", 5, "32", 1, recipe, hyper, None, fabric.device.type, fabric.world_size),
        model,
        TRAIN,
        validation_on(VALIDATION),
        phase="select",
        file=file,
        resume=resume,
        on_progress=report,
        on_epoch=lambda record: None,
        pace=OFTEN,
        fabric=fabric,
        answers=answers(file.parent) if taught else None,
    )
    return trained.model.state_dict()


def main(processes: int, directory: Path) -> None:
    fabric = open_fabric("cpu", processes)
    weights = {
        name: train(fabric, run, directory / f"{name}.pt", taught="taught" in name)
        for name, run in RUNS.items()
    }
    for name, run in (("dropout", DROPPING), ("lanes", RUNS["lanes"])):
        half = directory / f"{name}-half.pt"
        weights[f"{name}, whole"] = train(fabric, run, directory / f"{name}.pt", keep=half)
        assert load(half)["state"]["step"] > 0
        weights[f"{name}, resumed"] = train(fabric, run, half, resume=True)
    if fabric.global_rank == 0:
        save(directory / "weights.pt", weights)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
