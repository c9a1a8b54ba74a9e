"""progress.json: how far a training is, and its curves; beside the checkpoints, for who watches from afar.

What training goes on from is in the checkpoints. This can be read without torch, and may be deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from service.live.deployment import replace_file
from training.learn.checkpoint import Phase
from training.learn.train import Progress, Watcher

FILE = "progress.json"
WRITE_SECONDS = 5.0  # no more often, within an epoch


class ProgressError(ValueError):
    """A progress.json cannot be read; the message says why."""


class TrainingProgress(BaseModel):
    """progress.json; an epoch's record is what the checkpoint says of it: loss, rate, seconds, validation."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str
    dataset: str
    started_at: datetime
    updated_at: datetime
    status: Literal["running", "done", "failed"] = "running"
    reason: str | None = None
    phase: Phase | None = None
    epoch: int = 0
    epochs: int = 0  # at most
    step: int = 0
    steps: int = 0
    loss: float | None = None  # of this epoch so far
    targets_per_second: float | None = None
    history: dict[Phase, list[dict[str, float]]] = {}


def read_progress(file: Path) -> TrainingProgress:
    """Read a progress.json. Raises `ProgressError`."""
    try:
        return TrainingProgress.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ProgressError(f"{file}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ProgressError(f"{file}: {error.errors(include_url=False)[0]['msg']}") from error


@contextmanager
def recorded(
    watcher: Watcher,
    file: Path,
    model: str,
    dataset: str,
    *,
    resume: bool,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Watcher]:
    """Write down what the watcher is told, and how it ended; `resume`: the curves go on where they were."""
    recorder = _Recorder(watcher, file, model, dataset, clock)
    if resume:
        recorder.go_on()
    try:
        yield recorder
    except BaseException as error:
        recorder.end("failed", f"{type(error).__name__}: {error}".removesuffix(": "))
        raise
    recorder.end("done")


class _Recorder:
    """A watcher in front of another one."""

    def __init__(
        self, watcher: Watcher, file: Path, model: str, dataset: str, clock: Callable[[], float]
    ) -> None:
        now = datetime.now(UTC)
        self._watcher = watcher
        self._file = file
        self._clock = clock
        self._written = -WRITE_SECONDS
        self._is_told = False
        self._state = TrainingProgress(model=model, dataset=dataset, started_at=now, updated_at=now)

    def go_on(self) -> None:
        try:
            self._state.history = read_progress(self._file).history
        except ProgressError:  # there is none, or no good one: the curves begin here
            return

    def on_phase(self, phase: Phase, epochs: int) -> None:
        state = self._state
        state.phase, state.epochs, state.epoch, state.step, state.steps = phase, epochs, 0, 0, 0
        self._write()
        self._watcher.on_phase(phase, epochs)

    def on_progress(self, progress: Progress) -> None:
        for name in ("epoch", "epochs", "step", "steps", "loss", "targets_per_second"):
            setattr(self._state, name, getattr(progress, name))
        if self._clock() >= self._written + WRITE_SECONDS:
            self._write()
        self._watcher.on_progress(progress)

    def on_epoch(self, phase: Phase, record: dict[str, float]) -> None:
        before = [each for each in self._state.history.get(phase, []) if each["epoch"] < record["epoch"]]
        self._state.history[phase] = [*before, record]
        self._write()
        self._watcher.on_epoch(phase, record)

    def on_step(self, text: str) -> None:
        self._watcher.on_step(text)

    def end(self, status: Literal["done", "failed"], reason: str | None = None) -> None:
        self._state.status, self._state.reason = status, reason
        self._write()

    def _write(self) -> None:
        """Training goes on without it."""
        self._written = self._clock()
        self._state.updated_at = datetime.now(UTC)
        try:
            replace_file(self._file, self._state.model_dump_json(indent=1).encode() + b"\n")
        except OSError as error:
            if not self._is_told:
                self._watcher.on_step(f"{self._file}: cannot be written: {error.strerror}")
            self._is_told = True
