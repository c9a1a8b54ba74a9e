"""The contract between a model and everything else: what it is given, what it must answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PAD = 0


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

    def __getitem__(self, part: slice) -> Sessions:
        """A contiguous run of sessions, without copying the clicks."""
        start, stop, step = part.indices(len(self))
        assert step == 1
        offsets = self.offsets[start : stop + 1]
        return Sessions(self.items[offsets[0] : offsets[-1]], offsets - offsets[0], self.n_items)
