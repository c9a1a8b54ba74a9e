"""Sessions to training batches: every click but a session's first is a target exactly once an epoch.

The plan of an epoch is a pure function of (seed, epoch), so that a resumed run sees the batches it would have
seen. Examples of similar length share a batch; batches come in random order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from models.base import Batch, Batching
from models.sessions import Sessions

POOL = 64  # batches sorted by length together: large enough to pad little, small enough to mix

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """Inputs `items[start : start + length]`; one target behind each (prefixes) or one behind each click."""

    sessions: Sessions
    batching: Batching
    start: Indices
    length: Indices

    @classmethod
    def of(cls, sessions: Sessions, batching: Batching, max_length: int) -> Examples:
        """Cut sessions into prefixes of at most `max_length` newest clicks, or into windows of as many.

        Windows of a longer session overlap by one click, so that no target is lost.
        """
        first, last = sessions.offsets[:-1], sessions.offsets[1:]
        targets = np.maximum(last - first - 1, 0)  # of each session
        step = 1 if batching == "prefixes" else max_length
        count = -(-targets // step)  # examples of each session
        session = np.repeat(np.arange(len(sessions)), count)
        nth = np.arange(len(session)) - np.repeat(np.cumsum(count) - count, count)
        if batching == "prefixes":
            end = first[session] + nth + 1
            start = np.maximum(first[session], end - max_length)
        else:
            start = first[session] + nth * step
            end = np.minimum(start + step, last[session] - 1)
        return cls(sessions, batching, start, end - start)

    def __len__(self) -> int:
        return len(self.start)

    @property
    def n_targets(self) -> int:
        """Targets in one epoch."""
        return len(self) if self.batching == "prefixes" else int(self.length.sum())

    def in_order(self, batch_size: int) -> list[Indices]:
        """Batches of about `batch_size` targets, shortest first: for evaluation."""
        return self._cut(np.argsort(self.length, kind="stable"), batch_size)

    def plan(self, batch_size: int, seed: int, epoch: int, *, in_order: bool = False) -> list[Indices]:
        """The training batches of one epoch, of about `batch_size` targets each.

        `in_order`: as the sessions come, oldest first, but for the pools within which lengths are sorted.
        """
        rng = np.random.default_rng([seed, epoch])
        order = np.arange(len(self)) if in_order else rng.permutation(len(self))
        pool = (np.cumsum(self._targets(order)) - 1) // (POOL * batch_size)
        order = order[np.lexsort((self.length[order], pool))]
        batches = self._cut(order, batch_size)
        mixed = rng.permutation(len(batches))
        if in_order:
            mixed = mixed[np.argsort(mixed // POOL, kind="stable")]
        return [batches[i] for i in mixed]

    def batch(self, examples: Indices) -> Batch:
        """Gather examples into right-padded tensors."""
        start, length = self.start[examples], self.length[examples]
        place = np.arange(length.max(initial=1))  # (L,)
        real = place < length[:, None]  # (B, L)
        click = np.where(real, start[:, None] + place, 0)
        sessions = np.where(real, self.sessions.items[click], 0)
        if self.batching == "prefixes":
            targets = self.sessions.items[start + length]
        else:
            targets = np.where(real, self.sessions.items[np.where(real, click + 1, 0)], 0)
        return Batch(torch.from_numpy(sessions.astype(np.int64)), torch.from_numpy(targets.astype(np.int64)))

    def numbers(self, examples: Indices) -> Indices:
        """Which of all targets, from 0, `batch(examples).targets` are; -1 where there is none."""
        if self.batching == "prefixes":
            return examples
        offsets = self.sessions.offsets
        targets = np.maximum(np.diff(offsets) - 1, 0)  # of each session
        start, length = self.start[examples], self.length[examples]
        session = np.searchsorted(offsets, start, side="right") - 1
        first = (np.cumsum(targets) - targets)[session] + start - offsets[session]
        place = np.arange(length.max(initial=1))  # (L,)
        return np.where(place < length[:, None], first[:, None] + place, -1)

    def _targets(self, examples: Indices) -> Indices:
        return np.ones_like(examples) if self.batching == "prefixes" else self.length[examples]

    def _cut(self, order: Indices, batch_size: int) -> list[Indices]:
        number = (np.cumsum(self._targets(order)) - 1) // batch_size
        return np.split(order, np.flatnonzero(np.diff(number)) + 1) if len(order) else []
