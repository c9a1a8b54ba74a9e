"""SGNN-HN against its equations, one session and one node at a time."""

from __future__ import annotations

import math
from typing import Any

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
    place = range(len(session)) if model.counted == "forward" else reversed(range(len(session)))
    u = [
        final[nodes.index(item)] + model.positions.weight[t] for t, item in zip(place, session, strict=True)
    ]  # (7)
    asking = model.of_star(star) + model.of_last(u[-1])
    gamma = [model.weight(torch.sigmoid(model.of_each(each) + asking)) for each in u]  # (8)
    overall = sum((g * each for g, each in zip(gamma, u, strict=True)), torch.zeros_like(star))
    z = model.mix(torch.cat([overall, u[-1]]))  # (9)
    return torch.nn.functional.normalize(z - z.mean() if model.centre else z, dim=0)  # (10)


@pytest.mark.parametrize(("layers", "as_the_code"), [(1, False), (3, False), (2, True)])
def test_equals_its_equations(layers: int, as_the_code: bool) -> None:
    """With the departures of the authors' code from their paper, too."""
    torch.manual_seed(0)
    code: dict[str, Any] = {"reset": "after", "bias": True, "centre": True, "positions": "forward"}
    model = SGNNHN(9, dim=4, layers=layers, **(code if as_the_code else {})).eval()
    assert model.counted == ("forward" if as_the_code else "reversed")
    assert (model.mix.bias is not None) == as_the_code
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()  # no weight so small that leaving out its term would go unseen
    padded = torch.tensor([session + [PAD] * (9 - len(session)) for session in SESSIONS])
    for vector, session in zip(model(padded), SESSIONS, strict=True):
        torch.testing.assert_close(vector, slow_vector(model, session), atol=1e-5, rtol=1e-4)


def test_centred_items_sum_to_nothing() -> None:
    table = SGNNHN(9, dim=4, centre=True).item_vectors()
    torch.testing.assert_close(table.sum(1), torch.zeros(10), atol=1e-6, rtol=0)
    assert SGNNHN(9, dim=4).item_vectors().sum(1).abs().max() > 0.1
