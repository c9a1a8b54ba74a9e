"""A teacher's answers in place of every target, in a file that training reads step by step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from models.losses import Taught
from training.learn.batches import Indices

MOST = 50  # answers to one target


def row_of(kept: int) -> np.dtype[np.void]:
    """How the file holds the answers to one target: the best first, PAD where there are no more."""
    return np.dtype([("items", "<i4", (kept,)), ("shares", "<f2", (kept,))])


class Answers:
    """What the file holds; it is mapped, so that of its 300 bytes a target none need stay in memory."""

    def __init__(self, file: Path, n_items: int) -> None:
        self._rows: npt.NDArray[np.void] = np.memmap(file, row_of(min(MOST, n_items)), mode="r")

    def __len__(self) -> int:
        return len(self._rows)

    def to(self, numbers: Indices) -> Taught:
        """To (B,) or (B, L) targets, numbered as in `Examples.numbers`; there is nothing to learn at -1."""
        rows = self._rows[np.maximum(numbers, 0)]
        items, places = np.unique(rows["items"], return_inverse=True)
        shares = np.where(numbers[..., None] < 0, 0, rows["shares"].astype(np.float32))
        shares /= np.maximum(shares.sum(-1, keepdims=True), 1e-6)  # as they add up in half precision
        return Taught(
            torch.from_numpy(items.astype(np.int64)),
            torch.from_numpy(places.reshape(rows["items"].shape)),
            torch.from_numpy(shares),
        )
