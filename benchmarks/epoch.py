"""Seconds per training epoch, beside the same steps with torch's own cross-entropy.

    python -m benchmarks.epoch --data artifacts/data/diginetica --model niser --steps 100

Times the first `--steps` steps of an epoch over all training sessions (validation included, as in a refit)
and scales them to the epoch; batches are shuffled, so they are a fair sample. The yardstick multiplies and
normalises the catalogue with stock operators under bfloat16 autocast, on the same batches.
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
from training.batches import Examples
from training.dataset import Dataset
from training.fit import default_precision
from training.registry import find_model
from training.train import keep_freed_memory

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


def seconds_per_step(
    model: SessionEncoder, examples: Examples, loss: Callable[[Batch], Tensor], steps: int
) -> float:
    """Mean over `steps` steps of the model's own recipe, after a warm-up."""
    recipe = model.recipe
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr, fused=True)
    plan = examples.plan(recipe.batch_size, seed=0, epoch=0)[: WARM_UP_STEPS + steps]
    began = 0.0
    for step, indices in enumerate(plan):
        if step == WARM_UP_STEPS:
            began = time.perf_counter()
        torch.autograd.backward(loss(examples.batch(indices)))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return (time.perf_counter() - began) / (len(plan) - WARM_UP_STEPS)


def main() -> int:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    train = Dataset.load(options.data).train_all
    model = find_model(options.model).build(train)
    model.softmax_dtype = torch.bfloat16 if default_precision() == "bf16" else torch.float32
    examples = Examples.of(train, model.batching, model.max_length)
    steps = len(examples.plan(model.recipe.batch_size, seed=0, epoch=0))
    ours = steps * seconds_per_step(model, examples, model.loss, options.steps)
    stock = steps * seconds_per_step(model, examples, lambda batch: stock_loss(model, batch), options.steps)
    print(
        json.dumps(
            {
                "model": options.model,
                "targets": examples.n_targets,
                "epoch_seconds": round(ours, 1),
                "stock_epoch_seconds": round(stock, 1),
                "ratio": round(stock / ours, 2),
                "targets_per_second": round(examples.n_targets / ours),
                "threads": options.threads,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
