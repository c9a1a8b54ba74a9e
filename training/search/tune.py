"""Hyper-parameter search on validation: a study of trials that a kill at any moment only delays.

A trial is the `select` phase of a run, judged by validation MRR@20 after every epoch; the test sessions are
not looked at. The study on disk holds finished trials only. What is drawn for a trial
follows from the seed and the trials before it, so a trial cut short is drawn again, with the same parameters,
and goes on from its checkpoint: the study ends as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from models.base import Hyper
from training.data.dataset import Dataset
from training.learn import checkpoint
from training.learn.checkpoint import CheckpointError, Precision, RunConfig
from training.learn.devices import open_fabric, resolve_device
from training.learn.hyper import fit_to_catalogue, resolve
from training.learn.registry import find_model
from training.learn.train import Watcher, train_phase
from training.measure.validation import validation_on
from training.search.space import Space, assignments, own_parameters, settings
from training.search.study import FILE, TuneError, anew, open_study

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class TuneOptions:
    """What the command line decides beside model and data; `trials` counts those of earlier processes too."""

    fixed: Sequence[str]  # assignments, as of --set
    space: Space
    trials: int
    seed: int
    precision: Precision
    threads: int
    artifacts: Path
    device: str = "auto"


def tune(model: str, data: Dataset, options: TuneOptions, watcher: Watcher) -> list[FrozenTrial]:
    """Run or go on with the study of `model` on `data` until it has its trials; returns all of them.

    The value of a complete trial is MRR@20 in percent; the attributes `recall@20` and `epoch` are of its best
    epoch. A trial whose parameters cannot be trained has failed; it says why in `reason`, and does not count.

    Raises `TuneError`.
    """
    if not data.validation.n_targets:
        raise TuneError(f"{data.path}: has no validation sessions of two clicks or more to search on")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    place = study_path(options.artifacts, data.info.name, model)
    with open_study(place, _identity(model, data, options)) as kept:
        # Trials run in memory and are kept when they are over, so a kill leaves none half done.
        # Steps are epochs, from 1; the first one is no reason to prune.
        pruner = MedianPruner(n_startup_trials=4, n_warmup_steps=2)
        study = optuna.create_study(direction="maximize", pruner=pruner)
        study.add_trials(kept.trials)
        while len(study.get_trials(states=FINISHED)) < options.trials:
            failed = study.get_trials(states=[TrialState.FAIL])
            if len(failed) >= options.trials:
                reason = failed[-1].user_attrs["reason"]
                raise TuneError(
                    f"{place / FILE}: {len(failed)} trials failed, the last by {reason}; {anew(place)}"
                )
            finished = _run_trial(study, model, data, options, watcher)
            kept.add_trial(finished)
            watcher.on_step(describe(finished))
        _remove_checkpoints(place)
        return study.trials


def study_path(artifacts: Path, dataset: str, model: str) -> Path:
    """Where a study's finished trials lie, and the checkpoint of the trial that runs."""
    return artifacts / "tune" / dataset / model


def best_first(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The complete trials, by validation MRR@20."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(complete, key=_best_value, reverse=True)


def describe(trial: FrozenTrial) -> str:
    """A finished trial in one line."""
    if trial.state == TrialState.FAIL:
        result = str(trial.user_attrs["reason"])
    else:
        result = f"MRR@20 {_best_value(trial):.2f}  Recall@20 {trial.user_attrs['recall@20']:.2f}"
    return f"trial {trial.number}  {trial.state.name.lower()}  {result}  {show(trial.params)}"


def show(parameters: dict[str, Hyper]) -> str:
    """Parameters for reading: floats are rounded."""
    rounded = {n: float(f"{v:.3g}") if isinstance(v, float) else v for n, v in parameters.items()}
    return " ".join(assignments(rounded))


def _best_value(trial: FrozenTrial) -> float:
    return max(trial.intermediate_values.values())


def _run_trial(
    study: optuna.Study, model: str, data: Dataset, options: TuneOptions, watcher: Watcher
) -> FrozenTrial:
    number = len(study.trials)
    seed = np.random.SeedSequence([number, options.seed]).generate_state(1)[0]
    study.sampler = TPESampler(multivariate=True, seed=int(seed))
    own = own_parameters(find_model(model), options.fixed, options.space)
    if number == 0 and own is not None:
        study.enqueue_trial(own)  # so that the study tells what was gained
    trial = study.ask(dict(options.space))
    watcher.on_step(f"trial {number}: {show(trial.params)}")
    place = study_path(options.artifacts, data.info.name, model)
    digest = hashlib.sha256(json.dumps(trial.params, sort_keys=True).encode()).hexdigest()
    directory = place / f"{number}-{digest[:12]}"  # another optuna may draw others for the same number
    _remove_checkpoints(place, but=directory)
    try:
        best = _train(trial, model, data, options, directory / "select.pt", watcher)
    except optuna.TrialPruned:
        return study.tell(trial, state=TrialState.PRUNED)
    except CheckpointError:
        raise
    except (RuntimeError, ValueError) as error:  # how models and torch refuse settings, sizes and memory
        trial.set_user_attr("reason", f"{type(error).__name__}: {error}")
        return study.tell(trial, state=TrialState.FAIL)
    return study.tell(trial, best)


def _train(
    trial: optuna.Trial, model: str, data: Dataset, options: TuneOptions, file: Path, watcher: Watcher
) -> float:
    """The best validation MRR@20 of the trial's epochs. Raises `TrialPruned`."""
    model_class = find_model(model)
    chosen = [*options.fixed, *assignments(trial.params)]
    recipe, hyper = resolve(model_class, chosen)
    recipe, _ = fit_to_catalogue(recipe, data.info.n_items, chosen)
    epochs: list[dict[str, float]] = []

    def judge(record: dict[str, float]) -> None:
        epochs.append(record)
        best = max(epochs, key=lambda epoch: epoch["mrr@20"])
        trial.set_user_attr("epoch", int(best["epoch"]))
        trial.set_user_attr("recall@20", best["recall@20"])
        trial.report(record["mrr@20"], int(record["epoch"]))
        if trial.should_prune():
            raise optuna.TrialPruned

    def on_epoch(record: dict[str, float]) -> None:
        watcher.on_epoch("select", record)
        judge(record)

    if file.exists():  # of a process that was killed, perhaps before it could judge the last epoch
        for record in checkpoint.load(file)["state"]["history"]:
            judge(record)
    fabric = open_fabric(options.device)
    train_phase(
        RunConfig(
            model=model,
            data_fingerprint=data.info.fingerprint,
            seed=options.seed,
            precision=options.precision,
            threads=options.threads,
            recipe=recipe,
            hyper=hyper,
            device=fabric.device.type,
        ),
        model_class,
        data.train,
        validation_on(data.validation),
        phase="select",
        file=file,
        resume=True,
        on_progress=watcher.on_progress,
        on_epoch=on_epoch,
        fabric=fabric,
    )
    return max(epoch["mrr@20"] for epoch in epochs)


def _identity(model: str, data: Dataset, options: TuneOptions) -> dict[str, Hyper]:
    """What trials must have in common to be compared; of what is searched, the distribution."""
    return {
        "data_fingerprint": data.info.fingerprint,
        "seed": options.seed,
        "precision": options.precision,
        "threads": options.threads,
        **({"device": "cuda"} if resolve_device(options.device).type == "cuda" else {}),
        **settings(find_model(model), options.fixed),
        **{name: str(distribution) for name, distribution in options.space.items()},
    }


def _remove_checkpoints(place: Path, but: Path | None = None) -> None:
    for directory in place.iterdir():
        if directory.is_dir() and directory != but:
            shutil.rmtree(directory)
