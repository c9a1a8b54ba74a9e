"""A data set of some sessions of another, drawn at random: whole sessions, each as likely as any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.sessions import Sessions
from service.live.deployment import replace_file
from service.ranking.bundle import write_items
from service.ranking.checksums import file_sha256
from training.data.dataset import ARRAYS, ITEMS, MANIFEST, Dataset

SEED = 0


def sample_sessions(data: Dataset, path: Path, *, train: int, validation: int, test: int) -> Dataset:
    """Write a data set of at most so many sessions of each kind to the new directory `path`, in their order.

    Items that none of the drawn training sessions holds are unknown to it: a test click on one is a miss.
    """
    random = np.random.default_rng(SEED)
    n_train, n_validation = len(data.train), len(data.validation)
    early = _drawn(random, n_train, train)
    late = n_train + _drawn(random, n_validation, validation)
    kept = {
        "train": _gather(data.train_all, np.concatenate([early, late])),
        "test": _gather(data.test, _drawn(random, len(data.test), test)),
    }
    clicks = np.bincount(kept["train"].items, minlength=data.info.n_items + 1)[1:]
    by_popularity = np.argsort(-clicks, kind="stable")[: np.count_nonzero(clicks)]
    index = np.zeros(data.info.n_items + 1, dtype=np.int32)  # of an item here, by that in `data`
    index[by_popularity + 1] = np.arange(1, len(by_popularity) + 1)

    path.mkdir(parents=True)
    write_items(path / ITEMS, [data.items[item] for item in by_popularity])
    counts = dict(data.info.counts)
    for split, sessions in kept.items():
        items = index[sessions.items]
        np.save(path / f"{split}.items.npy", items)
        np.save(path / f"{split}.offsets.npy", sessions.offsets)
        counts |= {
            f"sample_of_{split}_clicks": len(items),
            f"sample_of_{split}_sessions": len(sessions),
            f"sample_of_{split}_items": len(np.unique(items[items > 0])),
        }
    info = data.info.model_copy(
        update={
            "n_items": len(by_popularity),
            "n_validation": len(late),
            "counts": counts,
            "files": {file: file_sha256(path / file) for file in (ITEMS, *ARRAYS)},
        }
    )
    replace_file(path / MANIFEST, info.model_dump_json(indent=2).encode() + b"\n")
    return Dataset.load(path)


def _drawn(random: np.random.Generator, n: int, size: int) -> npt.NDArray[np.int64]:
    """At most `size` of 0..n-1, in order."""
    return np.arange(n) if size >= n else np.sort(random.choice(n, size, replace=False))


def _gather(sessions: Sessions, chosen: npt.NDArray[np.int64]) -> Sessions:
    start, length = sessions.offsets[chosen], np.diff(sessions.offsets)[chosen]
    offsets = np.concatenate([[0], np.cumsum(length)])
    clicks = np.repeat(start - offsets[:-1], length) + np.arange(offsets[-1])
    return Sessions(np.asarray(sessions.items)[clicks], offsets, sessions.n_items)
