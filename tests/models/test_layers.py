"""The session graph against its definition: a slow, obvious loop over the clicks of each session."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.layers import GatedGraphLayer, SessionGraph

Matrix = npt.NDArray[np.float64]


def slow_graph(session: list[int]) -> tuple[list[int], Matrix, Matrix]:
    """Nodes in order of first click; outgoing and incoming weights, row-normalised, by node."""
    nodes = list(dict.fromkeys(session))
    edges = np.zeros((len(nodes), len(nodes)))
    for here, there in itertools.pairwise(session):
        edges[nodes.index(here), nodes.index(there)] = 1

    def rows(matrix: Matrix) -> Matrix:
        total = matrix.sum(1, keepdims=True)
        normalised: Matrix = matrix / np.maximum(total, 1)
        return normalised

    return nodes, rows(edges), rows(edges.T)


@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=9), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_graph_equals_its_definition(sessions: list[list[int]]) -> None:
    length = max(map(len, sessions)) + 1
    padded = torch.tensor([session + [0] * (length - len(session)) for session in sessions])
    graph = SessionGraph(padded)
    layer = GatedGraphLayer(4)
    torch.manual_seed(0)
    table = torch.randn(6, 4)
    updated = graph.node_of @ layer(table[padded], graph)  # (B, L, D)
    for b, session in enumerate(sessions):
        nodes, outgoing, incoming = slow_graph(session)
        first = [session.index(node) for node in nodes]
        np.testing.assert_allclose(graph.outgoing[b][first][:, first], outgoing, atol=1e-6)
        np.testing.assert_allclose(graph.incoming[b][first][:, first], incoming, atol=1e-6)
        assert graph.outgoing[b].sum() == pytest.approx(outgoing.sum(), abs=1e-5)  # no edge anywhere else
        expected = slow_update(
            layer, table[nodes], torch.tensor(incoming).float(), torch.tensor(outgoing).float()
        )
        for position, item in enumerate(session):
            torch.testing.assert_close(
                updated[b, position], expected[nodes.index(item)], atol=1e-5, rtol=1e-4
            )


def slow_update(
    layer: GatedGraphLayer, x: torch.Tensor, incoming: torch.Tensor, outgoing: torch.Tensor
) -> torch.Tensor:
    """Equations (1)–(5), one node at a time."""
    dim = x.shape[1]
    w_z, w_r = layer.gates.weight[:dim], layer.gates.weight[dim:]
    b_z, b_r = layer.gates.bias[:dim], layer.gates.bias[dim:]
    rows = []
    for i in range(len(x)):
        arriving = sum((incoming[i, j] * layer.edge_in(x[j]) for j in range(len(x))), torch.zeros(dim))
        leaving = sum((outgoing[i, j] * layer.edge_out(x[j]) for j in range(len(x))), torch.zeros(dim))
        a = torch.cat([arriving, leaving])
        z = torch.sigmoid(w_z @ torch.cat([a, x[i]]) + b_z)
        r = torch.sigmoid(w_r @ torch.cat([a, x[i]]) + b_r)
        proposed = torch.tanh(layer.candidate(torch.cat([a, r * x[i]])))
        rows.append((1 - z) * x[i] + z * proposed)
    return torch.stack(rows)


def test_worked_example() -> None:
    """1→2→3→2→4: out of item 2 half goes to 3 and half to 4; into it, half comes from 1 and half from 3."""
    graph = SessionGraph(torch.tensor([[1, 2, 3, 2, 4]]))
    assert graph.outgoing[0, 1].tolist() == [0, 0, 0.5, 0, 0.5]
    assert graph.incoming[0, 1].tolist() == [0.5, 0, 0.5, 0, 0]
    assert graph.node_of[0].argmax(1).tolist() == [0, 1, 2, 1, 4]
