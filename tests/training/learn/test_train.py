"""A run that was killed goes on to the very weights of a run that was not."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.base import Hyper
from models.gru4rec import GRU4Rec
from models.losses import Loss
from tests.training.planted import planted_sessions
from training.learn import checkpoint
from training.learn.checkpoint import CheckpointError, Phase, RunConfig
from training.learn.train import USUAL_PACE, Pace, Progress, Trained, Validate, train_phase
from training.measure.validation import validation_on

TRAIN = planted_sessions(200)
VALIDATE = validation_on(planted_sessions(30, seed=1))
RECIPE = dataclasses.replace(GRU4Rec.recipe, epochs=4, batch_size=16, lr=0.01, lr_step=2)
CONFIG = RunConfig("gru4rec", "planted", 5, "32", 1, RECIPE, {"dim": 8})

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
        GRU4Rec,
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
    hyper: dict[str, Hyper] = {"dim": 8, "batching": "session-parallel", "head": "native"}
    config = dataclasses.replace(CONFIG, recipe=recipe, hyper=hyper)
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
        RECIPE, loss=loss, negatives=3 if few else 20, in_batch=not few, epochs=8, lr_step=8, patience=8
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
