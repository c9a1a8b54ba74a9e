"""STMP against its equations, one position at a time."""

from __future__ import annotations

import torch

from models.stmp import STMP


def test_equals_its_equations() -> None:
    torch.manual_seed(0)
    model = STMP(9, dim=4, max_norm=1.0).eval()
    with torch.no_grad():
        model.items.weight[3] = 2.0  # too long: it enters as (½, ½, ½, ½)
        model.items.weight[1] = torch.tensor([0.1, -0.2, 0.3, -0.4])  # short: it enters as it is
    x = torch.stack([torch.full((4,), 0.5), model.items.weight[1], torch.full((4,), 0.5)])
    vectors = model.forward_all(torch.tensor([[3, 1, 3]]))[0]
    for t in range(3):
        h_s = torch.tanh(model.of_session(sum(x[: t + 1], torch.zeros(4)) / (t + 1)))
        torch.testing.assert_close(vectors[t], h_s * torch.tanh(model.of_last(x[t])))
    assert model.item_vectors()[3].tolist() == [2.0] * 4  # scored at full length
