"""STAMP against its equations, one position at a time."""

from __future__ import annotations

import torch

from models.stamp import STAMP


def test_equals_its_equations() -> None:
    torch.manual_seed(0)
    model = STAMP(9, dim=4, max_norm=1.0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()  # no weight so small that leaving out its term would go unseen
        model.items.weight *= 0.3 / model.items.weight.norm(dim=1, keepdim=True)
    session = torch.tensor([[3, 1, 3, 7]])
    x = model.items(session)[0]
    vectors = model.forward_all(session)[0]
    for t in range(4):
        mean = x[: t + 1].mean(0)
        asking = model.attend_last(x[t]) + model.attend_mean(mean)
        alpha = [model.weight(torch.sigmoid(model.attend_each(x[j]) + asking)) for j in range(t + 1)]
        memory = sum((alpha[j] * x[j] for j in range(t + 1)), mean)
        expected = torch.tanh(model.of_session(memory)) * torch.tanh(model.of_last(x[t]))
        torch.testing.assert_close(vectors[t], expected)
