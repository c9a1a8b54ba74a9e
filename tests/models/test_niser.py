"""NISER+ against its equations: what it normalises, places and drops out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from models.base import PAD, Batch
from models.layers import Positions, SessionGraph
from models.niser import NISER

SESSIONS = [[3, 1, 3, 7, 7, 1, 2], [5], [4, 4], [2, 6, 2, 6]]


def some_model(dropout: float = 0.0, positions: Positions = "reversed") -> NISER:
    torch.manual_seed(0)
    model = NISER(9, dim=4, dropout=dropout, positions=positions).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=2.0)  # items of many lengths, none of them 1
    return model


def slow_vector(model: NISER, session: list[int], positions: Positions) -> torch.Tensor:
    """(1)–(3), and the left side of (4)."""
    clicks = torch.tensor([session])
    items = model.items(clicks)
    nodes = model.graph_layer(items / items.norm(dim=2, keepdim=True), SessionGraph(clicks))  # (1)
    place = range(len(session)) if positions == "forward" else reversed(range(len(session)))
    p = [
        nodes[0, session.index(item)] + model.positions.weight[t]
        for t, item in zip(place, session, strict=True)
    ]  # (2)
    readout = model.readout
    alpha = [readout.weight(torch.sigmoid(readout.of_last(p[-1]) + readout.of_each(each))) for each in p]
    overall = sum((a * each for a, each in zip(alpha, p, strict=True)), torch.zeros_like(p[0]))
    return normalize(readout.mix(torch.cat([p[-1], overall])), dim=0)  # (3)


@pytest.mark.parametrize("positions", ["forward", "reversed"])
def test_equals_its_equations(positions: Positions) -> None:
    model = some_model(positions=positions)
    padded = torch.tensor([session + [PAD] * (9 - len(session)) for session in SESSIONS])
    for vector, session in zip(model(padded), SESSIONS, strict=True):
        torch.testing.assert_close(vector, slow_vector(model, session, positions), atol=1e-5, rtol=1e-4)


def test_an_items_length_says_nothing() -> None:
    """Popular items have longer vectors: neither a session nor a score hears of it."""
    model, sessions = some_model(), torch.tensor([[3, 1, 3, 7]])
    before = model(sessions), model.loss(Batch(sessions, torch.tensor([2])))
    with torch.no_grad():
        model.items.weight[[1, 2]] *= 5.0
    torch.testing.assert_close((model(sessions), model.loss(Batch(sessions, torch.tensor([2])))), before)


def test_the_softmax_is_of_cosines_times_sigma() -> None:
    model, sessions = some_model(), torch.tensor([[3, 1, 3, 7]])
    cosines = model(sessions)[0] @ normalize(model.items.weight[1:], dim=1).T
    expected = -(16.0 * cosines).log_softmax(0)[1]
    torch.testing.assert_close(model.loss(Batch(sessions, torch.tensor([2]))), expected)


def test_item_vectors_are_dropped_out_in_training_alone() -> None:
    model, sessions = some_model(0.5), torch.tensor([[3, 1, 3, 7]])
    torch.testing.assert_close(model(sessions), model(sessions))
    model.train()
    assert not torch.allclose(model(sessions), model(sessions))
    everything = some_model(1.0).train()  # of which nothing is left: all sessions of a length are one
    one, other = everything(torch.tensor([[3, 1, 4, 7], [5, 6, 2, 8]]))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("steps", [1, 2])
def test_the_graph_is_updated_as_often_as_asked(steps: int) -> None:
    torch.manual_seed(0)
    model, once = NISER(9, dim=4, steps=steps).eval(), NISER(9, dim=4, steps=1).eval()
    once.load_state_dict(model.state_dict())
    sessions = torch.tensor([[3, 1, 3, 7]])
    assert torch.equal(model(sessions), once(sessions)) == (steps == 1)
