"""GRU: Cho et al., Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine
Translation, EMNLP 2014.

A plain recurrent encoder of sessions, trained as the other sequence models here, and no model of GRU4Rec's
papers: `gru4rec` is.

    h_t = GRU(v_t, h_{t−1})                                  (1)
    r_i = 16 · cos(v_i, h_t)                                 (2)

v_t is the clicked item's vector, of the same table that scores. Sessions are padded, every position is a
target in one pass with gradients through the whole session, and the loss is the full softmax, with Adam.
Cosines are NISER's (Gupta et al. 2019), meant against popularity bias; `head=native` scores by v_i · h_t
instead, without a bias.

Nobody published settings of it. A vector of 200, twice the usual width, under much dropout is what validation
likes, of large data and of small (benchmarks/README.md, "What validation likes"). Weights start from
U(±sqrt(6 / (rows + columns))) of each matrix, of the GRU of each gate's own.
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
from models.layers import GRU


class GRUEncoder(SessionEncoder):
    """A GRU over the clicks; cosines to its state after a click score what comes next."""

    recipe: Recipe = Recipe(epochs=8, batch_size=1024, lr=3e-3, lr_step=3, patience=2, time_order=True)
    paper: ClassVar[Mapping[str, Hyper]] = {}
    family: ClassVar[Family] = "sequence"
    batching: Batching = "positions"
    causal: ClassVar[bool] = True

    def __init__(
        self,
        n_items: int,
        *,
        dim: int = 200,
        layers: int = 1,
        dropout_embedding: float = 0.4,
        dropout_hidden: float = 0.0,
        head: Head = "niser",
        scale: float = 16.0,
    ) -> None:
        require(at_least=1, dim=dim, layers=layers)
        require(above=0, scale=scale)
        super().__init__()
        self.head = head
        self.scale = scale if head == "niser" else 1.0
        self.items = nn.Embedding(n_items + 1, dim, padding_idx=PAD)
        self.gru = GRU(dim, dim, layers)
        self.dropout_embedding = nn.Dropout(dropout_embedding)
        self.dropout_hidden = nn.Dropout(dropout_hidden)
        self._initialise(n_items, dim)

    def _initialise(self, n_items: int, dim: int) -> None:
        of_items, of_units = math.sqrt(6 / (n_items + dim)), math.sqrt(6 / (dim + dim))
        nn.init.uniform_(self.items.weight, -of_items, of_items)
        for parameter in self.gru.parameters():
            if parameter.dim() == 1:
                nn.init.zeros_(parameter)
            else:
                nn.init.uniform_(parameter, -of_units, of_units)
        with torch.no_grad():
            self.items.weight[PAD].zero_()

    def forward_all(self, sessions: Tensor) -> Tensor:
        clicks = self.dropout_embedding(self._unit(self.items(sessions)))  # (B, L, D)
        states = self.dropout_hidden(self.gru.states(clicks))  # (1)
        return self._unit(states)

    def _unit(self, vectors: Tensor) -> Tensor:
        return normalize(vectors, dim=-1) if self.head == "niser" else vectors

    def item_vectors(self) -> Tensor:
        return self.items.weight
