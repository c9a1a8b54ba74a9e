"""CORE-trm: Hou et al., CORE: Simple and Effective Session-based Recommendation within Consistent
Representation Space, SIGIR 2022.

    α_j = softmax_{j≤t}(wᵀ Transformer(x_1..x_t)_j)          (1)  the Transformer only weighs the clicks
    s_t = Σ_{j≤t} α_j x_j                                    (2)  a session lives where its items do
    ŷ = softmax(cos(s_t, v_i) / τ),  τ = 0.07                (3)  with dropout on the table v in training

The Transformer is causal, as the authors' is, so a click's weight before the softmax does not depend on later
clicks: all prefixes of a session share one row of them.

Departures: batches of 1,024 targets instead of 2,048, at twice the learning rate and for fewer epochs; no
dropout on attention weights. Under a sampled loss v's dropout is drawn for each row that is looked up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from models.base import PAD, Batching, Family, Head, Hyper, Recipe, SessionEncoder
from models.bounds import require
from models.layers import Transformer


class CORE(SessionEncoder):
    """A session as a weighted mean of its own items' vectors."""

    recipe: Recipe = Recipe(epochs=8, batch_size=1024, lr=2e-3, lr_step=3, patience=2)
    paper: ClassVar[Mapping[str, Hyper]] = {
        "loss": "ce",
        "epochs": 300,
        "patience": 5,
        "batch_size": 2048,
        "optimizer": "adam",
        "lr": 1e-3,
        "lr_gamma": 1.0,
        "dim": 100,
        "layers": 2,
        "heads": 2,
        "inner": 256,
        "dropout": 0.5,
        "dropout_session": 0.2,
        "dropout_items": 0.2,
        "temperature": 0.07,
        "max_length": 50,
    }
    family: ClassVar[Family] = "sequence"
    batching: Batching = "positions"
    causal: ClassVar[bool] = True
    head: Head = "niser"

    def __init__(
        self,
        n_items: int,
        *,
        dim: int = 100,
        layers: int = 2,
        heads: int = 2,
        inner: int = 256,
        dropout: float = 0.5,
        dropout_session: float = 0.2,
        dropout_items: float = 0.2,
        temperature: float = 0.07,
        max_length: int = 50,
    ) -> None:
        require(above=0, temperature=temperature)
        require(at_least=1, dim=dim)
        super().__init__()
        self.scale = 1 / temperature
        self.max_length = max_length
        self.items = nn.Embedding(n_items + 1, dim, padding_idx=PAD)
        self.encoder = Transformer(
            dim,
            max_length=max_length,
            layers=layers,
            heads=heads,
            inner=inner,
            dropout=dropout,
            activation=nn.GELU,
            norm_first=False,
        )
        self.weight = nn.Linear(dim, 1, bias=False)  # a bias would cancel in the softmax
        self.dropout_session = nn.Dropout(dropout_session)
        self.dropout_items = nn.Dropout(dropout_items)
        nn.init.uniform_(self.items.weight, -1 / math.sqrt(dim), 1 / math.sqrt(dim))

    def forward_all(self, sessions: Tensor) -> Tensor:
        clicks = self.dropout_session(self.items(sessions))  # (B, L, D)
        logits = self.weight(self.encoder(clicks)).transpose(1, 2)  # (B, 1, L)
        place = torch.arange(sessions.shape[1], device=sessions.device)
        later = place > place[:, None]  # (L, L)
        alpha = logits.masked_fill(later, -torch.inf).softmax(2)  # (1), (B, L, L)
        return normalize(alpha @ clicks, dim=2)  # (2)

    def item_vectors(self) -> Tensor:
        table: Tensor = self.dropout_items(self.items.weight)
        return table

    def vectors_of(self, items: Tensor) -> Tensor:
        rows: Tensor = self.dropout_items(self.items(items))
        return rows
