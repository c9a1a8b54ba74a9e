"""What the pages Models and Training show of artifacts/runs: runs, checks and trainings; without NiceGUI.

What is broken, or half written, is a row that says so. The readers of `training` are imported when they are
asked for: they bring torch, and it is not there where only the service is installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from console.watching.figures import duration

if TYPE_CHECKING:
    from training.measure.progress import TrainingProgress

Phase = Literal["select", "refit"]
SILENT_SECONDS = 600.0  # after which what says that it runs may have been killed

Curve = tuple[tuple[float, float | None], ...]  # (epoch, value)


@dataclass(frozen=True)
class CheckRow:
    """A check of the gate."""

    name: str
    passed: bool
    measured: str
    limit: str
    detail: str


@dataclass(frozen=True)
class StepRow:
    name: str
    status: str
    took: str


@dataclass(frozen=True)
class RunRow:
    """A run of `nextclick run`; of one that cannot be read only `id` and `reason`."""

    id: str
    status: str
    reason: str | None
    version: str = "–"
    started: str = "–"
    steps: tuple[StepRow, ...] = ()
    checks: tuple[CheckRow, ...] = ()


@dataclass(frozen=True)
class TrainingRow:
    """A training that has left progress.json; of one that cannot be read only `place` and `reason`."""

    place: str
    status: str
    reason: str | None
    model: str = "–"
    dataset: str = "–"
    started: str = "–"
    at: str = ""  # how far it is
    curves: Mapping[str, Curve] = field(default_factory=dict)
    best: str = "–"


def find_runs(artifacts: Path) -> list[RunRow]:
    """The newest first. Raises `ModuleNotFoundError` where `training` is not installed."""
    from training.loop.run_record import FILE, RunError, read_record

    rows = []
    for file in sorted((artifacts / "runs").glob(f"run-*/{FILE}"), reverse=True):
        try:
            record = read_record(file)
        except (RunError, OSError) as error:
            rows.append(RunRow(file.parent.name, "unreadable", str(error)))
            continue
        steps = tuple(
            StepRow(name, step.status, "–" if step.seconds is None else duration(step.seconds))
            for name, step in record.steps.items()
        )
        gate = record.steps.get("gate")
        checks = (gate.outcome or {}).get("checks") if gate is not None else None
        rows.append(
            RunRow(
                record.id,
                record.status,
                record.reason,
                record.version,
                said(record.started_at),
                steps,
                tuple(map(_check, checks)) if isinstance(checks, list) else (),
            )
        )
    return rows


def _check(found: object) -> CheckRow:
    if not isinstance(found, Mapping):
        return CheckRow("–", False, "–", "–", "it cannot be read")
    measured, limit = (
        f"{each:.4g}" if isinstance(each, float) else "–" if each is None else str(each)
        for each in (found.get("measured"), found.get("limit"))
    )
    name, detail = str(found.get("name", "–")), str(found.get("detail") or "")
    return CheckRow(name, found.get("passed") is True, measured, limit, detail)


def find_trainings(artifacts: Path, now: datetime | None = None) -> list[TrainingRow]:
    """Those under way first, then the newest. Raises `ModuleNotFoundError`, as `find_runs`."""
    from training.measure.progress import FILE, ProgressError, read_progress

    now = now or datetime.now(UTC)
    readable: list[tuple[bool, datetime, TrainingRow]] = []
    broken = []
    runs = artifacts / "runs"
    # Where several models are trained, each has a directory in that of the training.
    for file in sorted([*runs.glob(f"*/*/{FILE}"), *runs.glob(f"*/*/*/{FILE}")]):
        place = str(file.parent.relative_to(runs)).replace("/checkpoints", "")
        try:
            found = read_progress(file)
        except ProgressError as error:
            broken.append(TrainingRow(place, "unreadable", str(error)))
            continue
        silent = (now - found.updated_at).total_seconds()
        status, reason = found.status, found.reason
        if status == "running" and silent > SILENT_SECONDS:
            reason = f"no sign of it for {duration(silent)}: it may have been killed"
        row = TrainingRow(
            place,
            status,
            reason,
            found.model,
            found.dataset,
            said(found.started_at),
            _how_far(found),
            _curves(found.history),
            _best(found.history.get("select", [])),
        )
        readable.append((status == "running", found.updated_at, row))
    readable.sort(key=lambda each: each[:2], reverse=True)
    return [row for *_, row in readable] + broken


def _how_far(found: TrainingProgress) -> str:
    if found.phase is None:
        return "not begun"
    if found.status == "done":
        return ", ".join(f"{name}: {len(records)} epochs" for name, records in found.history.items())
    told = f"{found.phase}: epoch {found.epoch} of at most {found.epochs}"
    if found.steps:
        told += f", batch {found.step:,} of {found.steps:,}"
    if found.loss is not None:
        told += f", loss {found.loss:.3f}"
    return told + (f", {found.targets_per_second:,.0f} targets/s" if found.targets_per_second else "")


def _curves(history: Mapping[Phase, list[dict[str, float]]]) -> dict[str, Curve]:
    """What is drawn, by name; of the refit the loss alone, which nothing validates."""
    curves: dict[str, Curve] = {}
    for phase, records in history.items():
        named = {"loss": "loss", "mrr@20": "validation MRR@20", "recall@20": "validation Recall@20"}
        for name, told in named.items():
            points = tuple((record["epoch"], record.get(name)) for record in records if "epoch" in record)
            if any(value is not None for _, value in points):
                curves[told if phase == "select" else f"{told}, {phase}"] = points
    return curves


def _best(records: Sequence[Mapping[str, float]]) -> str:
    validated = [record for record in records if "mrr@20" in record]
    if not validated:
        return "–"
    best = max(validated, key=lambda record: record["mrr@20"])
    recall = f", Recall@20 {best['recall@20']:.2f} %" if "recall@20" in best else ""
    return f"MRR@20 {best['mrr@20']:.2f} %{recall} in epoch {best['epoch']:.0f}"


def said(when: datetime) -> str:
    """A time in words, UTC."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
