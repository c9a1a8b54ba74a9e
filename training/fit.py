"""The heart of training: learn or count, export, evaluate the bundle as it is served, record the result."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch

from models.base import Hyper, Recipe, SessionEncoder
from models.interactions import held
from models.sessions import Sessions
from service.live.deployment import bundle_path
from service.ranking.bundle import Bundle
from service.ranking.content import Content
from service.ranking.neighbours import Neighbours
from service.ranking.repeats import RepeatTable
from service.ranking.retriever import Retriever, Vectors
from training.baselines.counting import Counted
from training.bundling.content import Attributes, Cases, ContentError, fit_content, newest_cases
from training.bundling.export import (
    export_bundle,
    export_neighbours,
    recent_sessions,
    served_item_vectors,
    served_session_vectors,
)
from training.bundling.indexes import FASTEST, WantedIndex
from training.bundling.provenance import Provenance, new_version, source_commit
from training.bundling.repeats import fit_repeats, scaled, spread
from training.bundling.teacher import Teacher
from training.data.dataset import Dataset, DatasetError
from training.learn.answers import Answers
from training.learn.checkpoint import (
    Phase,
    Precision,
    RunConfig,
    RunInUseError,
    alone_in,
    check_writable,
    load,
    load_trained,
    run_name,
)
from training.learn.devices import on_processor
from training.learn.hyper import objective_in_words
from training.learn.registry import find_baseline, find_model
from training.learn.train import USUAL_PACE, Pace, Progress, Trained, Validate, Watcher, train_phase
from training.learn.warm_start import WarmStart
from training.measure.evaluate import TOP, Evaluation, evaluate, evaluate_counted
from training.measure.progress import FILE as PROGRESS
from training.measure.progress import recorded
from training.measure.results import Fitted, headline, measurements
from training.measure.validation import validation_on

if TYPE_CHECKING:
    from lightning_fabric import Fabric

TOGETHER = 512  # sessions that are encoded at once


@dataclass(frozen=True)
class FitOptions:
    """What is decided beside model and data.

    A counted baseline has no recipe and draws nothing at random: of these it takes `hyper`, `artifacts`,
    `refit` and `version`, and `seed` only says beside which runs its result stands.
    """

    recipe: Recipe | None
    hyper: dict[str, Hyper]
    seed: int
    precision: Precision
    threads: int
    artifacts: Path
    index: WantedIndex = FASTEST
    refit: bool = False
    refit_epochs: int | None = None
    resume: bool = False
    checkpoints: Path | None = None  # the directory they go to; None: that of the command `train`
    version: str | None = None  # of the bundle; None: named by the time it is made
    start: WarmStart | None = None  # None: from random weights
    pace: Pace = USUAL_PACE
    attributes: Attributes | None = None  # of items: they become content of the bundle
    repeats: bool = True  # fit what is added to items that a session holds
    test: bool = True  # read the test sessions; else the result and the bundle tell of validation alone
    teacher: Bundle | None = None  # whose answers are a part of the targets
    fabric: Fabric | None = None  # where a model is trained; None: on the processor, in one process

    @property
    def teacher_version(self) -> str | None:
        """As runs, bundles and results call it."""
        return self.teacher.manifest.version if self.teacher else None


@dataclass(frozen=True)
class TrainedOrCounted:
    """A model that was trained or counted, and what the result says of how."""

    model: SessionEncoder | Counted
    settings: Mapping[str, object]
    epochs: int
    seconds: float
    parameters: int
    history: Mapping[Phase, list[dict[str, float]]]
    validation: dict[str, float] | None  # percent, of the chosen epoch; None: none was held back from it
    selected: SessionEncoder | None = None  # a model that has not seen the validation sessions


def fit(model: str, data: Dataset, options: FitOptions, watcher: Watcher, command: str) -> Fitted:
    """Train or count `model` on `data`; if it can be served, a verified bundle lies in `artifacts/bundles/`.

    With `refit` the bundle holds a model of training and validation sessions, trained for the number of
    epochs that validation chose, or for `refit_epochs` chosen earlier. Without `test` the test sessions are
    not read, and the bundle's metrics are validation's, each called `validation …`.

    Raises `CheckpointError`, `ContentError`, `DatasetError`, `DivergedError`, `ExportError`, `OSError`,
    `RunInUseError`, `TeacherError`.
    """
    check_targets(data, test=options.test)
    if options.recipe is None and options.attributes is not None:
        raise ContentError(f"{model} is counted, it has no item vectors: attributes say nothing to it")
    check_writable(bundle_path(options.artifacts, options.version or "new").parent)
    refitted = options.refit or options.refit_epochs is not None
    provenance = _provenance(
        model, data, options.seed, options.recipe, options.hyper, options.teacher_version, refitted=refitted
    )
    learned = learn(model, data, options, watcher)
    if isinstance(learned.model, SessionEncoder | Neighbours):
        watcher.on_step("exporting, checking and evaluating the bundle")
        bundle, evaluation = _export(
            learned.model,
            provenance,
            data,
            options.artifacts,
            options.version,
            options.index,
            None if options.test else learned.validation or {},
            options.attributes,
            learned.selected if options.repeats else None,
            watcher.on_step,
        )
    else:
        bundle = None
        evaluation = evaluate_counted(learned.model, data, data.test) if options.test else None
    result: dict[str, object] = {
        **headline(model, data),
        "command": command,
        "commit": provenance.source_commit,
        "seed": options.seed,
        **learned.settings,
        "hyperparameters": options.hyper,
        "trained_on": "training and validation sessions" if refitted else "training sessions",
        "epochs": learned.epochs,
        "wall_seconds": learned.seconds,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,  # of this process
        "parameters": learned.parameters,
        "history": learned.history,
        "bundle": bundle.name if bundle else None,
        "validation": learned.validation,
    }
    if evaluation is not None:
        result |= measurements(Bundle.load(bundle) if bundle else None, data, evaluation)
    return Fitted(bundle, result, evaluation)


def learn(model: str, data: Dataset, options: FitOptions, watcher: Watcher) -> TrainedOrCounted:
    """What `fit` does before its export. Raises what `fit` raises there."""
    if options.recipe is None:
        return _count(model, data, options)
    return _train(model, data, options, options.recipe, watcher)


def train_along(model: str, data: Dataset, options: FitOptions, watcher: Watcher) -> None:
    """What each process but the first does of `fit`: train, and leave the rest to that one.

    Raises what `fit` raises before its export.
    """
    assert options.recipe is not None, "what is counted is counted by one process"
    check_targets(data, test=options.test)
    learn(model, data, options, watcher)


def check_targets(data: Dataset, *, test: bool) -> None:
    """Refuse, before hours of training, what would come to nothing at their end. Raises `DatasetError`."""
    for split, sessions in {"training": data.train, "test": data.test}.items():
        if (split == "training" or test) and not sessions.n_targets:
            raise DatasetError(
                f"{data.path}: no {split} session has a second click: there is nothing to "
                + ("learn from" if split == "training" else "measure on")
            )


def export_checkpoint(
    file: Path,
    data: Dataset,
    artifacts: Path,
    index: WantedIndex,
    attributes: Attributes | None = None,
    *,
    repeats: bool = True,
) -> tuple[Path, Evaluation]:
    """Leave a bundle of what a checkpoint holds; returns where it lies and how it does on the test sessions.

    Raises `CheckpointError`, `ContentError`, `DatasetError`, `ExportError`.
    """
    check_targets(data, test=True)
    model, config = load_trained(file, data)
    torch.set_num_threads(config.threads)
    refitted = load(file)["identity"]["phase"] == "refit"
    selected: SessionEncoder | None = model
    if refitted:  # what was trained before it lies beside it
        before = file.with_name("select.pt")
        selected = load_trained(before, data)[0] if before.exists() else None
    provenance = _provenance(
        config.model, data, config.seed, config.recipe, config.hyper, config.teacher, refitted=refitted
    )
    path, evaluation = _export(
        model, provenance, data, artifacts, None, index, None, attributes, selected if repeats else None
    )
    assert evaluation is not None, "the test sessions were asked for"
    return path, evaluation


def _train(
    model: str, data: Dataset, options: FitOptions, recipe: Recipe, watcher: Watcher
) -> TrainedOrCounted:
    fabric = options.fabric or on_processor()
    config = RunConfig(
        model=model,
        data_fingerprint=data.info.fingerprint,
        seed=options.seed,
        precision=options.precision,
        threads=options.threads,
        recipe=recipe,
        hyper=options.hyper,
        started_from=options.start.version if options.start else None,
        device=fabric.device.type,
        processes=fabric.world_size,
        teacher=options.teacher_version,
    )
    teacher = Teacher.of(options.teacher, data) if options.teacher else None
    checkpoints = options.checkpoints
    if checkpoints is None:
        name = run_name(
            model, options.seed, recipe, options.hyper, options.refit_epochs, options.teacher_version
        )
        checkpoints = options.artifacts / "runs" / data.info.name / name
        watcher.on_step(f"checkpoints: {checkpoints}")
    phases: dict[Phase, Trained] = {}
    answers: Answers | None = None

    def run_phase(phase: Phase, config: RunConfig, train: Sessions, validate: Validate | None) -> Trained:
        watcher.on_phase(phase, config.recipe.epochs)
        objective = objective_in_words(recipe, data.info.n_items)
        if find_model(model).batching == "interactions" and len(held(train)) < len(train):
            newest = f"the newest {len(held(train)):,} of {len(train):,}"
            watcher.on_step(f"{model} learns a vector for each session, and from {newest} sessions alone")
        phases[phase] = train_phase(
            config,
            find_model(model),
            train,
            validate,
            phase=phase,
            file=checkpoints / f"{phase}.pt",
            resume=options.resume,
            on_progress=_telling_cost(watcher, objective),
            on_epoch=lambda record: watcher.on_epoch(phase, record),
            initial=options.start,
            fabric=fabric,
            pace=options.pace,
            answers=answers,
        )
        return phases[phase]

    epochs = options.refit_epochs
    validate = None
    if epochs is None and data.validation.n_targets:
        validate = validation_on(data.validation)
        watcher.on_step("validation MRR@20 chooses the epoch, and ends training when it no longer rises")
    elif epochs is None:
        watcher.on_step(
            "nothing is held back for validation: no epoch is chosen,"
            f" training goes on for all {recipe.epochs}"
        )
        if options.refit:  # on what would be the same sessions
            epochs = recipe.epochs
    with _first_alone_in(checkpoints, fabric), ExitStack() as watched:
        if fabric.global_rank == 0:
            file = checkpoints / PROGRESS
            watcher = watched.enter_context(
                recorded(watcher, file, model, data.info.name, resume=options.resume)
            )
        if teacher is not None:
            file = checkpoints / f"{options.teacher_version}-{data.info.fingerprint[:8]}.answers"
            answers = _answered(teacher, data, file, options, fabric, watcher)
        if epochs is None:
            last = run_phase("select", config, data.train, validate)
            epochs = last.epochs
        if options.refit or options.refit_epochs is not None:
            assert epochs is not None
            for_epochs = dataclasses.replace(config, recipe=dataclasses.replace(recipe, epochs=epochs))
            last = run_phase("refit", for_epochs, data.train_all, None)
    histories = {phase: trained.history for phase, trained in phases.items()}
    seconds = sum(r["train_seconds"] + r["validation_seconds"] for h in histories.values() for r in h)
    return TrainedOrCounted(
        last.model,
        {
            "precision": options.precision,
            "threads": options.threads,
            "device": config.device,
            "processes": config.processes,
            "recipe": dataclasses.asdict(recipe),
            **({"teacher": options.teacher_version} if options.teacher else {}),
        },
        last.epochs,
        round(seconds),
        sum(parameter.numel() for parameter in last.model.parameters()),
        histories,
        _chosen(phases["select"]) if "select" in phases else None,
        phases["select"].model if "select" in phases else None,
    )


def _answered(
    teacher: Teacher, data: Dataset, file: Path, options: FitOptions, fabric: Fabric, watcher: Watcher
) -> Answers:
    """A teacher's answers for both phases: the training sessions are the first of all. Raises `OSError`.

    The first process asks; where it cannot write, all end.
    """
    problem: OSError | None = None
    if fabric.global_rank == 0:
        try:
            teacher.answer(data.train_all, file, options.threads, resume=options.resume, tell=watcher.on_step)
        except OSError as error:
            problem = OSError(error.errno, error.strerror, str(file))
    problem = fabric.broadcast(problem)
    if problem is not None:
        raise problem
    return Answers(file, data.train_all.n_items)


def _telling_cost(watcher: Watcher, objective: str) -> Callable[[Progress], object]:
    """Hands progress on; after the first steps it says what is trained, and what that costs."""
    told = False

    def on_progress(progress: Progress) -> None:
        nonlocal told
        if not told:
            told = True
            watcher.on_step(cost_in_words(objective, progress))
        watcher.on_progress(progress)

    return on_progress


def cost_in_words(objective: str, progress: Progress) -> str:
    """What a step and an epoch take, by the steps so far of this one."""
    step = progress.epoch_seconds / progress.step
    return (
        f"{objective}: {1000 * step:,.0f} ms a step, an epoch of {progress.steps:,} steps about"
        f" {step * progress.steps:,.0f} s (measured on {progress.step:,} steps)"
    )


@contextmanager
def _first_alone_in(checkpoints: Path, fabric: Fabric) -> Iterator[None]:
    """The first process holds the lock; where it gets none, all are refused. Raises `RunInUseError`."""
    with ExitStack() as held:
        refused: Exception | None = None
        if fabric.global_rank == 0:
            try:
                held.enter_context(alone_in(checkpoints))
            except (RunInUseError, OSError) as error:
                refused = error
        refused = fabric.broadcast(refused)
        if refused is not None:
            raise refused
        yield


def _chosen(selected: Trained) -> dict[str, float] | None:
    """What validation said of the epoch that it chose."""
    record = selected.history[selected.epochs - 1]
    return {name: value for name, value in record.items() if "@" in name} or None


def _count(baseline: str, data: Dataset, options: FitOptions) -> TrainedOrCounted:
    """Of validation there is something to tell only where test is not asked for: it may take minutes."""
    count = find_baseline(baseline)
    started = perf_counter()
    counted = count(data.train_all if options.refit else data.train, **options.hyper)
    seconds = round(perf_counter() - started, 1)
    validation = None
    if not options.test and data.validation.n_targets:
        held_back = count(data.train, **options.hyper) if options.refit else counted
        metrics = evaluate_counted(held_back, data, data.validation).unmasked
        validation = {name: metrics[name] for name in (f"recall@{TOP}", f"mrr@{TOP}")}
    return TrainedOrCounted(counted, {"threads": 1, "recipe": None}, 0, seconds, 0, {}, validation)


def _provenance(
    model: str,
    data: Dataset,
    seed: int,
    recipe: Recipe | None,
    hyper: dict[str, Hyper],
    teacher: str | None,
    *,
    refitted: bool,
) -> Provenance:
    """Where the bundle will come from: the code that runs now; what lies there later may be newer."""
    settings = {**(dataclasses.asdict(recipe) if recipe else {}), **hyper, "refit": refitted}
    if teacher is not None:
        settings["teacher"] = teacher
    return Provenance(model, seed, settings, source_commit(), data.info.fingerprint)


def _export(
    model: SessionEncoder | Neighbours,
    provenance: Provenance,
    data: Dataset,
    artifacts: Path,
    version: str | None,
    index: WantedIndex,
    validation: dict[str, float] | None = None,
    attributes: Attributes | None = None,
    selected: SessionEncoder | None = None,
    tell: Callable[[str], object] = lambda _: None,
) -> tuple[Path, Evaluation | None]:
    """A bundle that answers as `model` does, and how it does on the test sessions.

    `selected` is `model`, or what validation chose before this was refitted on it. The test sessions are not
    read where there are figures of `validation` to put in their place.
    """
    evaluations: list[Evaluation] = []

    def measure(bundle: Bundle) -> dict[str, float]:
        if validation is not None:
            return {f"validation {name}": value for name, value in validation.items()}
        evaluations.append(evaluate(bundle, data, data.test))
        return evaluations[-1].unmasked

    sample, version = recent_sessions(data.train_all), version or new_version(provenance.model, artifacts)
    if isinstance(model, SessionEncoder):
        learn = partial(_learn_content, model, data, attributes, tell)
        repeats = partial(_learn_repeats, model, selected, data, tell)
        path = export_bundle(
            model, data.items, sample, provenance, artifacts, version, measure, index, learn, repeats
        )
    else:
        path = export_neighbours(model, data.items, sample, provenance, artifacts, version, measure)
    return path, evaluations[-1] if evaluations else None


def _learn_content(
    model: SessionEncoder,
    data: Dataset,
    attributes: Attributes | None,
    tell: Callable[[str], object],
    vectors: Vectors,
) -> Content | None:
    """What attributes say of items' `vectors`, judged by the newest sessions."""
    if attributes is None:
        return None
    prefixes, targets = newest_cases(data.validation if data.validation.n_targets else data.train_all)
    starts = range(0, len(prefixes), TOGETHER)
    queries = [served_session_vectors(model, prefixes[start : start + TOGETHER]) for start in starts]
    cases = Cases(np.concatenate(queries), targets)
    clicks = np.bincount(data.train_all.items, minlength=len(data.items) + 1)[1:]
    try:
        content = fit_content(vectors, model.head, data.items, clicks, attributes, cases)
    except ContentError as error:
        if not attributes.optional:
            raise
        tell(f"no content: {error}")
        return None
    measured = ", ".join(f"{name} {value:.4g}" for name, value in content.measured.items())
    tell(f"content: {measured}")
    return content


def _learn_repeats(
    model: SessionEncoder,
    selected: SessionEncoder | None,
    data: Dataset,
    tell: Callable[[str], object],
    bundle: Bundle,
) -> RepeatTable | None:
    """What the validation sessions say of repeats, to a model that was not trained on them."""
    if selected is None or not data.validation.n_targets:
        return None
    retriever, encode = bundle.retriever, bundle.encoder.encode
    if selected is not model:
        retriever = Retriever.build(served_item_vectors(selected), "flat")
        encode = partial(served_session_vectors, selected)
    table = fit_repeats(retriever, encode, data.validation, model.max_length)
    if table is None:
        tell("repeats: a score of their own does not pay")
        return None
    if selected is not model:  # how far it spreads its scores may be otherwise
        before, after = (
            spread(*each, data.train)
            for each in ((retriever, encode), (bundle.retriever, bundle.encoder.encode))
        )
        table = scaled(table, after / before if before else 1.0)
    measured = ", ".join(f"{name} {value:.4g}" for name, value in table.measured.items())
    tell(f"repeats: {measured}")
    return table
