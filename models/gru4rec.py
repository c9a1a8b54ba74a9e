"""GRU4Rec: Hidasi et al., Session-based Recommendations with Recurrent Neural Networks, ICLR 2016;
Hidasi & Karatzoglou, Recurrent Neural Networks with Top-k Gains, CIKM 2018.

    h_t = GRU(x_t, h_{t−1})                                  (1)
    r_i = V_i · h_t + b_i                                    (2)

Departures: this is the padded mode, every position of a session in one pass under the full softmax, with
Adam, 1,024 targets a step, instead of session-parallel mini-batches with sampled outputs. Input and output
share one table (the papers' "constrained" embedding). By default scores are scaled cosines (`head="niser"`),
meant against the popularity bias of (2), and without b; `head="native"` is (2) itself.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from models.base import PAD, Batching, Head, Recipe, SessionEncoder
from models.layers import GRU


class GRU4Rec(SessionEncoder):
    """A GRU over the clicks; its state after a click scores what comes next."""

    recipe: ClassVar[Recipe] = Recipe(epochs=8, batch_size=1024, lr=3e-3, lr_step=3, patience=2)
    batching: ClassVar[Batching] = "positions"
    causal: ClassVar[bool] = True

    def __init__(
        self,
        n_items: int,
        *,
        dim: int = 100,
        layers: int = 1,
        dropout_embedding: float = 0.25,
        dropout_hidden: float = 0.0,
        head: Head = "niser",
        scale: float = 16.0,
    ) -> None:
        super().__init__()
        self.head = head
        self.scale = scale if head == "niser" else 1.0
        self.items = nn.Embedding(n_items + 1, dim, padding_idx=PAD)
        self.bias = nn.Parameter(torch.zeros(n_items + 1)) if head == "native" else None
        self.gru = GRU(dim, dim, layers)
        self.dropout_embedding = nn.Dropout(dropout_embedding)
        self.dropout_hidden = nn.Dropout(dropout_hidden)
        self._initialise()

    def _initialise(self) -> None:
        """U(±sqrt(6 / (rows + columns))) for every matrix, as the authors do; zero biases."""
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.uniform_(parameter, -1, 1)
                parameter.data *= math.sqrt(6 / sum(parameter.shape))
            else:
                nn.init.zeros_(parameter)
        with torch.no_grad():
            self.items.weight[PAD].zero_()

    def forward_all(self, sessions: Tensor) -> Tensor:
        clicks = self.dropout_embedding(self._unit(self.items(sessions)))  # (B, L, D)
        return self._unit(self.dropout_hidden(self.gru.states(clicks)))  # (1)

    def _unit(self, vectors: Tensor) -> Tensor:
        return normalize(vectors, dim=-1) if self.head == "niser" else vectors

    def item_vectors(self) -> Tensor:
        return self.items.weight

    def item_bias(self) -> Tensor | None:
        return self.bias
