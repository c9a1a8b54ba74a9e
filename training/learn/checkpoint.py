"""Checkpoints: what a run goes on from, in files that survive a kill at any moment.

A checkpoint is written beside its target, synced and renamed over it. It belongs to one phase of one run.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from models.base import Hyper, Recipe, SessionEncoder
from training.data.dataset import Dataset
from training.learn.registry import find_model

Phase = Literal["select", "refit"]
Precision = Literal["bf16", "32"]
LOCK = ".train.lock"
NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class CheckpointError(ValueError):
    """A checkpoint is missing, or belongs to another run; the message says which."""


class RunInUseError(RuntimeError):
    """Another process writes these checkpoints; the message says which."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the weights; a checkpoint continues only under the same one."""

    model: str
    data_fingerprint: str
    seed: int
    precision: Precision
    threads: int
    recipe: Recipe
    hyper: dict[str, Hyper]
    started_from: str | None = None  # the version whose weights it began with
    device: str = "cpu"  # or cuda, whichever of them
    processes: int = 1
    teacher: str | None = None  # the version whose answers are a part of the targets


@dataclass
class State:
    """What a checkpoint holds beside weights, optimiser and random generator."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    carried: torch.Tensor | None = None  # from one session-parallel step to the next
    epoch_seconds: float = 0.0  # of this epoch's training so far, without validation
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    best_weights: dict[str, torch.Tensor] | None = None


OwnState = dict[str, Any]  # what each of several processes has of its own: generators, and the lanes' state


def run_name(
    model: str,
    seed: int,
    recipe: Recipe,
    hyper: dict[str, Hyper],
    refit_epochs: int | None = None,
    teacher: str | None = None,
) -> str:
    """What a run's directory is called: `gru-seed1`, and by other settings `gru-seed1-3f2a90c1`.

    Its end is a hash of what differs from the model's own recipe and hyper-parameters, however it was typed.
    """
    model_class = find_model(model)
    own: dict[str, Hyper | None] = {
        **dataclasses.asdict(model_class.recipe),
        **{name: parameter.default for name, parameter in model_class.hyperparameters().items()},
        "refit_epochs": None,
        "teacher": None,
    }
    ours = {**dataclasses.asdict(recipe), **hyper, "refit_epochs": refit_epochs, "teacher": teacher}
    other = {name: value for name, value in ours.items() if value != own[name]}
    digest = hashlib.sha256(json.dumps(other, sort_keys=True).encode()).hexdigest()[:8]
    return f"{model}-seed{seed}" + (f"-{digest}" if other else "")


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Write a run's checkpoints as the only process; whatever ends it lets go. Raises `RunInUseError`."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("w") as lock:  # for writing: NFS locks nothing else
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunInUseError(f"another training is under way: it holds {directory / LOCK}") from None
        yield


def save(file: Path, state: dict[str, Any]) -> None:
    """Replace `file` by `state` atomically: a reader sees the old checkpoint or the new one, whole.

    Raises `OSError`, of a full disk as well; then the old one stands.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".writing")
    try:
        with temporary.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except (OSError, RuntimeError) as error:
        problem = unwritten(file, error)
        if problem is None:
            raise
        temporary.unlink(missing_ok=True)
        raise problem from error
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def unwritten(file: Path, error: BaseException | None) -> OSError | None:
    """What an error says of a write to `file` that failed, None if it is of something else.

    torch and FAISS raise `RuntimeError` for it, with the system's words in it or behind it; numpy's `OSError`
    has no errno.
    """
    while error is not None:
        if isinstance(error, OSError):
            number, words = error.errno or errno.EIO, error.strerror or f"cannot be written: {error}"
            return OSError(number, words, str(error.filename or file))
        for number in NOT_WRITTEN:
            if os.strerror(number) in str(error):
                return OSError(number, os.strerror(number), str(file))
        error = error.__cause__ or error.__context__
    return None


def check_writable(place: Path) -> None:
    """Refuse a directory that could not be made or written in; nothing is made. Raises `OSError`."""
    found = place.absolute()
    while not os.path.lexists(found):
        found = found.parent
    if not found.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(found))
    if not os.access(found, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "cannot be written in", str(found))


def load(file: Path) -> dict[str, Any]:
    """Read a checkpoint; tensors and plain values only. Raises `CheckpointError`."""
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such checkpoint") from None
    return state


def save_run(
    file: Path,
    identity: dict[str, Any],
    model: SessionEncoder,
    optimizer: torch.optim.Optimizer,
    state: State,
    processes: Sequence[OwnState],
) -> None:
    """Write all that a phase goes on from.

    `identity` is as `identity_of` gives it, `processes` what each process has of its own, the first one's
    first.
    """
    first, *others = processes
    save(
        file,
        {
            "identity": identity,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "rng": first["rng"],
            "cuda_rng": first["cuda_rng"],
            "state": {f.name: getattr(state, f.name) for f in dataclasses.fields(State)},
            "others": others,
        },
    )


def identity_of(phase: Phase, config: RunConfig, model: type[SessionEncoder]) -> dict[str, Any]:
    """What a checkpoint is of: its phase and `RunConfig`, with every hyper-parameter by its name."""
    return {"phase": phase, **dataclasses.asdict(config), "hyper": {**_defaults(model), **config.hyper}}


def all_named(model: type[SessionEncoder], hyper: dict[str, Hyper]) -> dict[str, Hyper]:
    """Hyper-parameters of a checkpoint; those that earlier versions had no name for were what `earlier` says,
    or else as they are by default."""
    return {**_defaults(model), **model.earlier, **hyper}


def _defaults(model: type[SessionEncoder]) -> dict[str, Hyper]:
    return {name: parameter.default for name, parameter in model.hyperparameters().items()}


def own_state(state: State, device: torch.device) -> OwnState:
    """What this process has of its own, on the processor."""
    return {
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "carried": None if state.carried is None else state.carried.cpu(),
    }


def restore(
    file: Path,
    identity: dict[str, Any],
    model: SessionEncoder,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    rank: int = 0,
) -> State:
    """Put model, optimiser and random generators where the checkpoint left them. Raises `CheckpointError`."""
    saved = load(file)
    theirs = {"device": "cpu", "processes": 1, **saved["identity"]}  # which earlier versions did not name
    theirs["recipe"] = {**dataclasses.asdict(Recipe()), **theirs["recipe"]}
    theirs["hyper"] = all_named(type(model), theirs["hyper"])
    changed = [key for key in identity if identity[key] != theirs.get(key)]
    if changed:
        differences = "; ".join(f"{key} was {theirs.get(key)!r}, is {identity[key]!r}" for key in changed)
        raise CheckpointError(f"{file}: belongs to another run: {differences}")
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    state = State(**saved["state"])
    own: OwnState = saved["others"][rank - 1] if rank else saved
    torch.set_rng_state(own["rng"])
    if own.get("cuda_rng") is not None:
        torch.cuda.set_rng_state(own["cuda_rng"], device)
    carried = own["carried"] if rank else state.carried
    state.carried = None if carried is None else carried.to(device)
    return state


def load_trained(file: Path, data: Dataset) -> tuple[SessionEncoder, RunConfig]:
    """The model a checkpoint holds: its best weights so far (select) or its newest (refit).

    Raises `CheckpointError` when the checkpoint was made from other data, or of a model that is another now.
    """
    saved = load(file)
    identity = dict(saved["identity"])
    phase = identity.pop("phase")
    config = RunConfig(**{**identity, "recipe": Recipe(**identity["recipe"])})
    if config.data_fingerprint != data.info.fingerprint:
        raise CheckpointError(f"{file}: was trained on other data than {data.path}")
    train = data.train_all if phase == "refit" else data.train
    model_class = find_model(config.model)
    gone = sorted(config.hyper.keys() - model_class.hyperparameters().keys())
    if gone:
        names = ", ".join(gone)
        raise CheckpointError(
            f"{file}: {config.model} has no {names} any more: export it with its own version"
        )
    config = dataclasses.replace(config, hyper=all_named(model_class, config.hyper))
    model = model_class.build(train, **config.hyper)
    model.load_state_dict(saved["state"]["best_weights"] or saved["model"])
    return model.eval(), config
