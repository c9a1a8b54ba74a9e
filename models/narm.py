"""NARM: Li et al., Neural Attentive Session-based Recommendation, CIKM 2017.

    h_t = GRU(x_t, h_{t−1})                                  (1)
    c_g = h_t                                                (2)  global encoder: where the session has got to
    α_j = softmax_{j ≤ t} vᵀσ(A₁h_t + A₂h_j)                 (3)
    c_l = Σ_{j ≤ t} α_j h_j                                  (4)  local encoder: what it is after
    score_i = x_iᵀ B [c_g; c_l]                              (5)

The paper writes (3) without the softmax (`attention=plain`); the authors' code has it, over the real
positions, and so has this. Paper and code scale the state by the reset gate before its product with the
weights (`reset=before`, several times as slow here), torch's GRU after it.

Departures: 1,024 targets a step, all positions of a session at once, instead of 512 prefixes; exact sigmoids
where the authors' code has piecewise linear ones; torch's initialisation of everything but the item table,
and that from N(0, 1/D): from the authors' N(0, 2/n) little is learned in few epochs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from models.base import PAD, Batching, Family, Hyper, Recipe, SessionEncoder
from models.bounds import require
from models.layers import GRU, Reset


class NARM(SessionEncoder):
    """A GRU whose last state attends to the states before it; a bilinear decoder."""

    recipe: Recipe = Recipe(epochs=7, batch_size=1024, lr=3e-3, lr_step=4, patience=2)
    paper: ClassVar[Mapping[str, Hyper]] = {
        "loss": "ce",
        "epochs": 30,
        "patience": 30,
        "batch_size": 512,
        "optimizer": "adam",
        "lr": 1e-3,
        "lr_gamma": 1.0,
        "dim": 50,
        "hidden": 100,
        "dropout_embedding": 0.25,
        "dropout_session": 0.5,
        "reset": "before",
        "attention": "softmax",  # their code; the paper's formula is `plain`
    }
    family: ClassVar[Family] = "sequence"
    batching: Batching = "positions"
    causal: ClassVar[bool] = True

    def __init__(
        self,
        n_items: int,
        *,
        dim: int = 50,
        hidden: int = 100,
        dropout_embedding: float = 0.25,
        dropout_session: float = 0.5,
        reset: Reset = "after",
        attention: Literal["softmax", "plain"] = "softmax",
    ) -> None:
        require(at_least=1, dim=dim, hidden=hidden)
        super().__init__()
        self.attention = attention
        self.items = nn.Embedding(n_items + 1, dim, padding_idx=PAD)
        self.gru = GRU(dim, hidden, reset=reset)
        self.of_last = nn.Linear(hidden, hidden, bias=False)  # A₁
        self.of_each = nn.Linear(hidden, hidden, bias=False)  # A₂
        self.weight = nn.Linear(hidden, 1, bias=False)  # v
        self.decoder = nn.Linear(2 * hidden, dim, bias=False)  # B
        self.dropout_embedding = nn.Dropout(dropout_embedding)
        self.dropout_session = nn.Dropout(dropout_session)
        nn.init.normal_(self.items.weight, std=1 / math.sqrt(dim))
        with torch.no_grad():
            self.items.weight[PAD].zero_()

    def forward_all(self, sessions: Tensor) -> Tensor:
        states = self.gru.states(self.dropout_embedding(self.items(sessions)))  # (1), (B, L, H)
        place = torch.arange(sessions.shape[1], device=sessions.device)
        later = place > place[:, None]  # (L, L)
        pairs = torch.sigmoid(
            self.of_last(states)[:, :, None] + self.of_each(states)[:, None]
        )  # (B, L, L, H)
        alpha = self.weight(pairs).squeeze(3)  # (3), (B, L, L)
        if self.attention == "softmax":
            alpha = alpha.masked_fill(later, -torch.inf).softmax(2)
        else:
            alpha = alpha.masked_fill(later, 0.0)
        both = torch.cat([states, alpha @ states], 2)  # (2), (4)
        vectors: Tensor = self.decoder(self.dropout_session(both))  # (5), (B, L, D)
        return vectors

    def item_vectors(self) -> Tensor:
        return self.items.weight
