"""GCE-GNN against its equations, one item and neighbour at a time; its global graph against a plain count."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.gce_gnn import GCEGNN, GlobalAttention, global_graph
from models.sessions import Sessions

N_ITEMS = 6
some_sessions = st.lists(st.lists(st.integers(1, N_ITEMS), min_size=1, max_size=9), min_size=1, max_size=6)


def flat(sessions: list[list[int]]) -> Sessions:
    offsets = np.cumsum([0, *map(len, sessions)])
    return Sessions(np.array(list(itertools.chain(*sessions)), np.int32), offsets, N_ITEMS)


def padded(sessions: list[list[int]]) -> Tensor:
    length = max(map(len, sessions)) + 1
    return torch.tensor([session + [0] * (length - len(session)) for session in sessions])


@given(some_sessions, st.integers(1, 4), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_global_graph_equals_a_count(sessions: list[list[int]], reach: int, neighbours: int) -> None:
    met: dict[int, Counter[int]] = {item: Counter() for item in range(N_ITEMS + 1)}
    for session in sessions:
        for here, item in enumerate(session):
            for there, other in enumerate(session):
                if 0 < abs(here - there) <= reach:
                    met[item][other] += 1
    near, weights = global_graph(flat(sessions), reach, neighbours)
    assert near.shape == weights.shape == (N_ITEMS + 1, neighbours)
    for item, counts in met.items():
        best = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:neighbours]
        best += [(0, 0)] * (neighbours - len(best))
        assert list(zip(near[item].tolist(), weights[item].tolist(), strict=True)) == best


def test_global_graph_worked_example() -> None:
    """1 and 2 meet twice, 1 and 3 once at distance 2; 4 is too far from 1, and 5 is in another session."""
    near, weights = global_graph(flat([[1, 2, 3, 6, 4], [5], [2, 1]]), reach=2, neighbours=3)
    assert near[1].tolist() == [2, 3, 0]
    assert weights[1].tolist() == [2, 1, 0]
    assert near[5].tolist() == [0, 0, 0]


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def slow_forward(model: GCEGNN, session: list[int]) -> Tensor:
    """Equations (1)–(5) of the module's docstring."""
    clicks = torch.stack([vector(model, item) for item in session])
    mean = clicks.mean(0)
    h = torch.stack(
        [
            slow_local(model, session, item) + slow_global(model, item, mean, len(model.hops))
            for item in session
        ]
    )
    readout = model.readout
    q2 = readout.weight.weight[0]
    s = torch.zeros(h.shape[1])
    for i in range(len(session)):
        position = readout.positions.weight[len(session) - 1 - i]
        z = torch.tanh(readout.place.weight @ torch.cat([h[i], position]))
        gate = readout.of_each.weight @ z + readout.of_mean.weight @ h.mean(0) + readout.of_each.bias
        s = s + q2 @ torch.sigmoid(gate) * h[i]
    return s / s.norm() if model.head == "niser" else s


def vector(model: GCEGNN, item: int) -> Tensor:
    row = model.items.weight[item]
    return row / row.norm() if model.head == "niser" else row


def slow_local(model: GCEGNN, session: list[int], i: int) -> Tensor:
    steps = set(itertools.pairwise(session))
    to_itself, to_next, to_previous, to_both = model.edges.types
    scores, vectors = [], []
    for j in dict.fromkeys(session):
        if j == i:
            a = to_itself
        elif (i, j) in steps:
            a = to_both if (j, i) in steps else to_next
        elif (j, i) in steps:
            a = to_previous
        else:
            continue
        scores.append(leaky(a @ (vector(model, i) * vector(model, j))))
        vectors.append(vector(model, j))
    return torch.stack(scores).softmax(0) @ torch.stack(vectors)


def slow_global(model: GCEGNN, i: int, mean: Tensor, hops: int) -> Tensor:
    if hops == 0:
        return vector(model, i)
    layer = model.hops[hops - 1]
    assert isinstance(layer, GlobalAttention)
    scores, vectors = [], []
    for j, w in zip(model.global_items[i].tolist(), model.global_weights[i], strict=True):
        if j:
            h_j = slow_global(model, j, mean, hops - 1)
            scores.append(
                layer.weight.weight[0] @ leaky(layer.hidden.weight @ torch.cat([mean * h_j, w[None]]))
            )
            vectors.append(h_j)
    around = torch.stack(scores).softmax(0) @ torch.stack(vectors) if scores else torch.zeros_like(mean)
    return torch.relu(layer.mix.weight @ torch.cat([slow_global(model, i, mean, hops - 1), around]))


@pytest.mark.parametrize("hyper", [{}, {"hops": 2}, {"head": "native"}], ids=str)
@given(train=some_sessions, sessions=some_sessions)
@settings(max_examples=25, deadline=None)
def test_equals_its_equations(
    hyper: dict[str, Any], train: list[list[int]], sessions: list[list[int]]
) -> None:
    torch.manual_seed(0)
    model = GCEGNN.build(flat(train), dim=4, neighbours=3, **hyper).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    vectors = model(padded(sessions))
    for session, found in zip(sessions, vectors, strict=True):
        torch.testing.assert_close(found, slow_forward(model, session), atol=1e-4, rtol=1e-4)


def test_training_in_bfloat16_is_close() -> None:
    torch.manual_seed(0)
    model = GCEGNN.build(flat([[1, 2, 3, 4, 5, 6], [2, 1, 4]]), dim=16, dropout=0.0, dropout_global=0.0)
    sessions = padded([[1, 2, 3], [4, 4, 1, 2], [6]])
    exact = model(sessions)
    model.softmax_dtype = torch.bfloat16
    rounded = model(sessions)
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.01, rtol=0.01)


def test_a_loaded_model_keeps_its_own_graph() -> None:
    """The graph is part of the weights: what a model was trained with is what it serves with."""
    trained, other = GCEGNN.build(flat([[1, 2, 3]]), dim=4), GCEGNN.build(flat([[4, 5]]), dim=4)
    other.load_state_dict(trained.state_dict())
    assert torch.equal(other.global_items, trained.global_items)
    assert other.global_items[2].tolist()[:3] == [1, 3, 0]


@pytest.mark.parametrize("name", ["hops", "reach", "neighbours"])
def test_a_graph_has_bounds(name: str) -> None:
    hyper: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        GCEGNN(9, dim=4, **hyper)


@pytest.mark.parametrize("seed", range(8))
def test_a_session_begins_along_its_clicks(seed: int) -> None:
    """Not as their opposite: a run that had to turn around first might never recover."""
    torch.manual_seed(seed)
    model = GCEGNN(9, dim=16)
    h = torch.randn(5, 1, 16)
    session = model.readout(h, torch.ones(5, 1, dtype=torch.int64))
    assert ((session * h[:, 0]).sum(1) > 0).all()
