"""STMP: Liu et al., STAMP: Short-Term Attention/Memory Priority Model for Session-based Recommendation,
KDD 2018.

The paper's model without attention: a session's mean and its last click, through one layer each.

    m_s = (1/t) Σ_{j ≤ t} x_j                                (1)
    h_s = tanh(W_s m_s + b_s)                                (2)
    h_t = tanh(W_t x_t + b_t)                                (3)
    score_i = ⟨h_s, h_t, x_i⟩ = (h_s ⊙ h_t) · x_i            (4)

In (1) and (3) a click's vector longer than `max_norm` is shortened to it. That is not in the paper: the
authors' code has 1 for Yoochoose and 1.5 for Diginetica, in STAMP, the only one of the two it holds.

Departures: (4) has no sigmoid around it, nor has it in the authors' code (a softmax over n numbers between 0
and 1 can give no item more than e/n); 1,024 targets a step, all positions of a session at once; the item
table starts from N(0, 1/D): from the paper's N(0, 0.002²) (`items_std`) little is learned in few epochs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.base import PAD, Batching, Family, Hyper, Recipe, SessionEncoder
from models.bounds import require
from models.layers import running_mean, shorten


class STMP(SessionEncoder):
    """A session's mean click times its last one."""

    recipe: Recipe = Recipe(epochs=7, batch_size=1024, lr=3e-3, lr_step=4, patience=2)
    paper: ClassVar[Mapping[str, Hyper]] = {
        "loss": "ce",
        "epochs": 10,
        "patience": 10,
        "batch_size": 512,
        "optimizer": "adam",
        "lr": 3e-3,
        "lr_gamma": 1.0,
        "dim": 100,
        "max_norm": 1.0,  # Yoochoose; 1.5 on Diginetica
        "items_std": 0.002,
    }
    family: ClassVar[Family] = "sequence"
    batching: Batching = "positions"
    causal: ClassVar[bool] = True

    def __init__(
        self, n_items: int, *, dim: int = 100, max_norm: float = 1.0, items_std: float = 0.0
    ) -> None:
        require(at_least=1, dim=dim)
        require(above=0, max_norm=max_norm)
        require(at_least=0, items_std=items_std)
        super().__init__()
        self.max_norm = max_norm
        self.items = nn.Embedding(n_items + 1, dim, padding_idx=PAD)
        self.of_session = nn.Linear(dim, dim)  # W_s, b_s
        self.of_last = nn.Linear(dim, dim)  # W_t, b_t
        items_std = items_std or 1 / math.sqrt(dim)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=items_std if parameter is self.items.weight else 0.05)
        with torch.no_grad():
            self.items.weight[PAD].zero_()

    def forward_all(self, sessions: Tensor) -> Tensor:
        clicks = shorten(self.items(sessions), self.max_norm)  # (B, L, D)
        h_s = torch.tanh(self.of_session(running_mean(clicks)))  # (1), (2)
        h_t = torch.tanh(self.of_last(clicks))  # (3)
        vectors: Tensor = h_s * h_t  # (4)
        return vectors

    def item_vectors(self) -> Tensor:
        return self.items.weight
