"""Adagrad with momentum against the authors' arithmetic, row by row in numpy."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from models.gru4rec import GRU4Rec
from training.learn.optimizers import AdagradMomentum
from training.learn.train import make_optimizer

Floats = npt.NDArray[np.float64]

LR, MOMENTUM, DECAY = 0.1, 0.5, 0.01
# Rows 0 and 1, then 1 alone, then 0 and 2: the authors' code has a sparse gradient, of these rows only.
STEPS: list[dict[int, list[float]]] = [
    {0: [1.0, -2.0], 1: [0.5, 0.0]},
    {1: [-1.0, 3.0]},
    {0: [0.25, 0.5], 2: [2.0, 2.0]},
]


def by_rows(weights: Floats, decay: float) -> Floats:
    """acc[i] += g²; mom[i] = μ mom[i] − lr g / sqrt(acc[i] + ε); p[i] += mom[i], for the rows i of a step."""
    weights, squares, momentum = weights.copy(), np.zeros_like(weights), np.zeros_like(weights)
    for step in STEPS:
        for row, values in step.items():
            gradient = np.array(values) + decay * weights[row]
            squares[row] += gradient**2
            momentum[row] = MOMENTUM * momentum[row] - LR * gradient / np.sqrt(squares[row] + 1e-6)
            weights[row] += momentum[row]
    return weights


def stepped(parameter: nn.Parameter, decay: float, *, table: bool) -> Floats:
    optimizer = AdagradMomentum([parameter], LR, MOMENTUM, decay, [parameter] if table else [])
    for step in STEPS:
        parameter.grad = torch.zeros_like(parameter)
        for row, values in step.items():
            parameter.grad[row] = torch.tensor(values, dtype=parameter.dtype)
        optimizer.step()
    return parameter.detach().numpy()


@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_rows_that_a_step_does_not_touch_stay(decay: float) -> None:
    start = np.arange(8, dtype=np.float64).reshape(4, 2) / 10
    answer = stepped(nn.Parameter(torch.from_numpy(start.copy())), decay, table=True)
    np.testing.assert_allclose(answer, by_rows(start, decay), rtol=1e-12)
    assert answer[3].tolist() == start[3].tolist()


def test_a_bias_has_a_row_for_each_item() -> None:
    bias = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = AdagradMomentum([bias], LR, MOMENTUM, tables=[bias])
    for gradient in ([1.0, 0.0, 2.0], [0.0, 1.0, 1.0]):
        bias.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    # 2: −lr · 2/√4, then half of that and −lr · 1/√5 more
    np.testing.assert_allclose(bias.detach(), [-0.1, -0.1, -0.1 - 0.05 - 0.1 / 5**0.5], rtol=1e-5)


def test_what_is_no_table_coasts_on() -> None:
    """A dense weight has a momentum in every step, of a gradient of zero as well."""
    weight = nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))
    optimizer = AdagradMomentum([weight], LR, MOMENTUM)
    for gradient in (1.0, 0.0):
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
    np.testing.assert_allclose(weight.detach(), -0.1 - 0.05, rtol=1e-5)


@pytest.mark.parametrize("embedding", ["one-hot", "separate", "tied"])
def test_a_models_tables_are_its_embeddings_and_its_bias(
    embedding: Literal["one-hot", "separate", "tied"],
) -> None:
    """A step moves rows 1, one of the others leaves those where they are, and the GRU coasts on."""
    torch.manual_seed(0)
    model = GRU4Rec(9, dim=4, embedding=embedding)
    recipe = dataclasses.replace(model.recipe, optimizer="adagrad", momentum=0.5, lr=0.1)
    optimizer = make_optimizer(model, recipe)
    names = {name for name, parameter in model.named_parameters() if len(parameter) == 10}
    assert names == {"items.weight", "bias"} | ({"inputs.weight"} if embedding != "tied" else set())
    for row in (1, 2):
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        for name, parameter in model.named_parameters():
            parameter.grad = torch.zeros_like(parameter)
            if name in names:
                parameter.grad[row] = 1.0
            else:
                parameter.grad += float(row == 1)
        optimizer.step()
    for name, parameter in model.named_parameters():
        moved = (parameter.detach() != before[name]).flatten(1 if parameter.dim() > 1 else 0)
        if name in names:
            rows = moved.any(1) if moved.dim() > 1 else moved
            assert rows.nonzero().flatten().tolist() == [2], name
        elif parameter.requires_grad:
            assert moved.all(), name
