"""Training that begins with an earlier model's weights; rows of items find their place by external id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.base import Hyper, SessionEncoder
from models.sessions import Sessions
from service.live.deployment import bundle_path
from service.ranking.bundle import ITEMS, read_items, read_manifest
from training.learn import checkpoint
from training.learn.checkpoint import all_named
from training.learn.registry import find_model

Rows = Literal["items", "sessions", "own"]  # what a parameter has a row for; `own`: neither
PROBE_ITEMS = 3


class ColdStart(LookupError):  # noqa: N818
    """There are no weights to begin with; the message says why."""


@dataclass(frozen=True)
class WarmStart:
    """Weights for a new model of the same hyper-parameters, over other items in another order.

    Only parameters are taken: a graph of items, which a model keeps as a buffer, is that of the new clicks.
    """

    version: str
    weights: dict[str, Tensor]  # without those left fresh
    rows: dict[str, Rows]
    row_of: npt.NDArray[np.int64]  # (n_items + 1,) of each item, in the old tables; -1 for a new one
    old_items: int
    fresh: tuple[str, ...]  # parameters that cannot be mapped

    @property
    def new_items(self) -> int:
        """How many items keep their random vectors."""
        return int((self.row_of < 0).sum())

    @torch.no_grad()
    def __call__(self, model: SessionEncoder) -> None:
        """Set the model's parameters, but for `fresh` ones and the rows of new items."""
        known = np.flatnonzero(self.row_of >= 0)
        for name, parameter in model.named_parameters():
            if name not in self.weights:
                continue
            old = self.weights[name]
            if self.rows[name] == "items":
                parameter[torch.from_numpy(known)] = old[torch.from_numpy(self.row_of[known])]
                parameter[len(self.row_of) :] = old[self.old_items + 1 :]  # [MASK] and the like
            else:
                parameter.copy_(old)


def warm_start(
    artifacts: Path, version: str, file: Path, model: str, hyper: dict[str, Hyper], items: Sequence[str]
) -> WarmStart:
    """Begin with the bundle `version`, whose checkpoint is `file`; `items` are those of the new data set.

    Of a blend it is the checkpoint of one member.

    Raises `ColdStart` when it is of another model or of other hyper-parameters, or its checkpoint is gone.
    """
    path = bundle_path(artifacts, version)
    manifest = read_manifest(path)
    if not file.exists():
        if manifest.model != model:
            raise ColdStart(f"{version} is of the model {manifest.model}, not {model}")
        raise ColdStart(f"there is no checkpoint of {version}: {file} is missing")
    saved = checkpoint.load(file)
    identity = saved["identity"]
    if identity["model"] != model:
        raise ColdStart(f"{version} is of the model {identity['model']}, not {model}")
    if identity["data_fingerprint"] != manifest.data_fingerprint:
        raise ColdStart(f"{file} is of other clicks than {version}")
    theirs = all_named(find_model(model), identity["hyper"])
    changed = sorted(name for name in hyper if hyper[name] != theirs.get(name))
    if changed:
        raise ColdStart(f"{version} has another {', '.join(changed)}")
    old_row = {item_id: row for row, item_id in enumerate(read_items(path / ITEMS), start=1)}
    row_of = np.array([0, *(old_row.get(item_id, -1) for item_id in items)], dtype=np.int64)
    weights: dict[str, Tensor] = saved["state"]["best_weights"] or saved["model"]
    shapes, rows = probe(model, hyper)
    fits = {
        name
        for name, shape in shapes.items()
        if name in weights and tuple(weights[name].shape) == _old_shape(shape, rows[name], len(old_row))
    }
    return WarmStart(
        version,
        {name: weights[name] for name in shapes if name in fits},
        rows,
        row_of,
        len(old_row),
        tuple(name for name in shapes if name not in fits),
    )


def probe(model: str, hyper: dict[str, Hyper]) -> tuple[dict[str, tuple[int, ...]], dict[str, Rows]]:
    """The shape of every parameter for `PROBE_ITEMS` items, and what it has a row for.

    Found out by building the model for one more item, and for one more session: a size that happens to be the
    number of items says nothing.
    """
    with torch.random.fork_rng(devices=[]):  # the run's own random numbers are not to be drawn here
        plain, larger, longer = (
            _shapes(model, hyper, n_items, n_sessions)
            for n_items, n_sessions in ((PROBE_ITEMS, 2), (PROBE_ITEMS + 1, 2), (PROBE_ITEMS, 3))
        )
    rows: dict[str, Rows] = {}
    for name, shape in plain.items():
        rows[name] = "items" if larger[name] != shape else "sessions" if longer[name] != shape else "own"
    return plain, rows


def _shapes(model: str, hyper: dict[str, Hyper], n_items: int, n_sessions: int) -> dict[str, tuple[int, ...]]:
    sessions = Sessions(
        np.tile(np.array([1, 2, 3], dtype=np.int32), n_sessions), 3 * np.arange(n_sessions + 1), n_items
    )
    built = find_model(model).build(sessions, **hyper)
    return {name: tuple(parameter.shape) for name, parameter in built.named_parameters()}


def _old_shape(shape: tuple[int, ...], rows: Rows, n_items: int) -> tuple[int, ...] | None:
    """The shape a parameter must have had over `n_items` items; None when none will do."""
    if rows == "sessions":  # those of the old data set are not those of the new one
        return None
    return (shape[0] - PROBE_ITEMS + n_items, *shape[1:]) if rows == "items" else shape
