"""The plain GRU against its equations, in numpy; and that it is trained as it says."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from models.base import Batch
from models.gru import GRUEncoder
from tests.models.test_gru4rec import SESSION, numbers
from tests.models.test_layers import slow_gru


@pytest.mark.parametrize("head", ["native", "niser"])
@pytest.mark.parametrize("layers", [1, 3])
def test_equals_its_equations(layers: int, head: Literal["native", "niser"]) -> None:
    """(1); items are read, and states scored, at unit length under cosines alone; (2) in the loss."""
    torch.manual_seed(0)
    model = GRUEncoder(9, dim=4, layers=layers, head=head, scale=3.0).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    items = numbers(model.items.weight)
    units = items / np.linalg.norm(items, axis=1, keepdims=True)
    read = units if head == "niser" else items
    states = read[SESSION]
    for layer in range(layers):
        states = slow_gru(model.gru, states, layer)
    if head == "niser":
        states = states / np.linalg.norm(states, axis=1, keepdims=True)
    answer = numbers(model.forward_all(torch.tensor([SESSION]))[0])
    np.testing.assert_allclose(answer, states, atol=1e-5)
    scores = states[3] @ read[1:].T * (3 if head == "niser" else 1)
    loss = model.loss(Batch(torch.tensor([SESSION]), torch.tensor([[0, 0, 0, 5]])))
    assert float(loss.detach()) == pytest.approx(np.log(np.exp(scores).sum()) - scores[4], rel=1e-4)


@pytest.mark.parametrize("name", ["dropout_embedding", "dropout_hidden"])
def test_dropout_is_of_training_alone(name: str) -> None:
    torch.manual_seed(0)
    others = {"dropout_embedding": 0.0, "dropout_hidden": 0.0, name: 0.9}
    model, sessions = GRUEncoder(9, dim=4, **others).eval(), torch.tensor([SESSION])  # type: ignore[arg-type]
    torch.testing.assert_close(model(sessions), model(sessions))
    model.train()
    assert not torch.equal(model(sessions), model(sessions))


def test_each_gate_starts_from_its_own_bound() -> None:
    torch.manual_seed(0)
    n_items, dim = 500, 60
    model = GRUEncoder(n_items, dim=dim, layers=2)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert not parameter.any(), name
        else:
            bound = math.sqrt(6 / (n_items + dim if name == "items.weight" else dim + dim))
            assert 0.99 * bound < float(parameter.detach().abs().max()) <= bound, name
    assert not model.items.weight[0].any()
