"""PEN4Rec against its equations, one session and one click at a time; the evolution against torch's GRU."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from models.base import PAD
from models.layers import SessionGraph
from models.pen4rec import AttentiveGRU, PEN4Rec

SESSIONS = [[3, 1, 3, 7, 7, 1, 2], [5], [4, 4], [2, 6, 2]]


def slow_vector(model: PEN4Rec, session: list[int]) -> torch.Tensor:
    """Equations (1)–(9)."""
    clicks = torch.tensor([session])
    graph = SessionGraph(clicks)
    h = (graph.node_of @ model.graph_layer(model.items(clicks), graph))[0]  # (1)
    recent = h[-model.recent :]
    alpha = [  # (2)
        sum(model.weight(torch.sigmoid(model.of_recent(i) + model.of_each(t))) for i in recent) / len(recent)
        for t in h
    ]
    g, _ = model.reader(torch.stack([a * t for a, t in zip(alpha, h, strict=True)])[None])  # (3)
    e = torch.zeros(h.shape[1])
    w_u, w_r, w_e = model.evolution.inputs.weight.chunk(3)
    b_u, b_r, b_e = model.evolution.inputs.bias.chunk(3)
    u_u, u_r, u_e = model.evolution.state.weight.chunk(3)
    c_u, c_r, c_e = model.evolution.state.bias.chunk(3)
    for read in g[0]:
        a = torch.sigmoid(read @ model.relevance(h[-1]) / math.sqrt(h.shape[1]))  # (4)
        u = a * torch.sigmoid(w_u @ read + b_u + u_u @ e + c_u)  # (5)
        r = torch.sigmoid(w_r @ read + b_r + u_r @ e + c_r)  # (6)
        proposed = torch.tanh(w_e @ read + b_e + r * (u_e @ e + c_e))  # (7)
        e = (1 - u) * e + u * proposed  # (8)
    vector: torch.Tensor = model.mix(torch.cat([e, h[-1]]))  # (9)
    return vector


@pytest.mark.parametrize("recent", [1, 3])
def test_equals_its_equations(recent: int) -> None:
    torch.manual_seed(0)
    model = PEN4Rec(9, dim=4, recent=recent, head="native").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()  # no weight so small that leaving out its term would go unseen
    padded = torch.tensor([session + [PAD] * (9 - len(session)) for session in SESSIONS])
    for vector, session in zip(model(padded), SESSIONS, strict=True):
        torch.testing.assert_close(vector, slow_vector(model, session), atol=1e-5, rtol=1e-4)


def test_full_attention_is_a_gru() -> None:
    """torch's update gate keeps what ours replaces: z = 1 − u, so the update gate's weights change sign."""
    torch.manual_seed(0)
    ours, theirs = AttentiveGRU(4), nn.GRU(4, 4, batch_first=True)
    weights = {"ih": ours.inputs, "hh": ours.state}
    for name, layer in weights.items():
        for kind, parameter in (("weight", layer.weight), ("bias", layer.bias)):
            update, reset, proposed = parameter.detach().chunk(3)
            theirs.get_parameter(f"{kind}_{name}_l0").data = torch.cat([reset, -update, proposed])
    inputs = torch.randn(3, 5, 4)
    torch.testing.assert_close(ours(inputs, torch.ones(3, 5, 1)), theirs(inputs)[1][0])


def test_what_is_recent_has_bounds() -> None:
    with pytest.raises(ValueError, match="recent must be between 1 and max_length"):
        PEN4Rec(9, dim=4, recent=0)
