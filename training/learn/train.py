"""The training loop: one for every model; it never names one.

A run trains on the training sessions and stops early on validation MRR@20 (phase `select`); asked to refit,
it then trains a new model on training and validation sessions together, for the chosen number of epochs
(phase `refit`). Each phase has one checkpoint file, and any phase continues from it to the same weights.
"""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import torch

from models.base import Batch, Recipe, SessionEncoder
from models.interactions import held
from models.losses import free_buffers
from models.sessions import Sessions
from training.learn.answers import Answers
from training.learn.batches import Examples
from training.learn.checkpoint import (
    Phase,
    Precision,
    RunConfig,
    State,
    identity_of,
    own_state,
    restore,
    save_run,
)
from training.learn.devices import (
    everyones,
    made_ahead,
    mean_of_processes,
    moved,
    on_processor,
    part_of,
    repeatable,
)
from training.learn.interactions import Interactions
from training.learn.lanes import Lanes
from training.learn.negatives import NegativeSampler
from training.learn.optimizers import AdagradMomentum, RowWiseAdam

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Validate = Callable[[SessionEncoder], dict[str, float]]  # -> recall@20 and mrr@20, percent


class DivergedError(RuntimeError):
    """Training came to nothing; the message says at which step, and what to try."""


@dataclass(frozen=True)
class Progress:
    """Where training stands, for whoever watches."""

    phase: Phase
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    targets_per_second: float
    epoch_seconds: float  # of this epoch's steps so far


@dataclass(frozen=True)
class Pace:
    """How often training pauses; the weights are the same at any pace."""

    report_steps: int = 20  # the loss is read from the device, and shown
    checkpoint_seconds: float = 300  # within an epoch; every epoch ends with a checkpoint anyway


USUAL_PACE = Pace()


class Watcher(Protocol):
    """Whoever shows how far training is."""

    def on_phase(self, phase: Phase, epochs: int) -> None: ...
    def on_progress(self, progress: Progress) -> None: ...
    def on_epoch(self, phase: Phase, record: dict[str, float]) -> None: ...
    def on_step(self, text: str) -> None: ...


@dataclass(frozen=True)
class Trained:
    """A finished phase: the model with its best (select) or last (refit) weights, in eval mode."""

    model: SessionEncoder
    epochs: int  # trained for, to the weights in `model`
    history: list[dict[str, float]]


def train_phase(
    config: RunConfig,
    model_class: type[SessionEncoder],
    train: Sessions,
    validate: Validate | None,
    *,
    phase: Phase,
    file: Path,
    resume: bool,
    on_progress: Callable[[Progress], object],
    on_epoch: Callable[[dict[str, float]], object],
    initial: Callable[[SessionEncoder], None] | None = None,
    pace: Pace = USUAL_PACE,
    fabric: Fabric | None = None,
    answers: Answers | None = None,
) -> Trained:
    """Train until the recipe's epochs are done or validation MRR@20 stops rising.

    `validate` judges the model between epochs; None, in a refit, keeps the last weights. `initial` sets the
    weights that a phase begins with, unless it goes on from a checkpoint. `fabric` says where to train (None:
    on the processor, alone); of several processes each must come here, and the first one alone writes,
    validates and reports. `answers` are a teacher's, to every target of `train`. Raises `CheckpointError`
    when `resume` finds another run's checkpoint, `DivergedError` when the loss or a weight is no longer
    finite, or when no epoch had a single hit on validation. No checkpoint holds what is not finite. The model
    returned is on the processor.
    """
    fabric = fabric or on_processor()
    with repeatable(fabric.device):
        watch = on_progress, on_epoch
        try:
            return _train(
                fabric,
                config,
                model_class,
                train,
                validate,
                phase,
                file,
                resume,
                watch,
                initial,
                pace,
                answers,
            )
        finally:
            free_buffers()


def _train(
    fabric: Fabric,
    config: RunConfig,
    model_class: type[SessionEncoder],
    train: Sessions,
    validate: Validate | None,
    phase: Phase,
    file: Path,
    resume: bool,
    watch: tuple[Callable[[Progress], object], Callable[[dict[str, float]], object]],
    initial: Callable[[SessionEncoder], None] | None,
    pace: Pace,
    answers: Answers | None,
) -> Trained:
    on_progress, on_epoch = watch
    keep_freed_memory()
    torch.set_num_threads(config.threads)
    rank, world = fabric.global_rank, fabric.world_size
    torch.manual_seed(config.seed)
    bare = model_class.build(train, **config.hyper)  # on the processor: the same weights wherever it goes
    bare.softmax_dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    recipe = bare.recipe = config.recipe
    resumed = fabric.broadcast(resume and file.exists())
    if initial is not None and not resumed:
        initial(bare)
    bare.to(fabric.device)
    bare.set_sparse_rows(sparse_rows(bare, recipe, world))
    bare_optimizer = make_optimizer(bare, recipe)
    model, optimizer = fabric.setup(bare, bare_optimizer)
    model.mark_forward_method("loss")
    model.mark_forward_method("step")
    examples = training_examples(bare, train)
    assert answers is None or len(answers) >= examples.n_targets, "a teacher answers every target"
    sampler = None if recipe.loss == "ce" else NegativeSampler(train, recipe)
    state = State()
    identity = identity_of(phase, config, model_class)
    if resumed:
        state = restore(file, identity, bare, bare_optimizer, fabric.device, rank)
    elif rank:
        torch.manual_seed(config.seed + rank)  # from here on: what one process drops, another may keep

    def batch_of(step: int) -> tuple[Batch, float]:
        batch = examples.batch(plan[step])
        if sampler is not None:
            negatives = sampler.draw(batch.targets, config.seed, state.epoch, step)
            batch = dataclasses.replace(batch, negatives=negatives)
        if answers is not None:
            assert isinstance(examples, Examples), "the recipe was resolved for a teacher"
            batch = dataclasses.replace(batch, taught=answers.to(examples.numbers(plan[step])))
        batch, weight = part_of(bare, batch, rank, world) if world > 1 else (batch, 1.0)
        return moved(batch, fabric.device), weight

    def save() -> None:
        everyone = everyones(own_state(state, fabric.device), world)
        if rank == 0:
            save_run(file, identity, bare, bare_optimizer, state, everyone)

    while not _finished(state, recipe):
        began, epoch_before = time.perf_counter(), state.epoch_seconds
        last_saved = began
        rate = recipe.lr * recipe.lr_gamma ** (state.epoch // recipe.lr_step)
        for group in bare_optimizer.param_groups:
            group["lr"] = rate
        plan = _plan(examples, recipe, config.seed, state.epoch)
        model.train()
        pending: list[torch.Tensor] = []
        steps = range(state.step, len(plan))
        for step, (batch, weight) in zip(steps, made_ahead(batch_of, steps, fabric.device), strict=True):
            if bare.batching == "session-parallel":
                # At weight 0 the batch is not this process's own: no state of its lanes belongs to it.
                loss, carried = model.step(batch, state.carried if weight else None)
                state.carried = carried if weight else state.carried
            else:
                loss = model.loss(batch)
            if world > 1:
                loss = loss * weight
            fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            pending.append(loss.detach())
            state.step = step + 1
            if state.step % pace.report_steps and state.step < len(plan):
                continue
            losses = torch.stack(pending).double()
            pending.clear()
            losses = mean_of_processes(losses, world).cpu()
            _check_losses(losses, state, phase, recipe, len(plan))
            state.loss_sum += float(losses.sum())
            now = time.perf_counter()
            state.epoch_seconds = epoch_before + now - began
            if rank == 0:
                on_progress(_progress(state, phase, recipe, len(plan), examples.n_targets))
            if state.step < len(plan) and fabric.broadcast(now - last_saved >= pace.checkpoint_seconds):
                _check_weights(bare, state, phase, len(plan))
                save()
                last_saved = now
        _check_weights(bare, state, phase, len(plan))
        _close_epoch(state, bare, validate, len(plan), rate, fabric)
        save()
        if rank == 0:
            on_epoch(state.history[-1])

    if validate is not None and not any(record["mrr@20"] for record in state.history):
        raise DivergedError(
            f"validation Recall@20 is 0.00 after each of {len(state.history)} epochs ({phase}): nothing was"
            f" learned; try a smaller learning rate, --set lr={recipe.lr / 10:g}, or more validation sessions"
        )
    if state.best_weights is not None:
        bare.load_state_dict(state.best_weights)
    vars(bare).pop("forward", None)  # Fabric's, of several processes
    bare.set_sparse_rows(False)
    return Trained(bare.cpu().eval(), state.best_epoch + 1, state.history)


def training_examples(model: SessionEncoder, train: Sessions) -> Examples | Lanes | Interactions:
    """What an epoch of the model's batching goes through."""
    if model.batching == "interactions":
        return Interactions.of(held(train))
    if model.batching == "session-parallel":
        return Lanes.of(train, model.recipe.batch_size)
    return Examples.of(train, model.batching, model.max_length)


def _plan(
    examples: Examples | Lanes | Interactions, recipe: Recipe, seed: int, epoch: int
) -> list[npt.NDArray[np.int64]]:
    if recipe.time_order and epoch >= recipe.lr_step:
        assert isinstance(examples, Examples), "the recipe was resolved for this batching"
        return examples.plan(recipe.batch_size, seed, epoch, in_order=True)
    return examples.plan(recipe.batch_size, seed, epoch)


def make_optimizer(model: SessionEncoder, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over the model's parameters."""
    if recipe.optimizer == "adagrad":
        return AdagradMomentum(
            model.parameters(), recipe.lr, recipe.momentum, recipe.weight_decay, model.tables()
        )
    if moves_by_rows(model, recipe):
        return RowWiseAdam(model.parameters(), recipe.lr, recipe.weight_decay, model.tables())
    return torch.optim.Adam(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)


def moves_by_rows(model: SessionEncoder, recipe: Recipe) -> bool:
    """Whether a step looks some rows of the tables up, and leaves the others where they are.

    Not where sessions are users: the vector of one is in a few steps of an epoch, and Adam's momentum carries
    it on between them (BPR-MF by rows: 41.2 / 19.2 on validation of yoochoose1_64, not 48.9 / 21.7). Where a
    graph propagates, a step moves them all.
    """
    return recipe.loss != "ce" and model.batching != "interactions"


def sparse_rows(model: SessionEncoder, recipe: Recipe, processes: int) -> bool:
    """Whether gradients of tables shall be sparse, for a step that costs the same in any catalogue.

    Not on a GPU, which would have to be waited for to list rows and makes little of a table's size; nor of
    several processes, whose sum NCCL forms of dense ones alone. The weights are the same.
    """
    on_processor = next(model.parameters()).device.type == "cpu"
    return moves_by_rows(model, recipe) and on_processor and processes == 1


def default_precision(device: torch.device | None = None) -> Precision:
    """bfloat16 where the device multiplies it natively; elsewhere it would be slower than float32."""
    if device is not None and device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "32"
    has_bf16 = (
        torch.backends.cpu.get_cpu_capability().startswith("AVX512") and torch.cpu._is_avx512_bf16_supported()
    )
    return "bf16" if has_bf16 else "32"


def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks instead of returning them to the kernel.

    Every step allocates the same large temporaries; handing them back makes the kernel zero their pages
    again, a third of a step's time in a prototype at 43,000 items. Elsewhere than glibc this does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 64 << 20)  # M_MMAP_THRESHOLD: only larger blocks get a mapping of their own
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: never shrink the heap


def _finished(state: State, recipe: Recipe) -> bool:
    since_best = len(state.history) - 1 - state.best_epoch
    return state.epoch >= recipe.epochs or (bool(state.history) and since_best >= recipe.patience)


def _check_losses(losses: torch.Tensor, state: State, phase: Phase, recipe: Recipe, steps: int) -> None:
    """Refuse the newest steps' losses if one is not finite. Raises `DivergedError`."""
    finite = torch.isfinite(losses)
    if not finite.all():
        first = int((~finite).nonzero()[0, 0])
        batch = state.step - len(losses) + first + 1
        raise DivergedError(
            f"training diverged in epoch {state.epoch + 1}, batch {batch} of {steps} ({phase}): the loss is"
            f" {float(losses[first])}; try a smaller learning rate, --set lr={recipe.lr / 10:g}"
        )


def _check_weights(model: SessionEncoder, state: State, phase: Phase, steps: int) -> None:
    """Refuse weights that are not finite: a finite loss may have such a gradient. Raises `DivergedError`."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise DivergedError(
                f"training diverged in epoch {state.epoch + 1}, by batch {state.step} of {steps} ({phase}):"
                f" {name} is not finite; try a smaller learning rate,"
                f" --set lr={model.recipe.lr / 10:g}"
            )


def _close_epoch(
    state: State, model: SessionEncoder, validate: Validate | None, steps: int, rate: float, fabric: Fabric
) -> None:
    """Validate, keep the weights if they are the best so far, and move on to the next epoch.

    Of several processes the first one validates, and the others take its record.
    """
    record = {
        "epoch": state.epoch + 1,
        "loss": state.loss_sum / steps,
        "lr": rate,
        "train_seconds": round(state.epoch_seconds, 1),
        "validation_seconds": 0.0,
    }
    if validate is None:
        state.best_epoch = state.epoch  # a refit keeps its last weights
    else:
        if fabric.global_rank == 0:
            began = time.perf_counter()
            record |= validate(model)
            record["validation_seconds"] = round(time.perf_counter() - began, 1)
        record = fabric.broadcast(record)
        if record["mrr@20"] > max((earlier["mrr@20"] for earlier in state.history), default=-1.0):
            state.best_epoch = state.epoch
            # What is one tensor under two names stays one.
            state.best_weights = copy.deepcopy({n: w.to("cpu") for n, w in model.state_dict().items()})
    state.history.append(record)
    state.epoch += 1
    state.step, state.loss_sum, state.epoch_seconds, state.carried = 0, 0.0, 0.0, None


def _progress(state: State, phase: Phase, recipe: Recipe, steps: int, n_targets: int) -> Progress:
    return Progress(
        phase=phase,
        epoch=state.epoch + 1,
        epochs=recipe.epochs,
        step=state.step,
        steps=steps,
        loss=state.loss_sum / state.step,
        targets_per_second=n_targets * state.step / steps / state.epoch_seconds,
        epoch_seconds=state.epoch_seconds,
    )
