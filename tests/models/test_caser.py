"""Caser's shared convolutions against its equations, one window at a time."""

from __future__ import annotations

import pytest
import torch

from models.base import PAD
from models.caser import Caser


def one_window(model: Caser, clicks: list[int]) -> torch.Tensor:
    """The vector of a session by (1)-(3), each filter slid over an image of exactly five rows."""
    image = model.clicks(torch.tensor(([PAD] * 5 + clicks)[-5:]))  # (5, D)
    features = [(image.T @ model.vertical.weight.T + model.vertical.bias).flatten()]
    weights = model.state_dict()
    for height in range(1, 6):
        weight = weights[f"horizontal.{height - 1}.weight"]  # (16, D, height)
        bias = weights[f"horizontal.{height - 1}.bias"]
        slid = [torch.einsum("hd,fdh->f", image[i : i + height], weight) + bias for i in range(6 - height)]
        features.append(torch.stack(slid).relu().amax(0))
    vector: torch.Tensor = model.full(torch.cat(features)).relu()
    return vector


def test_every_position_is_its_own_window() -> None:
    torch.manual_seed(0)
    model = Caser(30, dim=8).eval()
    session = [3, 9, 9, 1, 30, 7, 3, 12]
    every = model.forward_all(torch.tensor([session, [4, 2, PAD, PAD, PAD, PAD, PAD, PAD]]))
    for length in range(1, 9):
        torch.testing.assert_close(every[0, length - 1], one_window(model, session[:length]))
    torch.testing.assert_close(every[1, 1], one_window(model, [4, 2]))


def test_only_the_newest_five_clicks_count() -> None:
    torch.manual_seed(0)
    model = Caser(30, dim=8).eval()
    same, other = model(torch.tensor([[1, 5, 6, 7, 8, 9], [2, 5, 6, 7, 8, 9]]))
    assert torch.equal(same, other)
    first, second = model(torch.tensor([[5, 6, 7, 8, 9], [1, 6, 7, 8, 9]]))
    assert not torch.equal(first, second)


def test_rows_are_short_so_that_they_move_and_what_is_made_of_them_is_not() -> None:
    torch.manual_seed(0)
    model = Caser(500, dim=100)
    for table in (model.clicks, model.items):
        torch.testing.assert_close(table.weight.norm(dim=1), torch.ones(501), rtol=0, atol=0.3)
    rows = model.clicks(torch.randint(1, 501, (400, 5)))  # (B, W, D)
    usual = torch.nn.Conv1d(100, 16, 1)(torch.randn(400, 100, 5)).std().item()
    assert model.horizontal[0](rows.transpose(1, 2)).std().item() == pytest.approx(usual, rel=0.2)
    usual = torch.nn.Linear(5, 4)(torch.randn(400, 100, 5)).std().item()
    assert model.vertical(rows.transpose(1, 2)).std().item() == pytest.approx(usual, rel=0.3)
