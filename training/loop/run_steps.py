"""The steps of a run: each is a function of the run, and tells what it found.

A step may be made again after a kill, before its end was written down: it takes what is there, or replaces
it.
"""

from __future__ import annotations

import dataclasses
import io
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from pydantic import JsonValue, TypeAdapter

from service.live.artifacts import Artifacts
from service.live.deployment import bundle_path, challenge, read_deployment, replace_file
from service.live.deployment import publish as publish_version
from service.process.settings import Settings
from service.ranking.bundle import Bundle, read_manifest
from training.blending import blended
from training.bundling.content import Attributes
from training.bundling.indexes import WantedIndex
from training.bundling.provenance import BLEND
from training.data.dataset import Dataset
from training.data.heldout import (
    HeldOut,
    days_of_files,
    days_to_hold_out,
    of_known_items,
    with_newest_day,
    write_newest_day,
)
from training.data.prepare import Rules
from training.data.prepare import prepare as prepare_dataset
from training.fit import FitOptions, fit
from training.learn.devices import open_fabric
from training.learn.registry import find_baseline
from training.learn.train import Watcher, default_precision
from training.learn.warm_start import ColdStart, WarmStart, warm_start
from training.loop.click_source import ClickSource
from training.loop.gate import CaseRanks, Check, Lead, Measured, judge, verdict
from training.loop.retrain import RetrainConfig
from training.loop.run_record import (
    RunError,
    RunPaths,
    RunRecord,
    Status,
    StepRecord,
    anchors,
    held_out_from,
    paths_of_version,
    read_record,
)
from training.measure.evaluate import TOP, Evaluation, evaluate_counted
from training.measure.evaluate import evaluate as evaluate_bundle
from training.search.auto import AUTO
from training.search.candidates import Resolved, candidates, fitted_to_catalogue
from training.search.choose import Found, choose, options_of

COMMAND = "python -m training run"


class StoppedError(RuntimeError):
    """A check stopped the run, and to repeat the step would not help; the message says which."""


@dataclass
class Run:
    """A run under way; `record` is what run.json says."""

    config: RetrainConfig
    settings: Settings
    source: ClickSource
    watcher: Watcher
    paths: RunPaths
    record: RunRecord

    @property
    def artifacts(self) -> Path:
        return self.settings.artifacts_dir

    @property
    def place(self) -> Artifacts:
        """Where what is live is said, and said by it."""
        return Artifacts.of(self.settings)

    @property
    def stamp(self) -> str:
        """The time that run and version are called by."""
        return self.record.id.removeprefix("run-")

    def write(
        self, steps: Mapping[str, StepRecord], status: Status = "running", reason: str | None = None
    ) -> None:
        """Put the state of steps, and of the run, into run.json."""
        self.record = self.record.model_copy(
            update={"status": status, "reason": reason, "steps": {**self.record.steps, **steps}}
        )
        self.paths.write(self.record)

    def rename(self, model: str) -> None:
        """Call the version by the model that was chosen, in run.json as well."""
        version = f"{model}-{self.stamp}"
        self.record = self.record.model_copy(update={"version": version})
        self.paths.write(self.record)


@dataclass(frozen=True)
class Prepared:
    train_sessions: int  # those for validation included
    test_sessions: int
    items: int
    fingerprint: str
    held_out: HeldOut


@dataclass(frozen=True)
class Started:
    """How the training of one model began."""

    started_from: str | None = None
    why_not: str | None = None  # of a start from random weights
    new_items: int | None = None  # of a warm start: items without a vector to begin with
    fresh: tuple[str, ...] = ()  # of a warm start: parameters that could not be mapped


@dataclass(frozen=True)
class Trained:
    version: str
    model: str
    items: int
    started_from: str | None  # this and the next three: see `Started`; of a blend they are in `members`
    why_not: str | None
    new_items: int | None
    fresh: tuple[str, ...]
    test: dict[str, float]  # on the prepared test sessions, as in the manifest
    candidates: tuple[Found, ...] = ()  # that the model was chosen from
    members: dict[str, Started] = field(default_factory=dict)  # of a blend, by model


@dataclass(frozen=True)
class Evaluated:
    sessions: int
    cases: int
    challenger: Measured
    champion: Measured | None
    since: datetime | None = None  # they began then or later: no bundle compared was trained on a click since
    fair: bool = True  # False: there is no such session, and these are all that the challenger has not seen
    lead: Lead | None = None  # over VMIS-kNN
    anchor: str | None = None  # the version that nights together are held to
    anchor_lead: Lead | None = None  # on its own night


@dataclass(frozen=True)
class Judged:
    passed: bool
    verdict: str  # passed, worse, cannot tell; refused: for another reason than how well it recommends
    checks: list[Check]

    @property
    def reason(self) -> str:
        """What has failed."""
        return "; ".join(check.summary for check in self.checks if not check.passed)


@dataclass(frozen=True)
class Published:
    role: str
    share: float
    previous: str | None


def collect(run: Run) -> Mapping[str, JsonValue]:
    """Drain the click log."""
    return run.source.collect()


def prepare(run: Run) -> Prepared:
    """Make the data set, and the newest day as it was clicked."""
    wanted, source = run.config.prepare, run.source
    if not source.files(1):
        raise StoppedError("no clicks are collected yet")
    days = days_to_hold_out(
        source.files,
        source.log_format,
        sessions=wanted.test_sessions,
        least=wanted.test_days,
        most=wanted.max_test_days,
        gap_minutes=wanted.gap_minutes,
    )
    rules = Rules(
        gap_minutes=wanted.gap_minutes,
        min_session_length=wanted.min_session_length,
        min_item_support=wanted.min_item_support,
        test_days=days,
        validation=wanted.validation,
    )
    # What more is held out is not taken from what is trained on.
    files = source.files(wanted.days + math.ceil(days - wanted.test_days))
    info = prepare_dataset(
        files,
        run.paths.data,
        log_format=source.log_format,
        name=run.record.id,
        rules=rules,
        force=True,
    )
    data = Dataset.load(run.paths.data)
    if len(data.train_all) < wanted.min_sessions:
        raise StoppedError(
            f"{len(data.train_all):,} training sessions: [prepare] min_sessions = {wanted.min_sessions:,}"
        )
    held_out = write_newest_day(
        source.files(days_of_files(days, wanted.gap_minutes)),
        source.log_format,
        data,
        run.paths.day,
        test_days=days,
        gap_minutes=wanted.gap_minutes,
    )
    return Prepared(len(data.train_all), len(data.test), info.n_items, info.fingerprint, held_out)


def train(run: Run) -> Trained:
    """Make the bundle; a checkpoint is gone on with, and a bundle that is there is taken."""
    wanted, data, tell = run.config.train, Dataset.load(run.paths.data), run.watcher.on_step
    if wanted.student is not None:
        begun = _begin(run, data, wanted.resolved([wanted.student]))
        _student(run, data, wanted.student, begun[wanted.student].options)
        return _trained(run, data, begun[wanted.student].started)
    if wanted.blend:
        begun = _begin(run, data, wanted.resolved(wanted.blend))
        _blend(run, data, {name: each.options for name, each in begun.items()})
        return _trained(run, data, members={name: each.started for name, each in begun.items()})
    found: tuple[Found, ...] = ()
    if wanted.model == AUTO:
        begun = _begin(run, data, candidates(run.artifacts, wanted.set, tell))
        tried = {name: each.options for name, each in begun.items()}
        choice = choose(
            tried, data, run.paths.checkpoints, 60 * wanted.budget_minutes, run.watcher, resume=True
        )
        model, found = choice.model, choice.found
        for other in tried.keys() - {model}:
            shutil.rmtree(run.paths.checkpoints / other, ignore_errors=True)
        run.rename(model)
        tell(f"{run.record.id}: makes {run.record.version}")
        options = tried[model]
    else:
        model = wanted.model
        begun = _begin(run, data, wanted.resolved([model]))
        options = dataclasses.replace(begun[model].options, checkpoints=run.paths.checkpoints)
    version = run.record.version
    if not bundle_path(run.artifacts, version).exists():
        fit(model, data, dataclasses.replace(options, version=version), run.watcher, COMMAND)
    return _trained(run, data, begun[model].started, candidates=found)


@dataclass(frozen=True)
class _Begun:
    """What a model is trained with, and how that began; its checkpoints lie in a directory of its name."""

    options: FitOptions
    started: Started


def _begin(run: Run, data: Dataset, settings: Mapping[str, Resolved]) -> dict[str, _Begun]:
    wanted = run.config.train
    settings = fitted_to_catalogue(settings, data.info.n_items, wanted.set, run.watcher.on_step)
    is_trained = any(recipe is not None for recipe, _ in settings.values())
    fabric = open_fabric(wanted.device) if is_trained else None
    options = FitOptions(
        recipe=None,
        hyper={},
        seed=wanted.seed,
        precision=default_precision(fabric.device if fabric else None),
        threads=wanted.threads,
        artifacts=run.artifacts,
        index=WantedIndex(wanted.index, wanted.max_index_mb),
        refit=wanted.refit,
        resume=True,
        fabric=fabric,
        repeats=wanted.repeats,
        attributes=_attributes(run) if is_trained else None,
    )
    begun = {}
    for name, own in options_of(settings, options, run.paths.checkpoints).items():
        start, why_not = _start(run, data, name, own)
        started = Started(why_not=why_not)
        if start is not None:
            started = Started(start.version, None, start.new_items, start.fresh)
        begun[name] = _Begun(dataclasses.replace(own, start=start), started)
    return begun


def _blend(run: Run, data: Dataset, members: Mapping[str, FitOptions]) -> None:
    """Train the members, one after the other, and make one bundle of theirs, which are not kept."""
    version = run.record.version
    if not bundle_path(run.artifacts, version).exists():
        wanted = run.config.train
        blended(
            _members(run, data, members),
            data,
            run.artifacts,
            index=WantedIndex(wanted.index, wanted.max_index_mb),
            repeats=wanted.repeats,
            test=True,
            version=version,
            tell=run.watcher.on_step,
        )
    shutil.rmtree(run.paths.members, ignore_errors=True)


def _student(run: Run, data: Dataset, student: str, options: FitOptions) -> None:
    """Train the members of a blend, and one model that their blend teaches; it alone is kept.

    Members begin with random weights and are not refitted: a teacher has not seen the validation sessions.
    """
    version = run.record.version
    if not bundle_path(run.artifacts, version).exists():
        wanted = run.config.train
        teacher = bundle_path(run.paths.members, f"{BLEND}-{run.stamp}")
        if not teacher.exists():
            settings = fitted_to_catalogue(
                wanted.resolved(wanted.blend), data.info.n_items, wanted.set, run.watcher.on_step
            )
            fresh = dataclasses.replace(options, refit=False, start=None, repeats=False)
            members = options_of(settings, fresh, run.paths.members / "checkpoints")
            blended(
                _members(run, data, members),
                data,
                run.paths.members,
                repeats=False,
                version=teacher.name,
                tell=run.watcher.on_step,
            )
        run.watcher.on_step(f"student: {student}")
        taught = dataclasses.replace(
            options,
            checkpoints=run.paths.checkpoints,
            version=version,
            teacher=Bundle.load(teacher, wanted.threads),
        )
        fit(student, data, taught, run.watcher, COMMAND)
    shutil.rmtree(run.paths.members, ignore_errors=True)


def _members(run: Run, data: Dataset, members: Mapping[str, FitOptions]) -> list[Bundle]:
    """A bundle of each; those that an earlier process made are taken."""
    places: list[Path] = []
    for name, options in members.items():
        places.append(bundle_path(run.paths.members, f"{name}-{run.stamp}"))
        if places[-1].exists():
            continue
        run.watcher.on_step(f"member {len(places)} of {len(members)}: {name}")
        # Flat: an index of codes has other vectors than the member. The test is read for what they become.
        own = dataclasses.replace(
            options,
            artifacts=run.paths.members,
            version=places[-1].name,
            index=WantedIndex("flat", None),
            attributes=None,
            test=False,
        )
        fit(name, data, own, run.watcher, COMMAND)
    return [Bundle.load(place, run.config.train.threads) for place in places]


def _trained(
    run: Run,
    data: Dataset,
    started: Started = Started(),
    *,
    candidates: tuple[Found, ...] = (),
    members: Mapping[str, Started] | None = None,
) -> Trained:
    place = bundle_path(run.artifacts, run.record.version)
    manifest = read_manifest(place)
    if manifest.data_fingerprint != data.info.fingerprint:
        raise RunError(f"{place}: was made of other clicks than {run.paths.data}: move it away")
    return Trained(
        run.record.version,
        manifest.model,
        manifest.n_items,
        **dataclasses.asdict(started),
        test=manifest.metrics,
        candidates=candidates,
        members=dict(members or {}),
    )


def _attributes(run: Run) -> Attributes | None:
    """What the catalogue says of items now, if it shall become content."""
    wanted = run.config.train
    found = run.source.attributes() if wanted.content else None
    return dataclasses.replace(found, cold_share=wanted.cold_share, optional=True) if found else None


def _start(run: Run, data: Dataset, model: str, options: FitOptions) -> tuple[WarmStart | None, str | None]:
    """What training begins with, or why that is random weights."""
    if options.recipe is None:
        return None, "neighbours are counted"
    wanted, champion = run.config.train, run.record.warm_start_from
    if champion is None:
        return None, "there was no champion" if wanted.warm_start else "[train] warm_start = false"
    made = read_manifest(bundle_path(run.artifacts, champion)).model
    checkpoint = paths_of_version(run.artifacts, champion, made).checkpoint_of(model)
    try:
        return warm_start(run.artifacts, champion, checkpoint, model, options.hyper, data.items), None
    except ColdStart as error:
        return None, str(error)


def evaluate(run: Run) -> Evaluated:
    """Measure challenger and champion on the very same cases, of days that neither was trained on.

    And, on those, VMIS-kNN as counted tonight and the version that nights together are held to.
    """
    data, champion = Dataset.load(run.paths.data), read_deployment(run.artifacts).champion
    anchor = _anchor(run, champion)
    since = None if champion is None else held_out_from(run.artifacts, champion)
    day = with_newest_day(data, run.paths.day, since)
    fair = len(day.test) > 0
    if not fair:
        day = with_newest_day(data, run.paths.day)
    found = {"challenger": _measure(run, run.record.version, day)}
    if champion is not None:
        found["champion"] = _measure(run, champion, day)
    if anchor is not None and fair and (since is None or held_out_from(run.artifacts, anchor) <= since):
        found["anchor"] = _measure(run, anchor, day)
    evaluation, challenger = found["challenger"]
    known = of_known_items(day)
    counted = evaluate_counted(find_baseline("vmis_knn")(data.train_all), known, known.test)
    buffer = io.BytesIO()
    arrays = {name: each.ranks for name, (each, _) in found.items()} | {"cases": evaluation.cases_of}
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    replace_file(run.paths.evaluation, buffer.getvalue())
    return Evaluated(
        len(day.test),
        evaluation.cases,
        challenger,
        found["champion"][1] if champion is not None else None,
        since,
        fair,
        Lead.of(evaluation.unmasked, counted.unmasked),
        anchor,
        _lead_of(run, anchor),
    )


def _anchor(run: Run, champion: str | None) -> str | None:
    """The version that nights together are held to, unless it is live, which is compared anyway."""
    for version in anchors(run.artifacts, run.config.gate.drift_days):
        if version == champion or bundle_path(run.artifacts, version).is_dir():
            return version if version != champion else None
    return None


def _lead_of(run: Run, version: str | None) -> Lead | None:
    """By how much a version was ahead of VMIS-kNN on its own night."""
    if version is None:
        return None
    model = read_manifest(bundle_path(run.artifacts, version)).model
    record = read_record(paths_of_version(run.artifacts, version, model).record)
    lead = (record.steps["evaluate"].outcome or {}).get("lead")
    return TypeAdapter(Lead).validate_python(lead) if lead else None


def _measure(run: Run, version: str, day: Dataset) -> tuple[Evaluation, Measured]:
    bundle = Bundle.load(bundle_path(run.artifacts, version), run.config.train.threads)
    evaluation = evaluate_bundle(bundle, day, day.test)
    known = np.array([False, *(item_id in bundle.index_of for item_id in day.items)])
    metrics = evaluation.unmasked
    return evaluation, Measured(
        version=version,
        recall=metrics[f"recall@{TOP}"],
        mrr=metrics[f"mrr@{TOP}"],
        item_coverage=float(known[day.test.items].mean()),
        catalogue_coverage=metrics[f"coverage@{TOP}"] / 100,
    )


def _evaluated(run: Run) -> Evaluated:
    return TypeAdapter(Evaluated).validate_python(run.record.steps["evaluate"].outcome)


def gate(run: Run) -> Judged:
    """Judge the challenger."""
    data, evaluated = Dataset.load(run.paths.data), _evaluated(run)
    with np.load(run.paths.evaluation) as saved:
        others = (saved.get("champion"), saved.get("anchor"))
        ranks = CaseRanks(saved["cases"], saved["challenger"], *others, evaluated.fair)
    checks = judge(
        run.config.gate,
        run.artifacts,
        evaluated.challenger,
        ranks,
        (evaluated.lead, evaluated.anchor_lead),
        data,
        with_newest_day(data, run.paths.day),
        run.paths.checkpoint_of,
        read_deployment(run.artifacts),
    )
    return Judged(all(check.passed for check in checks), verdict(checks), checks)


def publish(run: Run) -> Published:
    """Deploy the bundle in its role; workers follow by themselves."""
    wanted, version = run.config.publish, run.record.version
    now = read_deployment(run.place)
    champion = _evaluated(run).champion
    if now.previous == version:
        raise StoppedError(f"{version} was published, and rolled back since")
    if now.champion not in (champion.version if champion else None, version):
        raise StoppedError(f"the champion is {now.champion} now, which {version} was not compared with")
    if wanted.as_ == "champion":
        deployed = publish_version(run.place, version, by=run.record.id)
    else:
        deployed = challenge(run.place, version, wanted.share, run.record.id)
    share = deployed.challenger_share if wanted.as_ == "challenger" else 1.0
    return Published(wanted.as_, share, deployed.previous)


Step = Callable[[Run], object]  # returns what there is to tell of it
STEPS: Mapping[str, Step] = {
    "collect": collect,
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "gate": gate,
    "publish": publish,
}
