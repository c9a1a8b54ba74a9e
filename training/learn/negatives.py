"""The sample of negatives that the targets of one training step share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.base import PAD, Sessions
from models.losses import Negatives, Objective


class NegativeSampler:
    """Draws items ∝ support^power, beside the step's own targets (Hidasi & Karatzoglou 2018)."""

    def __init__(self, train: Sessions, objective: Objective) -> None:
        support = np.bincount(train.items, minlength=train.n_items + 1)[1:].astype(np.float64)
        self._popularity = support / support.sum()
        weights = support**objective.negatives_power
        self._drawn = weights / weights.sum()
        self._cumulative = np.cumsum(self._drawn)
        self._count = objective.negatives
        self._in_batch = objective.in_batch
        self._distinct = objective.hardest > 0  # copies of one item would take the places of other hard ones

    def draw(self, targets: Tensor, seed: int, epoch: int, step: int) -> Negatives:
        """The negatives of one step; `targets` may have any shape. A pure function of its arguments."""
        rng = np.random.default_rng([seed, epoch, step])
        drawn = np.searchsorted(self._cumulative, rng.random(self._count), side="right")
        items = np.minimum(drawn, len(self._drawn) - 1) + 1  # rounding may leave the last sum below 1
        own = targets[targets > PAD].numpy() if self._in_batch else np.zeros(0, np.int64)
        both: npt.NDArray[np.int64] = np.concatenate([own, items])
        expected = self._count * self._drawn[both - 1] + len(own) * self._popularity[both - 1]
        if self._distinct:
            both = np.unique(both)
            absent = self._count * np.log1p(-self._drawn) + len(own) * np.log1p(-self._popularity)
            expected = -np.expm1(absent[both - 1])  # how likely it is to be in the sample at all
        return Negatives(torch.from_numpy(both), torch.from_numpy(np.log(expected)).float())
