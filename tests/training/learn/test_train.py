"""A run that was killed goes on to the very weights of a run that was not."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from models.base import Batch, Hyper
from models.gru import GRUEncoder
from models.losses import Loss
from tests.training.planted import planted_sessions
from training.learn import checkpoint
from training.learn.batches import Examples
from training.learn.checkpoint import CheckpointError, Phase, RunConfig, run_name
from training.learn.hyper import resolve
from training.learn.registry import find_model
from training.learn.train import (
    USUAL_PACE,
    DivergedError,
    Pace,
    Progress,
    Trained,
    Validate,
    _plan,
    train_phase,
    training_examples,
)
from training.measure.validation import validation_on

TRAIN = planted_sessions(200)
VALIDATE = validation_on(planted_sessions(30, seed=1))
RECIPE = dataclasses.replace(GRUEncoder.recipe, epochs=4, batch_size=16, lr=0.01, lr_step=2)
CONFIG = RunConfig("gru", "planted", 5, "32", 1, RECIPE, {"dim": 8})

OFTEN = Pace(report_steps=3, checkpoint_seconds=0)  # a checkpoint at every report, in mid-epoch too

# Trains as `run` does, but kills itself: at a step, or between writing a checkpoint and putting it in place.
KILLED = """
import os, pathlib, signal, sys
from tests.training.learn.test_train import OFTEN, run

file, moment, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
calls = 0

def kill_at_count():
    global calls
    calls += 1
    if calls == count:
        os.kill(os.getpid(), signal.SIGKILL)

class DeadlyPath(type(pathlib.Path())):
    def replace(self, target):
        kill_at_count()
        return super().replace(target)

if moment == "save":
    run(DeadlyPath(file), pace=OFTEN)
else:
    run(pathlib.Path(file), pace=OFTEN, on_progress=lambda progress: kill_at_count())
"""


def run(
    file: Path,
    *,
    phase: Phase = "select",
    config: RunConfig = CONFIG,
    validate: Validate | None = VALIDATE,
    resume: bool = False,
    on_progress: Callable[[Progress], object] = lambda progress: None,
    pace: Pace = USUAL_PACE,
) -> Trained:
    return train_phase(
        config,
        find_model(config.model),
        TRAIN,
        validate,
        phase=phase,
        file=file,
        resume=resume,
        on_progress=on_progress,
        on_epoch=lambda record: None,
        pace=pace,
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(tmp_path_factory.mktemp("run") / "select.pt")


def metrics(trained: Trained) -> list[dict[str, float]]:
    """The history without what a clock measured."""
    return [{k: v for k, v in record.items() if not k.endswith("seconds")} for record in trained.history]


@pytest.mark.parametrize(
    ("moment", "count"),
    [("step", 7), ("step", 12), ("save", 1), ("save", 6), ("save", 13)],
)
def test_killed_and_resumed(tmp_path: Path, uninterrupted: Trained, moment: str, count: int) -> None:
    file = tmp_path / "select.pt"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(file), moment, str(count)], check=False)
    assert killed.returncode == -9, "it should have died in the middle"
    resumed = run(file, resume=True)
    for name, weight in uninterrupted.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    assert metrics(resumed) == metrics(uninterrupted)
    assert resumed.epochs == uninterrupted.epochs


def test_session_parallel_run_resumed_in_mid_epoch(tmp_path: Path) -> None:
    """What the lanes carry, Adagrad's state and the drawn negatives all go on where they were."""
    recipe = dataclasses.replace(
        RECIPE, optimizer="adagrad", momentum=0.5, loss="bpr-max", negatives=5, epochs=2, batch_size=4
    )
    hyper: dict[str, Hyper] = {"dim": 8, "dropout_hidden": 0.25}
    config = dataclasses.replace(CONFIG, model="gru4rec", recipe=recipe, hyper=hyper)
    whole = run(tmp_path / "whole.pt", config=config)
    shown = []

    def interrupt(progress: Progress) -> None:
        shown.append(progress)
        if len(shown) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut.pt", config=config, on_progress=interrupt, pace=OFTEN)
    assert checkpoint.load(tmp_path / "cut.pt")["state"]["carried"] is not None
    resumed = run(tmp_path / "cut.pt", config=config, resume=True)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize("loss", typing.get_args(Loss))
def test_every_loss_learns(tmp_path: Path, loss: Loss) -> None:
    few = loss == "gbce"  # its sum over many negatives would drown one target of 30 items
    recipe = dataclasses.replace(
        RECIPE,
        loss=loss,
        negatives=3 if few else 20,
        in_batch=not few,
        epochs=16 if few else 8,
        lr_step=16,
        patience=16,
    )
    config = dataclasses.replace(CONFIG, recipe=recipe, hyper={"dim": 8, "head": "native"})
    trained = run(tmp_path / "select.pt", config=config)
    assert trained.history[-1]["mrr@20"] > 30  # a random order of 30 items has 13


def test_resuming_a_finished_run_trains_no_more(tmp_path: Path, uninterrupted: Trained) -> None:
    file = tmp_path / "select.pt"
    run(file)
    again = run(file, resume=True, on_progress=lambda progress: pytest.fail("a step was trained"))
    assert metrics(again) == metrics(uninterrupted)


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "select.pt"
    short = dataclasses.replace(CONFIG, recipe=dataclasses.replace(RECIPE, epochs=1))
    run(file, config=short)
    other = dataclasses.replace(short, seed=6)
    with pytest.raises(CheckpointError, match=r"seed was 5, is 6"):
        run(file, config=other, resume=True)


def test_a_checkpoint_from_before_a_setting_had_a_name_is_gone_on_with(
    tmp_path: Path, uninterrupted: Trained
) -> None:
    file = tmp_path / "select.pt"
    named = dataclasses.replace(CONFIG, hyper=resolve(GRUEncoder, ["dim=8"])[1])
    run(file, config=named)
    saved = checkpoint.load(file)
    identity = saved["identity"]
    for kind, name in (
        ("recipe", "elu"),
        ("recipe", "logq_target"),
        ("hyper", "layers"),
        ("hyper", "dropout_hidden"),
    ):
        del identity[kind][name]
    checkpoint.save(file, saved)
    again = run(file, config=named, resume=True, on_progress=lambda progress: pytest.fail("it trained anew"))
    assert metrics(again) == metrics(uninterrupted)
    other = dataclasses.replace(named, hyper={**named.hyper, "layers": 2})
    with pytest.raises(CheckpointError, match="hyper was"):
        run(file, config=other, resume=True)


def test_without_resume_a_run_starts_anew(tmp_path: Path) -> None:
    short = dataclasses.replace(CONFIG, recipe=dataclasses.replace(RECIPE, epochs=1))
    first, second = run(tmp_path / "select.pt", config=short), run(tmp_path / "select.pt", config=short)
    assert metrics(first) == metrics(second)
    assert len(second.history) == 1


def test_stops_early_and_keeps_the_best_weights(tmp_path: Path) -> None:
    """With a learning rate of zero nothing ever improves on the first epoch."""
    recipe = dataclasses.replace(RECIPE, lr=0.0, epochs=9, patience=2)
    trained = run(tmp_path / "select.pt", config=dataclasses.replace(CONFIG, recipe=recipe))
    assert trained.epochs == 1
    assert len(trained.history) == 3


def test_refit_runs_every_epoch_and_keeps_the_last_weights(tmp_path: Path) -> None:
    file = tmp_path / "refit.pt"
    trained = run(file, phase="refit", validate=None)
    assert trained.epochs == RECIPE.epochs == len(trained.history)
    last = checkpoint.load(file)["model"]
    assert all(torch.equal(weight, last[name]) for name, weight in trained.model.state_dict().items())


def test_learning_rate_falls_by_steps(uninterrupted: Trained) -> None:
    rates = [record["lr"] for record in uninterrupted.history]
    gamma = RECIPE.lr_gamma
    assert rates == pytest.approx([0.01, 0.01, 0.01 * gamma, 0.01 * gamma])


class Diverging(GRUEncoder):
    """Its loss, or the weights alone, are lost from the given step of all steps on."""

    def __init__(self, n_items: int, *, dim: int = 8, at: int = 0, of_weights: bool = False) -> None:
        super().__init__(n_items, dim=dim)
        self.at, self.of_weights, self.steps = at, of_weights, 0

    def loss(self, batch: Batch) -> torch.Tensor:
        self.steps += 1
        loss = super().loss(batch)
        if self.steps < self.at:
            return loss
        if self.of_weights:  # a square root at zero: a finite loss, and no finite gradient
            return loss + (self.items.weight * 0).sqrt().sum()
        return loss * float("inf")


def diverge(file: Path, validate: Validate | None = VALIDATE, **hyper: Hyper) -> None:
    train_phase(
        dataclasses.replace(CONFIG, hyper=hyper),
        Diverging,
        TRAIN,
        validate,
        phase="select" if validate else "refit",
        file=file,
        resume=False,
        on_progress=lambda progress: None,
        on_epoch=lambda record: None,
        pace=OFTEN,
    )


def test_a_loss_that_is_not_finite_ends_training_and_the_step_is_told(tmp_path: Path) -> None:
    steps = len(training_examples(GRUEncoder(TRAIN.n_items, dim=8), TRAIN).plan(RECIPE.batch_size, 5, 0))
    at = steps + 5  # not where the loss is read: that is every third step
    with pytest.raises(DivergedError, match=rf"epoch 2, batch 5 of {steps} \(select\): the loss is inf"):
        diverge(tmp_path / "select.pt", at=at)
    kept = checkpoint.load(tmp_path / "select.pt")["model"]
    assert all(torch.isfinite(weight).all() for weight in kept.values())


@pytest.mark.parametrize("validate", [VALIDATE, None], ids=["select", "refit"])
def test_weights_that_are_not_finite_end_training(tmp_path: Path, validate: Validate | None) -> None:
    """Those of the very last step, too, which no loss tells of."""
    steps = len(training_examples(GRUEncoder(TRAIN.n_items, dim=8), TRAIN).plan(RECIPE.batch_size, 5, 0))
    with pytest.raises(DivergedError, match=rf"epoch 4, by batch {steps} of {steps} .*: items.weight is not"):
        diverge(tmp_path / "run.pt", validate, at=4 * steps, of_weights=True)


def test_a_model_that_never_hits_is_not_taken(tmp_path: Path) -> None:
    def misses(model: object) -> dict[str, float]:
        return {"recall@20": 0.0, "mrr@20": 0.0}

    with pytest.raises(
        DivergedError, match=rf"Recall@20 is 0\.00 after each of {RECIPE.patience + 1} epochs"
    ):
        run(tmp_path / "select.pt", validate=misses)


def test_what_differs_from_the_recipe_names_a_run() -> None:
    """By value, not as it was typed; and the same on any machine and day."""

    def name(*sets: str, refit_epochs: int | None = None) -> str:
        return run_name("gru", 3, *resolve(GRUEncoder, sets), refit_epochs)

    own = GRUEncoder.recipe
    assert name() == name(f"lr={own.lr}", f"epochs={own.epochs}") == "gru-seed3"
    assert name("lr=0.02", "dim=8") == name("dim=8", "lr=2e-2") == "gru-seed3-235f73f1"
    others = {name("lr=0.02"), name("dim=8"), name("lr=0.02", "dim=8"), name(refit_epochs=2), name()}
    assert len(others) == 5


def test_a_full_disk_leaves_the_checkpoint_that_was(tmp_path: Path) -> None:
    file = tmp_path / "select.pt"
    checkpoint.save(file, {"epoch": 1})
    file.with_suffix(".writing").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint.save(file, {"weights": torch.zeros(100_000)})
    assert checkpoint.load(file) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_epochs_are_in_time_order_once_the_rate_has_decayed() -> None:
    """And only then: from the first epoch on it would unlearn what is old."""
    examples = training_examples(GRUEncoder(TRAIN.n_items, dim=8), TRAIN)
    assert isinstance(examples, Examples)
    recipe = dataclasses.replace(RECIPE, lr_step=2, time_order=True)
    for epoch in range(4):
        planned = np.concatenate(_plan(examples, recipe, seed=5, epoch=epoch)).tolist()
        ordered = examples.plan(recipe.batch_size, 5, epoch, in_order=epoch >= 2)
        assert planned == np.concatenate(ordered).tolist()
