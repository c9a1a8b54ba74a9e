"""Session-parallel mini-batches (Hidasi et al. 2016, section 3.1.1; its figure 1 is the test's example).

Every lane walks through one session, a click a step; a lane that finishes takes the next session in time
order. Which lane takes which session is worked out once, and a step is then a row of three arrays.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from models.base import PAD, Batch
from models.sessions import Sessions
from training.learn.batches import Indices


@dataclass(frozen=True)
class Lanes:
    """The schedule of an epoch: T steps of B lanes; PAD where a lane has run out of sessions."""

    items: Indices  # (T, B) the click of each lane
    targets: Indices  # (T, B) and the next one
    starts: npt.NDArray[np.bool_]  # (T, B) whether it is a session's first

    @classmethod
    def of(cls, sessions: Sessions, lanes: int) -> Lanes:
        """Assign every session of two clicks or more to a lane; each click but its first is a target once."""
        steps = np.maximum(np.diff(sessions.offsets) - 1, 0)  # of each session
        used = np.flatnonzero(steps)
        lane, begin = np.zeros(len(used), np.int64), np.zeros(len(used), np.int64)
        free = [(0, b) for b in range(lanes)]  # (the step at which it is free, lane)
        for i, length in enumerate(steps[used].tolist()):
            begin[i], lane[i] = free[0]
            heapq.heapreplace(free, (int(begin[i]) + length, int(lane[i])))
        length = steps[used]
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        click = np.repeat(sessions.offsets[used], length) + within
        place = np.repeat(begin, length) + within, np.repeat(lane, length)
        shape = (int((begin + length).max(initial=0)), lanes)
        schedule = cls(np.full(shape, PAD), np.full(shape, PAD), np.zeros(shape, np.bool_))
        schedule.items[place] = sessions.items[click]
        schedule.targets[place] = sessions.items[click + 1]
        schedule.starts[begin, lane] = True
        return schedule

    @property
    def n_targets(self) -> int:
        """Targets in one epoch."""
        return int((self.targets > PAD).sum())

    def plan(self, batch_size: int, seed: int, epoch: int) -> list[Indices]:
        """The steps of any epoch, (1,) each, in time order: lanes are not shuffled."""
        return list(np.arange(len(self.items))[:, None])

    def batch(self, step: Indices) -> Batch:
        """One click of each lane."""
        (at,) = step
        return Batch(
            torch.from_numpy(self.items[at][:, None]),
            torch.from_numpy(self.targets[at]),
            starts=torch.from_numpy(self.starts[at]),
        )
