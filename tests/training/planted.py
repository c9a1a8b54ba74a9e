"""A small prepared data set with a pattern to learn: every item is followed by the next one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.sessions import Sessions
from training.data.dataset import Dataset, write_info

N_ITEMS = 30


def planted_sessions(n_sessions: int, seed: int = 0) -> Sessions:
    """Walks i, i + 1, i + 2, … around the circle of items."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 7, n_sessions)
    start = rng.integers(0, N_ITEMS, n_sessions)
    walks = [(start[s] + np.arange(lengths[s])) % N_ITEMS + 1 for s in range(n_sessions)]
    return Sessions(
        np.concatenate(walks).astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]), N_ITEMS
    )


def write_dataset(path: Path, train: Sessions, test: Sessions, n_validation: int) -> Dataset:
    """Write sessions in the prepared format; item index i is called `item-i`."""
    path.mkdir(parents=True)
    for name, sessions in (("train", train), ("test", test)):
        np.save(path / f"{name}.items.npy", sessions.items)
        np.save(path / f"{name}.offsets.npy", sessions.offsets)
    (path / "items.txt").write_text("".join(f"item-{i}\n" for i in range(1, train.n_items + 1)))
    write_info(path, name="planted", n_items=train.n_items, n_validation=n_validation, counts={}, options={})
    return Dataset.load(path)


def planted_dataset(path: Path) -> Dataset:
    """300 training sessions, the last 40 of them for validation, and 40 test sessions."""
    return write_dataset(path, planted_sessions(300), planted_sessions(40, seed=1), n_validation=40)
