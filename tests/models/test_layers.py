"""The session graph against its definition, a slow, obvious loop; the Transformer against torch's own."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.layers import GRU, GatedGraphLayer, Reset, SessionGraph, SoftAttention, Transformer

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


@given(
    st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=9), min_size=1, max_size=4),
    st.sampled_from(["before", "after"]),
)
@settings(max_examples=60, deadline=None)
def test_graph_equals_its_definition(sessions: list[list[int]], reset: Reset) -> None:
    length = max(map(len, sessions)) + 1
    padded = torch.tensor([session + [0] * (length - len(session)) for session in sessions])
    graph = SessionGraph(padded)
    layer = GatedGraphLayer(4, reset)
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
    (w_in, w_out), (b_in, b_out) = layer.edges.weight.chunk(2), layer.edges.bias.chunk(2)
    (w_z, w_r, w_o), (b_z, b_r, b_o) = layer.of_edges.weight.chunk(3), layer.of_edges.bias.chunk(3)
    (u_z, u_r), u_o = layer.of_node.weight.chunk(2), layer.of_kept.weight
    nodes, zero = range(len(x)), torch.zeros(x.shape[1])
    rows = []
    for i in nodes:
        arriving = sum((incoming[i, j] * (w_in @ x[j] + b_in) for j in nodes), zero)
        leaving = sum((outgoing[i, j] * (w_out @ x[j] + b_out) for j in nodes), zero)
        a = torch.cat([arriving, leaving])
        z = torch.sigmoid(w_z @ a + u_z @ x[i] + b_z)
        r = torch.sigmoid(w_r @ a + u_r @ x[i] + b_r)
        # As the paper, or as the codes, with a bias of the product's own.
        kept = u_o @ (r * x[i]) if layer.reset == "before" else r * (u_o @ x[i] + layer.of_kept.bias)
        proposed = torch.tanh(w_o @ a + kept + b_o)
        rows.append((1 - z) * x[i] + z * proposed)
    return torch.stack(rows)


def test_worked_example() -> None:
    """1→2→3→2→4: out of item 2 half goes to 3 and half to 4; into it, half comes from 1 and half from 3."""
    graph = SessionGraph(torch.tensor([[1, 2, 3, 2, 4]]))
    assert graph.outgoing[0, 1].tolist() == [0, 0, 0.5, 0, 0.5]
    assert graph.incoming[0, 1].tolist() == [0.5, 0, 0.5, 0, 0]
    assert graph.node_of[0].argmax(1).tolist() == [0, 1, 2, 1, 4]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_transformer_equals_torchs(norm_first: bool, causal: bool) -> None:
    torch.manual_seed(0)
    ours = Transformer(
        8, max_length=6, layers=1, heads=2, inner=12, dropout=0.3, activation=nn.GELU, norm_first=norm_first
    ).eval()
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    theirs = nn.TransformerEncoderLayer(
        8, 2, 12, activation="gelu", batch_first=True, norm_first=norm_first
    ).eval()
    names = {
        "self_attn.in_proj_": "qkv.",
        "self_attn.out_proj.": "output.",
        "linear1.": "feed_forward.0.",
        "linear2.": "feed_forward.2.",
        "norm1.": "norm_attention.",
        "norm2.": "norm_feed_forward.",
    }
    weights = ours.state_dict()
    theirs.load_state_dict(
        {
            their_name + kind: weights[f"blocks.0.{name}{kind}"]
            for their_name, name in names.items()
            for kind in ("weight", "bias")
        }
    )
    inputs = torch.randn(3, 5, 8)
    real = torch.arange(5) < torch.tensor([[5], [3], [1]])
    placed = inputs + ours.positions.weight[:5]
    mask = nn.Transformer.generate_square_subsequent_mask(5) if causal else None
    expected = theirs(
        placed if norm_first else ours.norm(placed), mask, src_key_padding_mask=None if causal else ~real
    )
    answer = ours(inputs, None if causal else real)
    torch.testing.assert_close(answer[real], (ours.norm(expected) if norm_first else expected)[real])


def test_transformer_heads_divide_its_dimension() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        Transformer(
            8, max_length=6, layers=1, heads=3, inner=8, dropout=0.0, activation=nn.ReLU, norm_first=True
        )


def slow_gru(gru: GRU, inputs: npt.NDArray[np.floating], layer: int) -> npt.NDArray[np.floating]:
    """(L, input) to (L, hidden), gate by gate: torch stacks them as r, z, n."""

    def sigmoid(x: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        squashed: npt.NDArray[np.floating] = 1 / (1 + np.exp(-x))
        return squashed

    w, u, b, c = (
        np.split(gru.get_parameter(f"{kind}_l{layer}").detach().numpy(), 3)
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    h = np.zeros(gru.hidden_size, np.float32)
    states = []
    for x in inputs:
        r = sigmoid(w[0] @ x + b[0] + u[0] @ h + c[0])
        z = sigmoid(w[1] @ x + b[1] + u[1] @ h + c[1])
        kept = u[2] @ (r * h) + c[2] if gru.reset == "before" else r * (u[2] @ h + c[2])
        h = (1 - z) * np.tanh(w[2] @ x + b[2] + kept) + z * h
        states.append(h)
    return np.array(states)


@pytest.mark.parametrize("reset", ["before", "after"])
def test_gru_equals_its_definition(reset: Reset) -> None:
    torch.manual_seed(0)
    gru = GRU(3, 4, num_layers=2, reset=reset)
    for parameter in gru.parameters():
        nn.init.normal_(parameter)
    inputs = torch.randn(2, 5, 3)
    states = gru.states(inputs)
    for row in range(2):
        expected = slow_gru(gru, slow_gru(gru, inputs[row].numpy(), 0), 1)
        np.testing.assert_allclose(states[row].detach(), expected, atol=1e-5)
    first = gru.step(inputs[:, 0], torch.zeros(2, 4), 0)
    torch.testing.assert_close(gru.step(first, torch.zeros(2, 4), 1), states[:, 0])


@pytest.mark.parametrize("bias", [False, True])
def test_soft_attention_equals_its_equations(bias: bool) -> None:
    """Over all positions, not the items: a click that is repeated weighs twice."""
    torch.manual_seed(0)
    readout = SoftAttention(4, bias)
    for parameter in readout.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(1, 3, 4)
    session = torch.tensor([[5, 5, 2, 0]])
    answer = readout(torch.cat([x, torch.randn(1, 1, 4)], 1), session)[0]
    q, w1, w2, c = (
        readout.weight.weight[0],
        readout.of_last.weight,
        readout.of_each.weight,
        readout.of_each.bias,
    )
    alpha = [q @ torch.sigmoid(w1 @ x[0, 2] + w2 @ each + c) for each in x[0]]
    overall = sum((a * each for a, each in zip(alpha, x[0], strict=True)), torch.zeros(4))
    expected = readout.mix.weight @ torch.cat([x[0, 2], overall])
    torch.testing.assert_close(answer, expected + readout.mix.bias if bias else expected)
    assert (readout.mix.bias is not None) == bias
