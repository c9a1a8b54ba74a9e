"""The sample of negatives that the targets of one training step share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.base import PAD, Sessions
from models.losses import Negatives, Objective
from training.learn.batches import Indices


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
        self._of_targets = objective.logq_target
        self._distinct = objective.hardest > 0  # copies of one item would take the places of other hard ones

    def draw(self, targets: Tensor, seed: int, epoch: int, step: int) -> Negatives:
        """The negatives of one step; `targets` may have any shape. A pure function of its arguments."""
        rng = np.random.default_rng([seed, epoch, step])
        drawn = np.searchsorted(self._cumulative, rng.random(self._count), side="right")
        items = np.minimum(drawn, len(self._drawn) - 1) + 1  # rounding may leave the last sum below 1
        own = targets[targets > PAD].numpy() if self._in_batch else np.zeros(0, np.int64)
        both: npt.NDArray[np.int64] = np.concatenate([own, items])
        if self._distinct:
            both = np.unique(both)
        if not self._distinct and not self._of_targets:
            return Negatives(torch.from_numpy(both), _log(self._expected(both - 1, len(own))))
        every = self._expected(slice(None), len(own))
        of_all = _log(np.concatenate([np.ones(1), every])) if self._of_targets else None
        return Negatives(torch.from_numpy(both), _log(every[both - 1]), of_all)

    def _expected(self, items: Indices | slice, n_own: int) -> npt.NDArray[np.float64]:
        """How often items (from 0) are to be expected, or of distinct ones how likely they are there."""
        drawn, popularity = self._drawn[items], self._popularity[items]
        often: npt.NDArray[np.float64] = self._count * drawn + n_own * popularity
        if self._distinct:
            often = -np.expm1(self._count * np.log1p(-drawn) + n_own * np.log1p(-popularity))
        return often


def _log(expected: npt.NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.log(expected)).float()
