"""The sessions of a data set, as arrays: what is prepared, trained on and measured. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Sessions:
    """Sessions in time order, stored flat: session s is `items[offsets[s]:offsets[s + 1]]`, oldest first.

    Items are indices 1..n_items; 0 (PAD) stands for an item outside the vocabulary, in a test set only.
    """

    items: npt.NDArray[np.int32]  # (clicks,)
    offsets: npt.NDArray[np.int64]  # (sessions + 1,)
    n_items: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_targets(self) -> int:
        """How many next clicks there are to predict: every click but a session's first."""
        return int(np.maximum(np.diff(self.offsets) - 1, 0).sum())

    def __getitem__(self, part: slice) -> Sessions:
        """A contiguous run of sessions, without copying the clicks."""
        start, stop, step = part.indices(len(self))
        assert step == 1
        offsets = self.offsets[start : stop + 1]
        return Sessions(self.items[offsets[0] : offsets[-1]], offsets - offsets[0], self.n_items)
