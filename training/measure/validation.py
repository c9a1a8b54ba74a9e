"""Validation by full scoring in torch: what early stopping and the search look at between epochs.

It looks at no more than `SAMPLE` targets, the same ones each time, and holds no more than a chunk of scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from models.base import Batching, SessionEncoder
from models.sessions import Sessions
from training.learn.batches import Examples
from training.learn.devices import moved
from training.measure.metrics import Ranks, mrr_at_k, recall_at_k

BATCH_SIZE = 512
CHUNK = 65_536  # items that a batch is scored against at once: 128 MiB of scores
SAMPLE = 20_000  # targets; at a recall of one half, its standard error is 0.35 points
TOP = 20

Encoded = tuple[Tensor, Tensor]  # session vectors (N, D) and their targets (N,), from 0


def validation_on(sessions: Sessions, targets: int = SAMPLE) -> Callable[[SessionEncoder], dict[str, float]]:
    """What judges a model between epochs: `recall@20` and `mrr@20` of every next click, in percent.

    Of more than so many next clicks, of a sample: see `sample_of`.
    """
    judged = sample_of(sessions, targets)

    def validate(model: SessionEncoder) -> dict[str, float]:
        batching: Batching = "positions" if model.causal else "prefixes"
        ranks = rank_targets(model, Examples.of(judged, batching, model.max_length))
        return {f"recall@{TOP}": 100 * recall_at_k(ranks, TOP), f"mrr@{TOP}": 100 * mrr_at_k(ranks, TOP)}

    return validate


def sample_of(sessions: Sessions, targets: int) -> Sessions:
    """The sessions as they are if they have no more next clicks than that, else so many of them.

    Whole sessions at random, always the same ones, in time order; the last one drawn is cut off.
    """
    if sessions.n_targets <= targets:
        return sessions
    lengths = np.diff(sessions.offsets)
    order = np.random.default_rng(0).permutation(len(sessions))
    order = order[lengths[order] > 1]
    until = np.cumsum(lengths[order] - 1)
    order = order[: np.searchsorted(until, targets) + 1]
    kept = np.zeros(len(sessions), np.int64)  # clicks of each session, its first ones
    kept[order] = lengths[order]
    kept[order[-1]] -= until[len(order) - 1] - targets
    place = np.arange(len(sessions.items)) - np.repeat(sessions.offsets[:-1], lengths)
    chosen = sessions.items[place < np.repeat(kept, lengths)]
    offsets = np.concatenate([[0], np.cumsum(kept[kept > 0])])
    return Sessions(chosen, offsets, sessions.n_items)


@torch.inference_mode()
def rank_targets(model: SessionEncoder, examples: Examples, chunk: int = CHUNK) -> Ranks:
    """Pessimistic rank of every target among all items (PAD left out), in no particular order.

    Never more than `chunk` items' scores of a batch are held.
    """
    was_training = model.training
    model.eval()
    items = model.item_vectors()[1:]  # (n, D), where the batches go, too
    if model.head == "niser":
        items = normalize(items, dim=1)
    bias = model.item_bias()
    bias = None if bias is None else bias[1:]
    encoded = _encoded(model, examples, items.device)
    if len(items) > chunk:  # all chunks about as wide: another product may round another way
        chunk = math.ceil(len(items) / math.ceil(len(items) / chunk))
        encoded = _by_chunk(encoded, chunk)
    ranks = [_ranks(vectors, targets, items, bias, chunk) for vectors, targets in encoded]
    model.train(was_training)
    return torch.cat(ranks).numpy(force=True) if ranks else np.zeros(0, np.int64)


def _encoded(model: SessionEncoder, examples: Examples, device: torch.device) -> Iterator[Encoded]:
    for indices in examples.in_order(BATCH_SIZE):
        batch = moved(examples.batch(indices), device)
        if examples.batching == "positions":
            vectors = model.forward_all(batch.sessions).flatten(0, 1)[batch.places]
            yield vectors, batch.targets.flatten()[batch.places] - 1
        else:
            yield model(batch.sessions), batch.targets - 1


def _by_chunk(encoded: Iterator[Encoded], chunk: int) -> Iterator[Encoded]:
    """The same in batches whose targets lie in one chunk of items each."""
    every = list(encoded)
    if not every:
        return
    vectors, targets = (torch.cat(parts) for parts in zip(*every, strict=True))
    targets, order = targets.sort()
    ends: list[int] = torch.bincount(targets // chunk).cumsum(0).tolist()
    for first, last in pairwise([0, *ends]):
        for start in range(first, last, BATCH_SIZE):
            part = slice(start, min(start + BATCH_SIZE, last))
            yield vectors[order[part]], targets[part]


def _ranks(vectors: Tensor, targets: Tensor, items: Tensor, bias: Tensor | None, chunk: int) -> Tensor:
    """(N,) ranks of (N,) targets that lie in one chunk of the (n, D) items.

    A target's score is read off the chunk's own product, so that it is equal to that of an item like it.
    """
    home = int(targets[0]) // chunk * chunk if len(items) > chunk else 0
    starts = [home, *(start for start in range(0, len(items), chunk) if start != home)]
    below = torch.zeros_like(targets)
    for start in starts:
        some = items[start : start + chunk].T
        scores = vectors @ some if bias is None else torch.addmm(bias[start : start + chunk], vectors, some)
        if start == home:
            of_target = scores.gather(1, targets[:, None] - home)
        # all but those below it: NaN is below nothing, and a model that has diverged ranks last, not first
        below += (scores < of_target).sum(1)
    return len(items) - below
