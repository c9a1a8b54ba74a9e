"""progress.json: what whoever watches a training from afar can see of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.learn.train import Progress
from training.measure.progress import (
    FILE,
    WRITE_SECONDS,
    ProgressError,
    TrainingProgress,
    read_progress,
    recorded,
)


class Told:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_phase(self, phase: str, epochs: int) -> None:
        self.calls.append(f"phase {phase} {epochs}")

    def on_progress(self, progress: Progress) -> None:
        self.calls.append(f"progress {progress.step}")

    def on_epoch(self, phase: str, record: dict[str, float]) -> None:
        self.calls.append(f"epoch {record['epoch']:.0f}")

    def on_step(self, text: str) -> None:
        self.calls.append(text)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def at(step: int) -> Progress:
    return Progress("select", 2, 10, step, 100, 3.5, 1000.0, 4.0)


def record(epoch: int) -> dict[str, float]:
    return {"epoch": epoch, "loss": 5.0 - epoch, "mrr@20": 10.0 + epoch}


def test_it_says_how_far_a_training_is_and_how_it_ended(tmp_path: Path) -> None:
    file, told, clock = tmp_path / FILE, Told(), Clock()
    with recorded(told, file, "niser", "shop", resume=False, clock=clock) as watcher:
        watcher.on_phase("select", 10)
        assert read_progress(file).epochs == 10
        watcher.on_epoch("select", record(1))
        watcher.on_progress(at(20))
        assert read_progress(file).step == 0, "not so often"
        clock.now += WRITE_SECONDS
        watcher.on_progress(at(40))
        found = read_progress(file)
        assert (found.status, found.epoch, found.step, found.steps, found.loss) == (
            "running",
            2,
            40,
            100,
            3.5,
        )
        watcher.on_epoch("select", record(2))
        watcher.on_phase("refit", 2)
        watcher.on_epoch("refit", {"epoch": 1, "loss": 1.0})
    found = read_progress(file)
    assert (found.model, found.dataset, found.status, found.phase) == ("niser", "shop", "done", "refit")
    assert found.history == {"select": [record(1), record(2)], "refit": [{"epoch": 1, "loss": 1.0}]}
    assert told.calls == [
        *("phase select 10", "epoch 1", "progress 20", "progress 40", "epoch 2", "phase refit 2", "epoch 1")
    ]


def train(file: Path, *epochs: int, resume: bool = False, fails: BaseException | None = None) -> None:
    with recorded(Told(), file, "niser", "shop", resume=resume) as watcher:
        for epoch in epochs:
            watcher.on_epoch("select", record(epoch))
        if fails is not None:
            raise fails


def test_what_failed_says_why_and_what_is_resumed_goes_on(tmp_path: Path) -> None:
    file = tmp_path / FILE
    with pytest.raises(KeyboardInterrupt):
        train(file, 1, 2, fails=KeyboardInterrupt())
    assert (read_progress(file).status, read_progress(file).reason) == ("failed", "KeyboardInterrupt")
    with pytest.raises(ValueError, match="too large"):  # the checkpoint was of epoch 1
        train(file, 2, 3, resume=True, fails=ValueError("the loss is too large"))
    found = read_progress(file)
    assert (found.status, found.reason) == ("failed", "ValueError: the loss is too large")
    assert found.history == {"select": [record(1), record(2), record(3)]}
    train(file, 1)
    assert read_progress(file).history == {"select": [record(1)]}, "begun anew"


def test_a_training_does_not_end_for_it(tmp_path: Path) -> None:
    told = Told()
    with recorded(told, tmp_path / "nowhere" / FILE, "niser", "shop", resume=True) as watcher:
        watcher.on_phase("select", 1)
        watcher.on_epoch("select", record(1))
    assert [call for call in told.calls if "cannot be written" in call] == [told.calls[0]], "said once"


@pytest.mark.parametrize("content", ["", "{", '{"model": "niser"}', "\xff"])
def test_a_broken_one_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / FILE
    with pytest.raises(ProgressError, match="cannot be read"):
        read_progress(file)
    file.write_text(content, "latin-1")
    with pytest.raises(ProgressError, match=r"progress\.json"):
        read_progress(file)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    with recorded(Told(), tmp_path / FILE, "niser", "shop", resume=False) as watcher:
        watcher.on_progress(at(1))
    found = read_progress(tmp_path / FILE)
    assert TrainingProgress.model_validate(found.model_dump()) == found
