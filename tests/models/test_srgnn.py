"""SR-GNN's readout, over positions; its graph update is test_layers.py's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from models.base import PAD
from models.layers import SessionGraph
from models.srgnn import SRGNN

SESSIONS = [[3, 1, 3, 7, 7, 1, 2], [5], [4, 4], [2, 6, 2, 6]]


def slow_vector(model: SRGNN, session: list[int]) -> torch.Tensor:
    """(1)–(5) of the layer, then (6) and (7), position by position: an item clicked twice counts twice."""
    clicks = torch.tensor([session])
    graph = SessionGraph(clicks)
    nodes = model.items(clicks)
    for _ in range(model.steps):
        nodes = model.graph_layer(nodes, graph)
    x = [nodes[0, session.index(item)] for item in session]
    readout = model.readout
    alpha = [readout.weight(torch.sigmoid(readout.of_last(x[-1]) + readout.of_each(each))) for each in x]
    overall = sum((a * each for a, each in zip(alpha, x, strict=True)), torch.zeros_like(x[0]))
    vector: torch.Tensor = readout.mix(torch.cat([x[-1], overall]))
    return vector


@pytest.mark.parametrize("steps", [1, 3])
def test_equals_its_equations(steps: int) -> None:
    torch.manual_seed(0)
    model = SRGNN(9, dim=4, steps=steps).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)  # no weight so small that leaving out its term would go unseen
    padded = torch.tensor([session + [PAD] * (9 - len(session)) for session in SESSIONS])
    for vector, session in zip(model(padded), SESSIONS, strict=True):
        torch.testing.assert_close(vector, slow_vector(model, session), atol=1e-5, rtol=1e-4)


def test_weights_start_as_the_paper_has_them_but_for_the_items() -> None:
    torch.manual_seed(0)
    bound = 1 / math.sqrt(64)
    for model, uniform in ((SRGNN(500, dim=64), False), (SRGNN(500, dim=64, items_from="uniform"), True)):
        for name, parameter in model.state_dict().items():
            if name != "items.weight" or uniform:
                assert 0.9 * bound < float(parameter.abs().max()) <= bound, name
                continue
            assert float(parameter.std()) == pytest.approx(bound, rel=0.02)  # N(0, 1/D)
            assert float(parameter.abs().max()) > 3 * bound
