"""What early stopping and the search look at between epochs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.gru import GRUEncoder
from tests.training.planted import N_ITEMS, planted_sessions
from training.learn.batches import Examples
from training.learn.registry import find_model
from training.measure.validation import rank_targets, validation_on


def test_a_model_that_has_diverged_ranks_last() -> None:
    """Its scores are NaN, which is neither above nor below anything."""
    model = GRUEncoder(N_ITEMS, dim=8)
    with torch.no_grad():
        model.items.weight.fill_(torch.nan)
    sessions = planted_sessions(10)
    ranks = rank_targets(model, Examples.of(sessions, "positions", model.max_length))
    assert ranks.tolist() == [N_ITEMS] * (len(sessions.items) - len(sessions))


@pytest.mark.parametrize("model", ["gru", "srgnn"])
def test_every_next_click_is_judged_in_percent(model: str) -> None:
    """A causal model at all positions at once, another prefix by prefix: as the ranks say, in percent."""
    torch.manual_seed(0)
    judged = find_model(model)(N_ITEMS, dim=8)
    sessions = planted_sessions(10)
    ranks = rank_targets(judged, Examples.of(sessions, "prefixes", judged.max_length))
    assert len(ranks) == len(sessions.items) - len(sessions)
    found = validation_on(sessions)(judged)
    assert found == {
        "recall@20": pytest.approx(100 * np.mean(ranks <= 20)),
        "mrr@20": pytest.approx(100 * np.mean(np.where(ranks <= 20, 1 / ranks, 0))),
    }
    assert 0 < found["mrr@20"] < found["recall@20"] < 100
