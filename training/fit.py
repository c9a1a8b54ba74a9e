"""What `train` does from end to end: select, refit, export, evaluate the bundle, record the result."""

from __future__ import annotations

import dataclasses
import os
import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch

from models.base import Hyper, Recipe, SessionEncoder, Sessions
from service.ranking.bundle import Bundle
from training.bundling.export import Provenance, export_bundle, new_version
from training.bundling.indexes import FASTEST, INDEX_SESSIONS, WantedIndex
from training.data.dataset import Dataset
from training.learn import checkpoint
from training.learn.checkpoint import CheckpointError
from training.learn.registry import find_model
from training.learn.train import Phase, Progress, RunConfig, Trained, Validate, train_phase
from training.learn.warm_start import WarmStart
from training.measure.evaluate import Evaluation, evaluate
from training.measure.results import Fitted, headline, measurements
from training.measure.validation import validation_on


class Watcher(Protocol):
    """Whoever shows how far training is."""

    def on_phase(self, phase: Phase, epochs: int) -> None: ...
    def on_progress(self, progress: Progress) -> None: ...
    def on_epoch(self, phase: Phase, record: dict[str, float]) -> None: ...
    def on_step(self, text: str) -> None: ...


@dataclass(frozen=True)
class FitOptions:
    """What is decided beside model and data."""

    recipe: Recipe
    hyper: dict[str, Hyper]
    seed: int
    precision: Literal["bf16", "32"]
    threads: int
    artifacts: Path
    index: WantedIndex = FASTEST
    refit: bool = False
    refit_epochs: int | None = None
    resume: bool = False
    checkpoints: Path | None = None  # the directory they go to; None: that of the command `train`
    version: str | None = None  # of the bundle; None: named by the time it is made
    start: WarmStart | None = None  # None: from random weights


def fit(model: str, data: Dataset, options: FitOptions, watcher: Watcher, command: str) -> Fitted:
    """Train `model` on `data` and leave a verified bundle under `artifacts/bundles/`.

    With `refit` the bundle holds a model of training and validation sessions, trained for the number of
    epochs that validation chose, or for `refit_epochs` chosen earlier.

    Raises `CheckpointError`, `ExportError`.
    """
    commit = source_commit()  # now: the code that runs; what lies there when it ends may be newer
    model_class = find_model(model)
    config = RunConfig(
        model=model,
        data_fingerprint=data.info.fingerprint,
        seed=options.seed,
        precision=options.precision,
        threads=options.threads,
        recipe=options.recipe,
        hyper=options.hyper,
        started_from=options.start.version if options.start else None,
    )
    run = options.checkpoints or run_path(options.artifacts, data.info.name, model, options.seed)
    phases: dict[Phase, Trained] = {}

    def run_phase(phase: Phase, config: RunConfig, train: Sessions, validate: Validate | None) -> None:
        watcher.on_phase(phase, config.recipe.epochs)
        phases[phase] = train_phase(
            config,
            model_class,
            train,
            validate,
            phase=phase,
            file=run / f"{phase}.pt",
            resume=options.resume,
            on_progress=watcher.on_progress,
            on_epoch=lambda record: watcher.on_epoch(phase, record),
            initial=options.start,
        )

    if options.refit_epochs is None:
        run_phase("select", config, data.train, validation_on(data.validation))
    if options.refit or options.refit_epochs is not None:
        epochs = options.refit_epochs or phases["select"].epochs
        recipe = dataclasses.replace(config.recipe, epochs=epochs)
        run_phase("refit", dataclasses.replace(config, recipe=recipe), data.train_all, None)

    trained_on: Phase = "refit" if "refit" in phases else "select"
    watcher.on_step("exporting, checking and evaluating the bundle")
    bundle, evaluation = export_trained(
        phases[trained_on].model, config, data, options.artifacts, options.index, commit, options.version
    )
    histories = {phase: trained.history for phase, trained in phases.items()}
    result: dict[str, object] = {
        **headline(model, data),
        "command": command,
        "commit": commit,
        "seed": options.seed,
        "precision": options.precision,
        "threads": options.threads,
        "recipe": dataclasses.asdict(config.recipe),
        "hyperparameters": config.hyper,
        "trained_on": "training and validation sessions" if trained_on == "refit" else "training sessions",
        "epochs": phases[trained_on].epochs,
        "wall_seconds": round(
            sum(r["train_seconds"] + r["validation_seconds"] for h in histories.values() for r in h)
        ),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,  # of this process
        "parameters": sum(p.numel() for p in phases[trained_on].model.parameters()),
        "history": histories,
        "bundle": bundle.name,
        **measurements(Bundle.load(bundle), data, evaluation),
    }
    return Fitted(bundle, result, evaluation)


def run_path(artifacts: Path, dataset: str, model: str, seed: int) -> Path:
    """Where a run's checkpoints lie."""
    return artifacts / "runs" / dataset / f"{model}-seed{seed}"


def export_trained(
    model: SessionEncoder,
    config: RunConfig,
    data: Dataset,
    artifacts: Path,
    index: WantedIndex,
    commit: str,
    version: str | None = None,
) -> tuple[Path, Evaluation]:
    """Bundle a trained model; returns where it lies and how it does on the test sessions."""
    evaluations: list[Evaluation] = []

    def measure(bundle: Bundle) -> dict[str, float]:
        evaluations.append(evaluate(bundle, data, data.test))
        return evaluations[0].unmasked

    path = export_bundle(
        model,
        data.items,
        recent_sessions(data.train_all),
        Provenance(
            config.model,
            config.seed,
            {**dataclasses.asdict(config.recipe), **config.hyper},
            commit,
            data.info.fingerprint,
        ),
        artifacts,
        version or new_version(config.model),
        measure,
        index,
    )
    return path, evaluations[0]


def load_trained(file: Path, data: Dataset) -> tuple[SessionEncoder, RunConfig]:
    """The model a checkpoint holds: its best weights so far (select) or its newest (refit).

    Raises `CheckpointError` when the checkpoint was made from other data.
    """
    saved = checkpoint.load(file)
    identity = dict(saved["identity"])
    phase = identity.pop("phase")
    config = RunConfig(**{**identity, "recipe": Recipe(**identity["recipe"])})
    if config.data_fingerprint != data.info.fingerprint:
        raise CheckpointError(f"{file}: was trained on other data than {data.path}")
    train = data.train_all if phase == "refit" else data.train
    model = find_model(config.model).build(train, **config.hyper)
    model.load_state_dict(saved["state"]["best_weights"] or saved["model"])
    return model.eval(), config


def recent_sessions(sessions: Sessions) -> list[list[int]]:
    """The newest sessions without their last click: real inputs for the checks at export."""
    newest = sessions[max(0, len(sessions) - INDEX_SESSIONS) :]
    return [
        newest.items[start : end - 1].tolist()
        for start, end in zip(newest.offsets[:-1], newest.offsets[1:], strict=True)
    ]


def source_commit() -> str:
    """The commit this code is at: from git, else from SOURCE_COMMIT (images have no git)."""
    if commit := os.environ.get("SOURCE_COMMIT"):
        return commit
    git = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    ]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def default_precision() -> Literal["bf16", "32"]:
    """bfloat16 where the processor multiplies it natively; elsewhere it would be slower than float32."""
    has_bf16 = (
        torch.backends.cpu.get_cpu_capability().startswith("AVX512") and torch.cpu._is_avx512_bf16_supported()
    )
    return "bf16" if has_bf16 else "32"
