"""Shows training as it runs: a progress bar on a terminal, one line an epoch anywhere else."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from training.learn.checkpoint import Phase
from training.learn.train import Progress


class TerminalWatcher:
    """Rich progress on `console` (stderr when stdout is to stay machine-readable)."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:,.0f} targets/s"),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._epochs = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def on_phase(self, phase: Phase, epochs: int) -> None:
        purpose = {
            "select": "training on the training sessions",
            "refit": "training again on training and validation sessions",
        }[phase]
        if self._task is not None:
            self._bar.reset(self._task)
        self._console.print(f"[bold]{phase}[/bold]: {purpose}; at most {epochs} epochs")

    def on_progress(self, progress: Progress) -> None:
        if self._task is None:
            self._task = self._bar.add_task("", loss=progress.loss, rate=0.0)
        self._epochs = progress.epochs
        self._bar.update(
            self._task,
            description=f"epoch {progress.epoch}/{progress.epochs}",
            total=progress.epochs * progress.steps,
            completed=(progress.epoch - 1) * progress.steps + progress.step,
            loss=progress.loss,
            rate=progress.targets_per_second,
        )

    def on_epoch(self, phase: Phase, record: dict[str, float]) -> None:
        measured = "".join(
            f"  {name} {record[key]:.2f}"
            for name, key in (("Recall@20", "recall@20"), ("MRR@20", "mrr@20"))
            if key in record
        )
        self._console.print(
            f"  epoch {record['epoch']:.0f}  loss {record['loss']:.4f}{measured}"
            f"  lr {record['lr']:.2g}  {record['train_seconds']:.0f} s{self._left(record)}"
        )

    def _left(self, record: dict[str, float]) -> str:
        seconds = (self._epochs - record["epoch"]) * (record["train_seconds"] + record["validation_seconds"])
        return f"  at most {seconds / 60:.0f} min left" if seconds else ""

    def on_step(self, text: str) -> None:
        self._console.print(text, markup=False)
