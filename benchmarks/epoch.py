"""Seconds per training epoch, beside the same steps with torch's own cross-entropy.

    python -m benchmarks.epoch --data artifacts/data/diginetica --model niser --steps 100
    python -m benchmarks.epoch --data artifacts/data/diginetica --model gce_gnn --beside niser

Times the first `--steps` steps of an epoch over all training sessions (validation included, as in a refit)
and scales them to the epoch; batches are shuffled, so they are a fair sample. The yardstick multiplies and
normalises the catalogue with stock operators under bfloat16 autocast, on the same batches. `--beside` times
the steps of another model with the same batching on them, too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from models.base import PAD, Batch, SessionEncoder
from models.sessions import Sessions
from training.data.dataset import Dataset
from training.learn.batches import Examples
from training.learn.registry import find_model
from training.learn.train import default_precision, keep_freed_memory, make_optimizer

WARM_UP_STEPS = 5


def stock_loss(model: SessionEncoder, batch: Batch) -> Tensor:
    """What `SessionEncoder.loss` computes, as a prototype would write it."""
    with torch.autocast("cpu", torch.bfloat16):
        if model.batching == "positions":
            wanted = batch.targets > PAD
            vectors, targets = model.forward_all(batch.sessions)[wanted], batch.targets[wanted]
        else:
            vectors, targets = model(batch.sessions), batch.targets
        items = model.item_vectors()[1:]
        if model.head == "niser":
            items = normalize(items, dim=1)
        logits = model.scale * (vectors @ items.T)
        bias = model.item_bias()
        return cross_entropy(logits if bias is None else logits + bias[1:], targets - 1)


Contender = tuple[SessionEncoder, Callable[[Batch], Tensor]]  # a model, and its loss of a batch


def seconds_per_step(
    contenders: dict[str, Contender], examples: Examples, batch_size: int, steps: int
) -> dict[str, float]:
    """Mean over `steps` steps of each, after a warm-up: turn by turn on the same batches, since other work
    on the machine then slows all of them alike."""
    optimizers = {name: make_optimizer(model, model.recipe) for name, (model, _) in contenders.items()}
    seconds = dict.fromkeys(contenders, 0.0)
    plan = examples.plan(batch_size, seed=0, epoch=0)[: WARM_UP_STEPS + steps]
    for step, indices in enumerate(plan):
        for name, (_, loss) in contenders.items():
            began = time.perf_counter()
            torch.autograd.backward(loss(examples.batch(indices)))
            optimizers[name].step()
            optimizers[name].zero_grad(set_to_none=True)
            if step >= WARM_UP_STEPS:
                seconds[name] += time.perf_counter() - began
    return {name: total / (len(plan) - WARM_UP_STEPS) for name, total in seconds.items()}


def build(name: str, train: Sessions) -> SessionEncoder:
    """The model at its defaults, in the precision it is trained in here."""
    model = find_model(name).build(train)
    model.softmax_dtype = torch.bfloat16 if default_precision() == "bf16" else torch.float32
    return model


def main() -> int:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--beside", metavar="MODEL")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    train = Dataset.load(options.data).train_all
    model = build(options.model, train)
    if model.batching == "interactions":
        parser.error(f"--model {options.model}: has no softmax to compare with torch's own")
    contenders: dict[str, Contender] = {
        "ours": (model, model.loss),
        "stock": (model, lambda batch: stock_loss(model, batch)),
    }
    if options.beside is not None:
        other = build(options.beside, train)
        if (other.batching, other.max_length) != (model.batching, model.max_length):
            parser.error(f"{options.beside} is trained on other batches than {options.model}")
        contenders["beside"] = (other, other.loss)
    examples = Examples.of(train, model.batching, model.max_length)
    batch_size = model.recipe.batch_size
    steps = len(examples.plan(batch_size, seed=0, epoch=0))
    seconds = seconds_per_step(contenders, examples, batch_size, options.steps)
    ours, stock = steps * seconds["ours"], steps * seconds["stock"]
    figures: dict[str, str | float] = {
        "model": options.model,
        "targets": examples.n_targets,
        "epoch_seconds": round(ours, 1),
        "stock_epoch_seconds": round(stock, 1),
        "ratio": round(stock / ours, 2),
        "targets_per_second": round(examples.n_targets / ours),
        "threads": options.threads,
    }
    if options.beside is not None:
        figures["beside"] = options.beside
        figures["times_its_step"] = round(seconds["ours"] / seconds["beside"], 2)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
