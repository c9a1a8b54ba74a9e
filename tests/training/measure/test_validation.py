"""What early stopping and the search look at between epochs."""

from __future__ import annotations

import torch

from models.gru4rec import GRU4Rec
from tests.training.planted import N_ITEMS, planted_sessions
from training.learn.batches import Examples
from training.measure.validation import rank_targets


def test_a_model_that_has_diverged_ranks_last() -> None:
    """Its scores are NaN, which is neither above nor below anything."""
    model = GRU4Rec(N_ITEMS, dim=8)
    with torch.no_grad():
        model.items.weight.fill_(torch.nan)
    sessions = planted_sessions(10)
    ranks = rank_targets(model, Examples.of(sessions, "positions", model.max_length))
    assert ranks.tolist() == [N_ITEMS] * (len(sessions.items) - len(sessions))
