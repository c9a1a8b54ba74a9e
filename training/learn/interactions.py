"""Training sessions to (session, item) interactions: a session and an item in it, however often clicked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from models.base import Batch
from models.interactions import interactions
from models.sessions import Sessions
from training.learn.batches import Indices


@dataclass(frozen=True)
class Interactions:
    """Interaction j is of training session `session[j]`, by its number, with item `item[j]`."""

    session: Indices
    item: Indices

    @classmethod
    def of(cls, sessions: Sessions) -> Interactions:
        """Every click's session and item, each pair once."""
        return cls(*interactions(sessions))

    @property
    def n_targets(self) -> int:
        """Interactions in one epoch."""
        return len(self.item)

    def plan(self, batch_size: int, seed: int, epoch: int) -> list[Indices]:
        """The training batches of one epoch: a pure function of (seed, epoch)."""
        order = np.random.default_rng([seed, epoch]).permutation(len(self.item))
        return np.split(order, range(batch_size, len(order), batch_size))

    def batch(self, interactions: Indices) -> Batch:
        """Their sessions and items, both (B,)."""
        return Batch(torch.from_numpy(self.session[interactions]), torch.from_numpy(self.item[interactions]))
