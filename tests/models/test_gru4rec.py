"""GRU4Rec against its equations, click by click in numpy, and the authors' code where the paper is silent."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from models.gru4rec import GRU4Rec

Floats = npt.NDArray[np.floating]


def sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("embedding", ["one-hot", "separate", "tied"])
def test_each_gate_starts_from_its_own_bound(embedding: str) -> None:
    """U(±sqrt(6 / (rows + columns))) of each gate's matrix: of n inputs and d units sqrt(6 / (n + d))."""
    torch.manual_seed(0)
    n_items, dim = 500, 60
    model = GRU4Rec(n_items, dim=dim, layers=2, embedding=embedding, head="native")  # type: ignore[arg-type]
    of_items, of_units = math.sqrt(6 / (n_items + dim)), math.sqrt(6 / (dim + dim))
    bounds = {"items.weight": of_items, "inputs.weight": of_items}
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert not parameter.any(), name
        elif parameter.requires_grad:
            bound = bounds.get(name, of_units)
            assert 0.99 * bound < float(parameter.detach().abs().max()) <= bound, name
            assert float(parameter.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.03), name
    assert not model.items.weight[0].any()
    assert not model.inputs.weight[0].any()
