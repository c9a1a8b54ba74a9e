"""run.json: what a run is, how far it came and why it ended; it is what a killed run resumes from.

artifacts/runs/run-20261124T030000/
    run.json         replaced atomically at every change; the rest goes when there are ten newer runs
    data/            the prepared data set
    day/             its newest day as it was clicked: see `training.data.heldout`
    checkpoints/     select.pt, refit.pt, and progress.json with their curves; of deployed versions they stay;
                     of several models each has a directory there, and choice.json tells which one was chosen
    members/         the bundles of a blend's members, until it is made
    evaluation.npz   the rank of every held-out case
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from service.live.deployment import bundle_path, read_deployment, replace_file
from service.ranking.bundle import read_manifest
from training.bundling.provenance import source_commit
from training.loop.retrain import GateConfig, RetrainConfig

FILE = "run.json"
LOCK = ".run.lock"
RESUMED_WITHIN = timedelta(hours=12)  # what is left of an older run is of yesterday's clicks
KEPT_RUNS = 10

Status = Literal["running", "published", "refused", "stopped", "failed"]
StepStatus = Literal["running", "done", "stopped", "failed"]


class RunError(ValueError):
    """A run cannot be begun or gone on with; the message says what to do."""


class RunLockedError(RuntimeError):
    """Another run is under way."""


class StepRecord(BaseModel):
    """One step of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: StepStatus
    started_at: datetime
    seconds: float | None = None
    outcome: dict[str, JsonValue] | None = None


class RunRecord(BaseModel):
    """run.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    version: str  # of the bundle it makes; auto-…, until a model is chosen
    config: dict[str, JsonValue]
    config_sha256: str
    commit: str
    warm_start_from: str | None  # the champion when it began
    started_at: datetime
    status: Status = "running"
    reason: str | None = None
    steps: dict[str, StepRecord] = {}


@dataclass(frozen=True)
class RunPaths:
    """Where everything of a run lies."""

    directory: Path

    @property
    def record(self) -> Path:
        return self.directory / FILE

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def day(self) -> Path:
        return self.directory / "day"

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    def checkpoint_of(self, model: str) -> Path:
        """That of the weights of `model` in the run's bundle."""
        own = self.checkpoints / model
        directory = own if own.is_dir() else self.checkpoints
        refitted = directory / "refit.pt"
        return refitted if refitted.exists() else directory / "select.pt"

    @property
    def members(self) -> Path:
        return self.directory / "members"

    @property
    def evaluation(self) -> Path:
        return self.directory / "evaluation.npz"

    def write(self, record: RunRecord) -> None:
        """Replace run.json."""
        replace_file(self.record, record.model_dump_json(indent=2).encode() + b"\n")


def run_paths(artifacts: Path, run_id: str) -> RunPaths:
    """Where a run lies. `train`'s checkpoints have directories beside it, called after data sets."""
    return RunPaths(artifacts / "runs" / run_id)


def paths_of_version(artifacts: Path, version: str, model: str) -> RunPaths:
    """Where the run lies that made `version`, if one did."""
    return run_paths(artifacts, f"run-{version.removeprefix(f'{model}-')}")


def read_record(file: Path) -> RunRecord:
    """Read a run.json. Raises `RunError`."""
    try:
        return RunRecord.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise RunError(f"{file}: {error.errors()[0]['msg']}: move its directory away") from error


def held_out_from(artifacts: Path, version: str) -> datetime:
    """Since when no click was trained on by a bundle; at the latest, when it was made.

    Raises `BundleError`, `RunError`.
    """
    manifest = read_manifest(bundle_path(artifacts, version))
    file = paths_of_version(artifacts, version, manifest.model).record
    if file.exists():
        prepared = read_record(file).steps.get("prepare")
        held_out = ((prepared.outcome if prepared else None) or {}).get("held_out")
        if isinstance(held_out, dict):
            return datetime.fromisoformat(str(held_out["begin"]))
    return manifest.created_at


def anchors(artifacts: Path, days: int) -> list[str]:
    """The versions that the nights are held to, or will be, oldest first; their bundles stay.

    Of the published runs every one that is `days` younger than the one chosen before it, beginning with the
    first. Of those that are `days` old only the newest is left. Raises `RunError`.
    """
    chosen: list[RunRecord] = []
    for record in _published(artifacts):
        if not chosen or record.started_at - chosen[-1].started_at >= timedelta(days=days):
            chosen.append(record)
    old = [each for each in chosen if datetime.now(UTC) - each.started_at >= timedelta(days=days)]
    return [each.version for each in chosen[max(len(old) - 1, 0) :]]


def newest_drift_days(artifacts: Path) -> int:
    """`[gate] drift_days` of the newest run that has it, or its default. Raises `RunError`."""
    for file in _newest_first(artifacts):
        match read_record(file).config.get("gate"):
            case {"drift_days": int(days)}:
                return days
    return GateConfig().drift_days


def _published(artifacts: Path) -> list[RunRecord]:
    """The runs whose bundle became the champion, oldest first."""
    records = [read_record(file) for file in reversed(_newest_first(artifacts))]
    return [
        record
        for record in records
        if record.status == "published"
        and "publish" in record.steps
        and (record.steps["publish"].outcome or {}).get("role") == "champion"
    ]


def begin_or_resume(artifacts: Path, config: RetrainConfig, *, new: bool) -> RunRecord:
    """The newest run with this config if it is unfinished and of the last 12 hours, else a new one."""
    now = datetime.now(UTC)
    for file in _newest_first(artifacts):
        record = read_record(file)
        if record.config_sha256 != config.sha256:
            continue
        is_unfinished = record.status in ("running", "failed")
        if new or not is_unfinished or now - record.started_at > RESUMED_WITHIN:
            break
        return record.model_copy(update={"status": "running", "reason": None})
    stamp = _unused_stamp(artifacts, now)
    return RunRecord(
        id=f"run-{stamp}",
        version=f"{config.train.makes}-{stamp}",
        config=config.model_dump(mode="json", by_alias=True),
        config_sha256=config.sha256,
        commit=source_commit(),
        warm_start_from=read_deployment(artifacts).champion if config.train.warm_start else None,
        started_at=now,
    )


def tidy(artifacts: Path) -> None:
    """Of all but the newest runs, keep run.json, and of deployed versions the checkpoints."""
    needed = read_deployment(artifacts).needed
    for file in _newest_first(artifacts)[KEPT_RUNS:]:
        paths = RunPaths(file.parent)
        doomed = [paths.data, paths.day, paths.members]
        if read_record(file).version not in needed:
            doomed.append(paths.checkpoints)
        for directory in doomed:
            if directory.exists():
                shutil.rmtree(directory)
        paths.evaluation.unlink(missing_ok=True)


@contextmanager
def run_lock(artifacts: Path) -> Iterator[None]:
    """Hold the lock on runs; the kernel frees it whatever happens to us. Raises `RunLockedError`."""
    artifacts.mkdir(parents=True, exist_ok=True)
    with (artifacts / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunLockedError(f"another run is under way: it holds {artifacts / LOCK}") from None
        yield


def _newest_first(artifacts: Path) -> list[Path]:
    return sorted((artifacts / "runs").glob(f"run-*/{FILE}"), reverse=True)


def _unused_stamp(artifacts: Path, now: datetime) -> str:
    """A time stamp that no run has, and no bundle of any model: which one it will be may not be known yet."""
    while True:
        stamp = f"{now:%Y%m%dT%H%M%S}"
        bundles = bundle_path(artifacts, "any").parent.glob(f"*-{stamp}")
        if not run_paths(artifacts, f"run-{stamp}").directory.exists() and not any(bundles):
            return stamp
        now += timedelta(seconds=1)
