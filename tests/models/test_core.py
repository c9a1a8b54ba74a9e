"""CORE against its equations, one prefix at a time."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from models.base import Batch
from models.core import CORE


def test_a_session_is_the_weighted_mean_of_its_items() -> None:
    torch.manual_seed(0)
    model = CORE(9, dim=4).eval()
    session = torch.tensor([[3, 1, 3, 7]])
    every = model.forward_all(session)[0]
    for t in range(1, 5):
        x = model.items.weight[session[0, :t]]
        alpha = (model.encoder(x[None])[0] @ model.weight.weight[0]).softmax(0)  # (1)
        mean = sum((alpha[j] * x[j] for j in range(t)), torch.zeros(4))  # (2)
        torch.testing.assert_close(every[t - 1], normalize(mean, dim=0))


def test_items_are_dropped_out_in_training_only() -> None:
    model = CORE(9, dim=50)
    assert (model.item_vectors()[1:] == 0).any()
    assert torch.equal(model.eval().item_vectors(), model.items.weight)


def test_the_softmax_is_of_cosines_over_tau() -> None:
    torch.manual_seed(0)
    model = CORE(9, dim=4, temperature=0.25).eval()
    session = torch.tensor([[3, 1, 3, 7]])
    cosines = model(session)[0] @ normalize(model.items.weight[1:], dim=1).T
    loss = model.loss(Batch(session, torch.tensor([[0, 0, 0, 2]])))
    torch.testing.assert_close(loss, -(cosines / 0.25).log_softmax(0)[1])
    assert CORE(9).scale == pytest.approx(1 / 0.07)
