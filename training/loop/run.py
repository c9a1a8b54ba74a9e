"""A run: from the newest clicks to a published bundle, step by step; after a kill it goes on where it was.

    collect -> prepare -> train -> evaluate -> gate -> publish

What a step found is in run.json, beside its times, and why a run did not publish.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from time import perf_counter

from pydantic_core import to_jsonable_python

from service.live.artifacts import Artifacts
from service.live.deployment import bring_live_here, prune, read_deployment
from service.process.settings import Settings
from training.bundling.export import ExportError
from training.bundling.teacher import TeacherError
from training.data.formats import PrepareError
from training.learn.train import DivergedError, Watcher
from training.loop.click_source import ClickSource
from training.loop.retrain import RetrainConfig
from training.loop.run_record import (
    RunError,
    RunRecord,
    StepRecord,
    StepStatus,
    anchors,
    begin_or_resume,
    run_lock,
    run_paths,
    tidy,
)
from training.loop.run_steps import STEPS, Judged, Run, Step, StoppedError


def run(
    config: RetrainConfig,
    settings: Settings,
    source: ClickSource,
    watcher: Watcher,
    *,
    new: bool = False,
    steps: Mapping[str, Step] = STEPS,
) -> RunRecord:
    """Make a run, or go on with the unfinished one unless `new`; returns its record, however it ended.

    A step that fails leaves its reason in run.json and raises what it raised; the champion serves on. Raises
    `RunLockedError`, `RunError`; `ObjectStoreError` when there is a store, and it does not answer.
    """
    artifacts, place = settings.artifacts_dir, Artifacts.of(settings)
    bring_live_here(place)
    if config.publish.as_ == "challenger" and read_deployment(artifacts).champion is None:
        raise RunError('[publish] as = "challenger": there is no champion yet: publish one first')
    with run_lock(artifacts):
        record = begin_or_resume(artifacts, config, new=new)
        paths = run_paths(artifacts, record.id)
        paths.directory.mkdir(parents=True, exist_ok=True)
        this = Run(config, settings, source, watcher, paths, record)
        this.write({})
        watcher.on_step(f"{record.id}: makes {record.version}; {paths.record} tells how it goes")
        for name, step in steps.items():
            if this.record.status == "running" and not _is_done(this.record, name):
                _take(this, name, step)
        if this.record.status in ("published", "refused"):
            prune(place, config.publish.keep, anchors(artifacts, config.gate.drift_days))
        tidy(artifacts)
        return this.record


def _take(run: Run, name: str, step: Step) -> None:
    """Make one step, and write down how it went."""
    run.watcher.on_step(name)
    started_at, began = datetime.now(UTC), perf_counter()
    run.write({name: StepRecord(status="running", started_at=started_at)})

    def ended(status: StepStatus, outcome: object = None) -> dict[str, StepRecord]:
        seconds, told = round(perf_counter() - began, 1), to_jsonable_python(outcome)
        return {name: StepRecord(status=status, started_at=started_at, seconds=seconds, outcome=told)}

    try:
        outcome = step(run)
    except (StoppedError, PrepareError, DivergedError, ExportError, TeacherError) as error:
        run.write(ended("stopped"), "stopped", f"{name}: {error}")
    except Exception as error:  # whatever it is: it is written down, and raised
        run.write(ended("failed"), "failed", f"{name}: {type(error).__name__}: {error}")
        raise
    else:
        if isinstance(outcome, Judged) and not outcome.passed:
            run.write(ended("done", outcome), "refused", f"{name}: {outcome.reason}")
        else:
            run.write(ended("done", outcome), "published" if name == "publish" else "running")


def _is_done(record: RunRecord, name: str) -> bool:
    return name in record.steps and record.steps[name].status == "done"
