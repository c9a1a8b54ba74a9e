"""A few models on one data set within a budget of minutes: planned by a measured pace, and stopped in time.

What is counted comes first, as it is cheap. Then each trained model gets its part of the time that is left;
one that the clock stops is measured as it was after its best epoch.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.sessions import Sessions
from service.ranking.bundle import Bundle
from training.bundling.export import ExportError
from training.bundling.indexes import WantedIndex
from training.data.dataset import Dataset
from training.data.sample import sample_sessions
from training.fit import FitOptions, export_checkpoint, fit
from training.learn.cards import card
from training.learn.checkpoint import Phase, RunConfig
from training.learn.hyper import fit_to_catalogue, resolve, resolve_counted
from training.learn.registry import baseline_names, find_model
from training.learn.train import DivergedError, Pace, Progress, default_precision, train_phase
from training.measure.evaluate import TOP, Evaluation
from training.measure.latency import rank_microseconds
from training.measure.metrics import mrr_at_k, recall_at_k
from training.measure.results import TargetRanks
from training.measure.significance import interval, resampled
from training.report.advice import Advice, Resampled, advise

MODELS = ("pop", "spop", "item_knn", "vmis_knn", "gru", "niser")
EPOCHS = 5  # that each trained model shall have time for; a larger log is sampled
FEWEST_EPOCHS = 3  # one that has no time for as many, on the fewest sessions, is rather left out for another
FEWEST = 20_000  # training sessions: below, fewer epochs are better than fewer sessions
VALIDATION_CASES, TEST_CASES = 10_000, 20_000  # about: more would cost minutes, and tell little more
PROBED = 20_000  # sessions that the pace is measured on,
PROBE_SECONDS = 3.0  # for so long, after the first step, which is slower
OFTEN = Pace(report_steps=1)  # so that the clock is looked at after every step
EXPORT_SECONDS = 20.0  # to export and check a trained model, until one was
REPORT_SECONDS = 10.0
LENGTHS = {"1": 1, "2": 2, "3-4": 4, "5-9": 9, "10+": np.iinfo(np.int64).max}  # clicks before the target
RARE = 5  # an item with fewer training clicks is cold
COLD, WARM = "cold", "warm"
FLAT = WantedIndex("flat", None)  # exact: models are compared, not indexes
NO_FILTER = ("cut_into_sessions", "train", "test", "sample")  # how steps are called that drop nothing
Tell = Callable[[str], None]


class TrialError(ValueError):
    """There is too little to try anything on; the message says what, and what to do."""


class OutOfTimeError(Exception):
    """A model has had its part of the budget."""


@dataclass(frozen=True)
class Budget:
    """Seconds of a clock that was `began` when it began."""

    seconds: float
    clock: Callable[[], float]
    began: float

    @property
    def spent(self) -> float:
        return self.clock() - self.began

    @property
    def left(self) -> float:
        return self.seconds - self.spent


@dataclass(frozen=True)
class Figure:
    """Percent, with a 95 % interval over the test sessions."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Part:
    """How a model does on some of the test cases, in percent."""

    cases: int
    recall: float
    mrr: float


@dataclass(frozen=True)
class Tried:
    """What came of one model."""

    model: str
    title: str
    cited: str
    recall: Figure
    mrr: Figure
    by_length: dict[str, Part]
    by_novelty: dict[str, Part]
    bundle: str | None  # the version; None: this one cannot be served
    bundle_bytes: int | None
    answer_milliseconds: dict[str, float] | None  # p50, p90: encode and search, one session, one thread
    epochs: int | None  # trained for, to the weights that were measured; None: counted
    stopped: bool  # by the clock, before validation said so
    seconds: float  # in all: learn, export, measure


@dataclass(frozen=True)
class LeftOut:
    """A model without figures, and why."""

    model: str
    why: str


@dataclass(frozen=True)
class Step:
    """What there was after a step of preparation."""

    step: str
    clicks: int
    sessions: int
    items: int
    dropped: int | None  # clicks; None: it is not one that drops


@dataclass
class Trial:
    """All that was found; `notes` say what the clock decided."""

    data: Dataset
    models: list[Tried] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    advice: Advice | None = None
    notes: list[str] = field(default_factory=list)
    sampled: dict[str, tuple[int, int]] | None = None  # sessions, of how many, by split
    threads: int = 1  # of training


@dataclass
class _Measured:
    model: str
    evaluation: Evaluation
    bundle: Path | None
    epochs: int | None
    stopped: bool
    seconds: float


@dataclass
class _Clocked:
    """Watches one model's training, and ends it in time."""

    model: str
    budget: Budget
    deadline: float  # on the budget's clock
    tell: Tell
    epochs: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    epoch_began: float = 0.0

    def on_phase(self, phase: Phase, epochs: int) -> None:
        self.epochs = epochs
        self.epoch_began = self.budget.clock()

    def on_progress(self, progress: Progress) -> None:
        if self.budget.clock() >= self.deadline:
            raise OutOfTimeError

    def on_epoch(self, phase: Phase, record: dict[str, float]) -> None:
        self.history.append(record)
        now = self.budget.clock()
        self.tell(
            f"  epoch {record['epoch']:.0f}  validation Recall@20 {record['recall@20']:.2f}"
            f"  MRR@20 {record['mrr@20']:.2f}  {now - self.epoch_began:.0f} s"
        )
        if len(self.history) < self.epochs and now + (now - self.epoch_began) > self.deadline:
            raise OutOfTimeError  # the next epoch would be cut off, and its time be lost
        self.epoch_began = now

    def on_step(self, text: str) -> None:
        pass

    @property
    def best_epoch(self) -> int:
        best = max(range(len(self.history)), key=lambda i: self.history[i]["mrr@20"])
        return best + 1


def check_enough(data: Dataset) -> None:
    """Raises `TrialError`."""
    if data.train.n_targets < 2 or data.validation.n_targets < 1 or data.test.n_targets < 1:
        raise TrialError(
            f"too few sessions: {len(data.train):,} to train on, {len(data.validation):,} for validation,"
            f" {len(data.test):,} to test on, and each needs one with a second click; see --test-days,"
            " --validation and --min-item-support"
        )


def try_models(
    models: Sequence[str],
    data: Dataset,
    sample: Path,
    artifacts: Path,
    budget: Budget,
    threads: Sequence[int],
    tell: Tell = lambda word: None,
) -> Trial:
    """Measure `models` on the test sessions of `data`, or of what is sampled of it to the directory `sample`.

    Trains with that of `threads` which is fastest: on a busy machine one is, as several wait for each other.
    Bundles lie in `artifacts` then. Raises `TrialError`.
    """
    check_enough(data)
    counted = [model for model in models if model in baseline_names()]
    trained = [model for model in models if model not in counted]
    trial = Trial(data)
    paces = _plan(trial, trained, sample, artifacts, budget, threads, tell)
    measured: list[_Measured] = []
    reserve = EXPORT_SECONDS
    for model in counted:
        tell(f"{model}: counting and measuring")
        try:
            measured.append(_count(model, trial.data, artifacts, budget))
        except ExportError as error:
            trial.left_out.append(LeftOut(model, str(error)))
            continue
        reserve = max(reserve, EXPORT_SECONDS + measured[-1].seconds)
    waiting = list(paces)
    while waiting:
        share = 1 / max(paces[waiting[0]], 1e-9) / _cost([paces[model] for model in waiting])
        seconds = share * (budget.left - len(waiting) * reserve - REPORT_SECONDS)
        model = waiting.pop(0)
        if seconds <= 0:
            trial.left_out.append(LeftOut(model, "no time was left to train it"))
            continue
        tell(f"{model}: training for at most {seconds:.0f} s")
        watcher = _Clocked(model, budget, budget.clock() + seconds, tell)
        began = budget.clock()
        try:
            found = _train(model, trial.data, artifacts, watcher, trial.threads)
        except (DivergedError, ExportError) as error:
            trial.left_out.append(LeftOut(model, str(error)))
            continue
        if found is None:
            trial.left_out.append(LeftOut(model, f"{seconds:.0f} s were not enough for one epoch"))
            continue
        found.seconds = budget.clock() - began
        measured.append(found)
        if found.stopped:
            trial.notes.append(_stopped(model, watcher, seconds))
    if not measured:
        raise TrialError(
            "no model could be measured: " + "; ".join(f"{of.model}: {of.why}" for of in trial.left_out)
        )
    trial.models, trial.advice = _judged(measured, trial.data)
    return trial


def _stopped(model: str, watcher: _Clocked, seconds: float) -> str:
    best, done = watcher.best_epoch, len(watcher.history)
    epochs = "one whole epoch" if done == 1 else f"{done} whole epochs"
    rising = "its validation still rose, so it may do better with longer --budget-minutes"
    outcome = rising if best == done else f"the best of them, {best}, was measured"
    return (
        f"{card(model, 2).title} was stopped by the clock in its {seconds:.0f} s, after {epochs}: {outcome}."
    )


def sample_size(sessions: int, targets: int, paces: Sequence[float], seconds: float) -> int:
    """How many of the training sessions to keep so that every model has time for its epochs.

    `paces` are targets a second of each, which share the `seconds`.
    """
    if not paces:
        return sessions
    affordable = max(seconds, 0.0) / _cost(paces) / EPOCHS  # targets
    return min(sessions, max(FEWEST, int(sessions * affordable / max(targets, 1))))


def affordable(targets: int, paces: Sequence[float], seconds: float) -> int:
    """How many models, the first ones, have time for `FEWEST_EPOCHS` of `targets` each; one at least."""
    models = len(paces)
    while models > 1 and FEWEST_EPOCHS * targets * _cost(paces[:models]) > seconds:
        models -= 1
    return models


def _cost(paces: Sequence[float]) -> float:
    """Seconds that it takes all of these models to learn from one target."""
    return sum(1 / max(pace, 1e-9) for pace in paces)


def _plan(
    trial: Trial,
    trained: Sequence[str],
    sample: Path,
    artifacts: Path,
    budget: Budget,
    threads: Sequence[int],
    tell: Tell,
) -> dict[str, float]:
    """Let the trial go on with some of its sessions, if there are more than there is time for.

    Chooses its threads. Returns those of `trained` that there is time for, and targets a second of each.
    """
    data, planned = trial.data, dict.fromkeys(trained, 0.0)
    kept = {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)}
    if trained:
        first = {n: _pace(trained[0], data, artifacts, budget, n) for n in threads}
        trial.threads = max(first, key=lambda n: first[n])
        others = [_pace(model, data, artifacts, budget, trial.threads) for model in trained[1:]]
        paces = [first[trial.threads], *others]
        for model, pace in zip(trained, paces, strict=True):
            tell(f"{model}: {pace:,.0f} targets a second, {trial.threads} thread(s)")
        ending = 2 * len(trained) * EXPORT_SECONDS + REPORT_SECONDS
        fewest = ceil(data.train.n_targets * min(1, FEWEST / kept["train"]))
        n = affordable(fewest, paces, budget.left - ending)
        planned = dict(zip(trained[:n], paces, strict=False))
        for model in trained[n:]:
            titles = " and ".join(card(of, 2).title for of in planned)
            why = f"there is time to train {titles} alone; longer --budget-minutes, or other --models"
            trial.left_out.append(LeftOut(model, why))
        ending = 2 * len(planned) * EXPORT_SECONDS + REPORT_SECONDS
        kept["train"] = sample_size(kept["train"], data.train.n_targets, paces[:n], budget.left - ending)
    for split, most, sessions in (
        ("validation", VALIDATION_CASES, data.validation),
        ("test", TEST_CASES, data.test),
    ):
        if sessions.n_targets > most:
            kept[split] = ceil(kept[split] * most / sessions.n_targets)
    of = {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)}
    if kept == of:
        return planned
    trial.sampled = {split: (kept[split], of[split]) for split in kept}
    told = ", ".join(
        f"{kept[split]:,} of {of[split]:,} {name}"
        for split, name in (("train", "training"), ("validation", "validation"), ("test", "test"))
        if kept[split] < of[split]
    )
    trial.notes.append(f"Sampled by session, to keep the budget: {told} sessions.")
    tell(trial.notes[-1])
    trial.data = sample_sessions(data, sample, **kept)
    return planned


def _pace(model: str, data: Dataset, artifacts: Path, budget: Budget, threads: int) -> float:
    """Targets a second, on the newest sessions."""
    model_class = find_model(model)
    recipe, hyper = resolve(model_class, [])
    recipe, _ = fit_to_catalogue(recipe, data.info.n_items, [])
    newest = data.train[max(0, len(data.train) - PROBED) :]
    seen = [(0, budget.clock())]  # steps, and when they were done
    pace = 0.0

    def measure(progress: Progress) -> None:
        nonlocal pace
        seen.append((progress.step, budget.clock()))
        is_over = progress.step == progress.steps
        (before, began), (steps, now) = seen[1 if len(seen) > 2 else 0], seen[-1]
        if is_over or (len(seen) > 2 and now - began >= PROBE_SECONDS):
            targets = newest.n_targets * (steps - before) / progress.steps
            pace = targets / max(now - began, 1e-3)
            raise OutOfTimeError

    config = RunConfig(model, data.info.fingerprint, 1, default_precision(), threads, recipe, hyper)
    with contextlib.suppress(OutOfTimeError):
        train_phase(
            config,
            model_class,
            newest,
            None,
            phase="select",
            file=artifacts / "runs" / "pace.pt",
            resume=False,
            on_progress=measure,
            on_epoch=lambda record: None,
            pace=OFTEN,
        )
    return pace


def _count(model: str, data: Dataset, artifacts: Path, budget: Budget) -> _Measured:
    began = budget.clock()
    watcher = _Clocked(model, budget, float("inf"), lambda word: None)
    options = FitOptions(None, resolve_counted(model, []), 1, default_precision(), 1, artifacts)
    fitted = fit(model, data, options, watcher, "nextclick try")
    assert fitted.evaluation is not None, "the test sessions were asked for"
    return _Measured(model, fitted.evaluation, fitted.bundle, None, False, budget.clock() - began)


def _train(model: str, data: Dataset, artifacts: Path, watcher: _Clocked, threads: int) -> _Measured | None:
    """None: not even one epoch was done in time."""
    recipe, hyper = resolve(find_model(model), [])
    recipe, _ = fit_to_catalogue(recipe, data.info.n_items, [])
    checkpoints = artifacts / "runs" / model
    options = FitOptions(
        recipe, hyper, 1, default_precision(), threads, artifacts, FLAT, checkpoints=checkpoints, pace=OFTEN
    )
    try:
        fitted = fit(model, data, options, watcher, "nextclick try")
        bundle, evaluation, stopped = fitted.bundle, fitted.evaluation, False
    except OutOfTimeError:
        if not watcher.history:
            return None
        bundle, evaluation = export_checkpoint(checkpoints / "select.pt", data, artifacts, FLAT)
        stopped = True
    finally:
        shutil.rmtree(checkpoints, ignore_errors=True)
    assert evaluation is not None, "the test sessions were asked for"
    return _Measured(model, evaluation, bundle, watcher.best_epoch, stopped, 0.0)


def _judged(measured: Sequence[_Measured], data: Dataset) -> tuple[list[Tried], Advice | None]:
    ranks = {
        of.model: TargetRanks(
            np.where(of.evaluation.ranks <= TOP, of.evaluation.ranks, 0), of.evaluation.cases_of
        )
        for of in measured
    }
    recall, mrr = resampled(ranks, "recall@20"), resampled(ranks, "mrr@20")
    tried = [_tried(of, data, recall, mrr) for of in measured]
    servable = [of.model for of in measured if of.bundle is not None]
    if not servable:
        return tried, None
    advice = advise(
        servable,
        [model for model in ("pop", "spop") if model in ranks],
        recall,
        mrr,
        {of.model: (of.recall.value, of.mrr.value) for of in tried},
        len(data.test),
    )
    return tried, advice


def _tried(measured: _Measured, data: Dataset, recall: Resampled, mrr: Resampled) -> Tried:
    model, evaluation = measured.model, measured.evaluation
    described = card(model, 2)
    milliseconds = None
    if measured.bundle is not None:
        times = rank_microseconds(Bundle.load(measured.bundle), data.test)
        milliseconds = {name: round(of / 1000, 3) for name, of in times.items()}
    return Tried(
        model,
        described.title,
        described.cited,
        Figure(evaluation.unmasked[f"recall@{TOP}"], *interval(recall[model])),
        Figure(evaluation.unmasked[f"mrr@{TOP}"], *interval(mrr[model])),
        _parts(evaluation, np.searchsorted(list(LENGTHS.values()), evaluation.lengths), list(LENGTHS)),
        _parts(evaluation, _is_warm(data), [COLD, WARM]),
        measured.bundle.name if measured.bundle else None,
        sum(file.stat().st_size for file in measured.bundle.iterdir()) if measured.bundle else None,
        milliseconds,
        measured.epochs,
        measured.stopped,
        round(measured.seconds, 1),
    )


def _parts(evaluation: Evaluation, group: npt.NDArray[np.int64], names: Sequence[str]) -> dict[str, Part]:
    """Of the cases of each group: `group` (cases,) holds places in `names`."""
    found = {}
    for number, name in enumerate(names):
        ranks = evaluation.ranks[group == number]
        if len(ranks):
            found[name] = Part(len(ranks), 100 * recall_at_k(ranks, TOP), 100 * mrr_at_k(ranks, TOP))
    return found


def _is_warm(data: Dataset) -> npt.NDArray[np.int64]:
    """(cases,) 1 where the target's item has enough training clicks, else 0; ordered as an `Evaluation`."""
    clicks = np.bincount(data.train.items, minlength=data.info.n_items + 1)
    clicks[0] = 0  # PAD: an item that no training session holds
    return (clicks[_targets(data.test)] >= RARE).astype(np.int64)


def _targets(sessions: Sessions) -> npt.NDArray[np.int32]:
    """Every click but the first of its session."""
    is_target = np.ones(len(sessions.items), dtype=bool)
    begins = sessions.offsets[:-1]
    is_target[begins[begins < len(is_target)]] = False
    return np.asarray(sessions.items)[is_target]


def steps_of(counts: Mapping[str, int]) -> list[Step]:
    """The steps of preparation, in order, from the flat counts of dataset.json."""
    steps: list[Step] = []
    for name in [name.removesuffix("_clicks") for name in counts if name.endswith("_clicks")]:
        if f"{name}_sessions" not in counts:
            continue
        clicks, sessions, items = (counts[f"{name}_{unit}"] for unit in ("clicks", "sessions", "items"))
        drops = (bool(steps) and not name.startswith(NO_FILTER)) or name in ("test_known_items", "test")
        dropped = steps[-1].clicks - clicks if steps and drops else None
        steps.append(Step(name.replace("_", " "), clicks, sessions, items, dropped))
    return steps
