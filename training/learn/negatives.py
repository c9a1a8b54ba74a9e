"""The sample of negatives that the targets of one training step share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.base import PAD
from models.losses import Negatives, Objective
from models.sessions import Sessions
from training.learn.batches import Indices


class NegativeSampler:
    """Draws items ∝ support^power, beside the step's own targets (Hidasi & Karatzoglou 2018).

    What is of all items is worked out once; a step looks up what it draws.
    """

    def __init__(self, train: Sessions, objective: Objective) -> None:
        support = np.bincount(train.items, minlength=train.n_items + 1)[1:].astype(np.float64)
        self._popularity = support / support.sum()
        weights = support**objective.negatives_power
        self._drawn = weights / weights.sum()
        self._cumulative = np.cumsum(self._drawn)
        self._count = objective.negatives
        self._in_batch = objective.in_batch
        self._of_targets = objective.logq_target
        self._distinct = objective.hardest > 0  # copies of one item would take the places of other hard ones

    def draw(self, targets: Tensor, seed: int, epoch: int, step: int) -> Negatives:
        """The negatives of one step; `targets` may have any shape. A pure function of its arguments."""
        rng = np.random.default_rng([seed, epoch, step])
        drawn = np.searchsorted(self._cumulative, rng.random(self._count), side="right")
        items = np.minimum(drawn, len(self._drawn) - 1) + 1  # rounding may leave the last sum below 1
        own = targets[targets > PAD].numpy() if self._in_batch else np.zeros(0, np.int64)
        both: Indices = np.concatenate([own, items])
        rows = (targets > PAD).nonzero()[:, 0].numpy()[: len(own)]
        if self._distinct:
            both, place = np.unique(both, return_inverse=True)
            rows = _of_one_example(rows, place, len(both))
        negatives = Negatives(
            torch.from_numpy(both),
            self._log_expected(both, len(own)),
            len(self._drawn),
            rows=torch.from_numpy(rows),
        )
        if not self._of_targets:
            return negatives
        of = np.unique(targets[targets > PAD].numpy())
        return replace(
            negatives,
            target_items=torch.from_numpy(of),
            log_expected_targets=self._log_expected(of, len(own)),
        )

    def _log_expected(self, items: Indices, n_own: int) -> Tensor:
        """The log of how often items are to be expected, or of distinct ones how likely they are there."""
        drawn, popularity = self._drawn[items - 1], self._popularity[items - 1]
        often: npt.NDArray[np.float64] = self._count * drawn + n_own * popularity
        if self._distinct:
            often = -np.expm1(self._count * np.log1p(-drawn) + n_own * np.log1p(-popularity))
        return torch.from_numpy(np.log(often)).float()


def _of_one_example(rows: Indices, place: Indices, count: int) -> Indices:
    """Of each of `count` distinct items the one row that it is a target of, or −1.

    `place` says which of them each of a sample is, whose first ones are targets of `rows`.
    """
    own, drawn = place[: len(rows)], place[len(rows) :]
    first, last = np.full(count, len(rows)), np.full(count, -1)
    np.minimum.at(first, own, rows)
    np.maximum.at(last, own, rows)
    one = np.where(first == last, first, -1)
    one[drawn] = -1
    return one
