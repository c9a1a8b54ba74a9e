"""SGNN-HN against its equations, one session and one node at a time."""

from __future__ import annotations

import math

import pytest
import torch

from models.base import PAD
from models.layers import SessionGraph
from models.sgnn_hn import SGNNHN

SESSIONS = [[3, 1, 3, 7, 7, 1, 2], [5], [4, 4], [2, 6, 2, 6]]


def slow_vector(model: SGNNHN, session: list[int]) -> torch.Tensor:
    """Equations (1)–(9), the star and its nodes kept apart."""
    nodes = list(dict.fromkeys(session))
    first = [session.index(node) for node in nodes]
    graph = SessionGraph(torch.tensor([session]))
    root = math.sqrt(model.items.embedding_dim)
    x = x0 = model.items(torch.tensor(nodes))
    star = x.mean(0)
    for _ in range(model.layers):
        placed = torch.zeros(1, len(session), x.shape[1])
        placed[0, first] = x
        x_hat = model.graph_layer(placed, graph)[0, first]  # (1)
        q1, k1 = model.from_star.of_node, model.from_star.of_star
        alpha = [torch.sigmoid(q1(each) @ k1(star) / root) for each in x_hat]  # (2)
        x = torch.stack([(1 - a) * each + a * star for a, each in zip(alpha, x_hat, strict=True)])  # (3)
        k2, q2 = model.to_star.of_node, model.to_star.of_star
        beta = torch.stack([k2(each) @ q2(star) / root for each in x]).softmax(0)  # (4)
        star = sum((b * each for b, each in zip(beta, x, strict=True)), torch.zeros_like(star))  # (5)
    gate = torch.sigmoid(model.highway(torch.cat([x0, x], 1)))
    final = gate * x0 + (1 - gate) * x  # (6)
    u = [final[nodes.index(item)] + model.positions.weight[t] for t, item in enumerate(session)]  # (7)
    asking = model.of_star(star) + model.of_last(u[-1])
    gamma = [model.weight(torch.sigmoid(model.of_each(each) + asking)) for each in u]  # (8)
    overall = sum((g * each for g, each in zip(gamma, u, strict=True)), torch.zeros_like(star))
    return torch.nn.functional.normalize(model.mix(torch.cat([overall, u[-1]])), dim=0)  # (9), (10)


@pytest.mark.parametrize("layers", [1, 3])
def test_equals_its_equations(layers: int) -> None:
    torch.manual_seed(0)
    model = SGNNHN(9, dim=4, layers=layers).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()  # no weight so small that leaving out its term would go unseen
    padded = torch.tensor([session + [PAD] * (9 - len(session)) for session in SESSIONS])
    for vector, session in zip(model(padded), SESSIONS, strict=True):
        torch.testing.assert_close(vector, slow_vector(model, session), atol=1e-5, rtol=1e-4)
