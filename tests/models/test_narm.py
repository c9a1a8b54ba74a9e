"""NARM against its equations, one position at a time."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from models.narm import NARM


@pytest.mark.parametrize("attention", ["softmax", "plain"])
def test_equals_its_equations(attention: Literal["softmax", "plain"]) -> None:
    torch.manual_seed(0)
    model = NARM(9, dim=4, hidden=5, attention=attention).eval()
    session = torch.tensor([[3, 1, 3, 7]])
    h = model.gru.states(model.items(session))[0]
    a1, a2, v = model.of_last.weight, model.of_each.weight, model.weight.weight[0]
    for t in range(4):
        alpha = torch.stack([v @ torch.sigmoid(a1 @ h[t] + a2 @ h[j]) for j in range(t + 1)])
        alpha = alpha.softmax(0) if attention == "softmax" else alpha
        local = sum((alpha[j] * h[j] for j in range(t + 1)), torch.zeros(5))
        expected = model.decoder.weight @ torch.cat([h[t], local])
        torch.testing.assert_close(model.forward_all(session)[0, t], expected)
