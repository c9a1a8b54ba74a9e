"""Our side of `benchmarks/recbole.py`: targets per second, and validation MRR@20 over training time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from models.base import PAD, Batch, Head, SessionEncoder
from models.layers import running_mean
from models.losses import Negatives
from models.sessions import Sessions
from training.learn.batches import Examples, Indices
from training.learn.devices import made_ahead, moved
from training.learn.hyper import resolve
from training.learn.negatives import NegativeSampler
from training.learn.registry import find_model
from training.learn.train import default_precision, make_optimizer, training_examples
from training.measure.metrics import mrr_at_k, recall_at_k
from training.measure.validation import rank_targets

WAIT_EVERY = 20  # steps that a GPU may be behind
LOOKS = 4  # at validation MRR@20 in an epoch


def build(
    model: str, assignments: tuple[str, ...], train: Sessions, seed: int, **recipe: Any
) -> SessionEncoder:
    """A new model in our default precision, with its own recipe but for the fields given."""
    torch.manual_seed(seed)
    model_class = find_model(model)
    own, hyper = resolve(model_class, assignments)
    built = model_class.build(train, **hyper)
    built.recipe = dataclasses.replace(own, **recipe)
    built.softmax_dtype = torch.bfloat16 if default_precision() == "bf16" else torch.float32
    return built


def training_steps(model: SessionEncoder, train: Sessions, seed: int, epochs: int) -> Iterator[float]:
    """Train as `training.learn.train` does; yields after each step, with the epochs done so far."""
    recipe = model.recipe
    device = next(model.parameters()).device
    examples = training_examples(model, train)
    optimizer = make_optimizer(model, recipe)
    sampler = None if recipe.loss == "ce" else NegativeSampler(train, recipe)
    model.train()
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * recipe.lr_gamma ** (epoch // recipe.lr_step)
        plan = examples.plan(recipe.batch_size, seed, epoch)

        def make(step: int, epoch: int = epoch, plan: list[Indices] = plan) -> Batch:
            batch = examples.batch(plan[step])
            if sampler is not None:
                negatives = sampler.draw(batch.targets, seed, epoch, step)
                batch = dataclasses.replace(batch, negatives=negatives)
            return moved(batch, device)

        for step, batch in enumerate(made_ahead(make, range(len(plan)), device)):
            torch.autograd.backward(model.loss(batch))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            yield epoch + (step + 1) / len(plan)


class MeanOfItems(SessionEncoder):
    """Serves any (n_items, D) item vectors as our models of interactions serve theirs, by cosine."""

    causal = True
    head: Head = "niser"

    def __init__(self, items: Tensor) -> None:
        super().__init__()
        self.items = nn.functional.pad(normalize(items, dim=1), (0, 0, 1, 0))

    def forward_all(self, sessions: Tensor) -> Tensor:
        return normalize(running_mean(embedding(sessions, self.items)), dim=2)

    def item_vectors(self) -> Tensor:
        return self.items


def judge_item_vectors(history: list[dict[str, Any]], validation: Sessions) -> list[dict[str, float]]:
    """The history with each file of item vectors replaced by its validation metrics."""
    held_out, judged = Examples.of(validation, "positions", MeanOfItems.max_length), []
    for look in history:
        file = Path(look.pop("items"))
        ranks = rank_targets(MeanOfItems(torch.from_numpy(np.load(file))), held_out)
        file.unlink()
        judged.append(look | {"recall@20": 100 * recall_at_k(ranks, 20), "mrr@20": 100 * mrr_at_k(ranks, 20)})
    return judged


def throughput(
    model: SessionEncoder, train: Sessions, seed: int, *, warm_up: int, steps: int, seconds: float
) -> dict[str, float]:
    """Targets per second over `steps` steps after the warm-up, or over as many as begin within `seconds`."""
    scored: list[Tensor] = []
    device = next(model.parameters()).device
    score_loss = model.score_loss

    def counting(vectors: Tensor, targets: Tensor, negatives: Negatives | None, **others: Any) -> Tensor:
        scored.append((targets > PAD).sum())
        return score_loss(vectors, targets, negatives, **others)

    model.score_loss = counting  # type: ignore[method-assign]
    training = training_steps(model, train, seed, epochs=warm_up + steps)  # each has at least one step
    for _ in range(warm_up):
        next(training)
    scored.clear()
    finish(device)
    began, elapsed = time.perf_counter(), 0.0
    while len(scored) < steps and elapsed < seconds:
        next(training)
        if len(scored) % WAIT_EVERY == 0:
            finish(device)
        elapsed = time.perf_counter() - began
    finish(device)
    elapsed = time.perf_counter() - began
    examples = int(torch.stack(scored).sum())
    return {
        "examples_per_second": examples / elapsed,
        "examples_per_step": examples / len(scored),
        "steps": len(scored),
    }


def finish(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def quality(
    model: SessionEncoder, train: Sessions, validation: Sessions, seed: int, budget_seconds: float
) -> list[dict[str, float]]:
    """What was seen when, until the recipe's epochs are over or training and looks have taken the budget."""
    held_out = Examples.of(validation, "positions" if model.causal else "prefixes", model.max_length)
    history: list[dict[str, float]] = []
    seconds, start = 0.0, time.perf_counter()
    began = start
    for epochs in training_steps(model, train, seed, model.recipe.epochs):
        spent = time.perf_counter() - start >= budget_seconds
        if epochs < (len(history) + 1) / LOOKS and not spent:
            continue
        seconds += time.perf_counter() - began
        ranks = rank_targets(model, held_out)
        recall, mrr = (100 * metric(ranks, 20) for metric in (recall_at_k, mrr_at_k))
        history.append({"epochs": epochs, "seconds": seconds, "recall@20": recall, "mrr@20": mrr})
        if spent:
            break
        began = time.perf_counter()
    return history
