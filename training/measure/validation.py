"""Validation by full scoring in torch: what early stopping and the search look at between epochs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import normalize

from models.base import Batching, SessionEncoder, Sessions
from training.learn.batches import Examples
from training.learn.devices import moved
from training.measure.metrics import Ranks, mrr_at_k, recall_at_k

BATCH_SIZE = 512
TOP = 20


def validation_on(sessions: Sessions) -> Callable[[SessionEncoder], dict[str, float]]:
    """What judges a model between epochs: `recall@20` and `mrr@20` of every next click, in percent."""

    def validate(model: SessionEncoder) -> dict[str, float]:
        batching: Batching = "positions" if model.causal else "prefixes"
        ranks = rank_targets(model, Examples.of(sessions, batching, model.max_length))
        return {f"recall@{TOP}": 100 * recall_at_k(ranks, TOP), f"mrr@{TOP}": 100 * mrr_at_k(ranks, TOP)}

    return validate


@torch.inference_mode()
def rank_targets(model: SessionEncoder, examples: Examples) -> Ranks:
    """Pessimistic rank of every target among all items (PAD left out), in no particular order."""
    was_training = model.training
    model.eval()
    items = model.item_vectors()[1:]  # (n, D), where the batches go, too
    if model.head == "niser":
        items = normalize(items, dim=1)
    bias = model.item_bias()
    ranks = [torch.zeros(0, dtype=torch.int64, device=items.device)]
    for indices in examples.in_order(BATCH_SIZE):
        batch = moved(examples.batch(indices), items.device)
        if examples.batching == "positions":
            vectors = model.forward_all(batch.sessions).flatten(0, 1)[batch.places]
            targets = batch.targets.flatten()[batch.places] - 1
        else:
            vectors, targets = model(batch.sessions), batch.targets - 1
        scores = vectors @ items.T if bias is None else torch.addmm(bias[1:], vectors, items.T)  # (N, n)
        of_target = scores.gather(1, targets[:, None])
        # all but those below it: NaN is below nothing, and a model that has diverged ranks last, not first
        ranks.append(scores.shape[1] - (scores < of_target).sum(1))
    model.train(was_training)
    return torch.cat(ranks).numpy(force=True)
