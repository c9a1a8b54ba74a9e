"""SASRec: Kang & McAuley, Self-Attentive Sequential Recommendation, ICDM 2018.

    x_t = √D · v_t + p_t                                     (1)  p: learned positions
    x ← x + Dropout(Attention(LN(x)))                        (2)  causal
    x ← x + Dropout(W₂ ReLU(W₁ LN(x) + b₁) + b₂)             (3)  two blocks of (2), (3)
    r_i = v_i · LN(x_t)                                      (4)  the input's item table

Departures: D = 100 instead of 50, and the full cross-entropy; the paper's is `loss=bce` on uniform
negatives (`in_batch=false`). By default every v and the left side of (4) are L2-normalised, and cosines
scaled (`head="niser"`); `head="native"` is the paper's. Positions count from the first click instead of
back from the end of a fixed window, so that one pass gives every prefix the vector it has alone. Attention
has an output projection, as Transformers do, no dropout on its weights, and takes keys and values from
LN(x) too, where the authors' code takes them from x.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import normalize

from models.base import PAD, Batching, Family, Head, Hyper, Recipe, SessionEncoder
from models.bounds import require
from models.layers import Transformer


class SASRec(SessionEncoder):
    """Causal self-attention over the clicks; the vector at a click scores what comes next."""

    recipe: Recipe = Recipe(epochs=8, batch_size=1024, lr=2e-3, lr_step=3, patience=2)
    paper: ClassVar[Mapping[str, Hyper]] = {
        "loss": "bce",  # of one negative a target; the mean over a shared sample is the same in expectation
        "negatives": 128,
        "in_batch": False,
        "epochs": 200,
        "patience": 20,
        "batch_size": 512,  # targets; theirs is 128 sequences
        "optimizer": "adam",  # theirs with β₂ = 0.98
        "lr": 1e-3,
        "lr_gamma": 1.0,
        "dim": 50,
        "layers": 2,
        "heads": 1,
        "dropout": 0.5,
        "head": "native",
        "scale": 1.0,
        "max_length": 50,
    }
    family: ClassVar[Family] = "sequence"
    batching: Batching = "positions"
    causal: ClassVar[bool] = True

    def __init__(
        self,
        n_items: int,
        *,
        dim: int = 100,
        layers: int = 2,
        heads: int = 1,
        dropout: float = 0.2,
        head: Head = "niser",
        scale: float = 16.0,
        max_length: int = 50,
    ) -> None:
        require(above=0, scale=scale)
        require(at_least=1, dim=dim)
        super().__init__()
        self.head = head
        self.scale = scale if head == "niser" else 1.0
        self.max_length = max_length
        self.items = nn.Embedding(n_items + 1, dim, padding_idx=PAD)
        self.encoder = Transformer(
            dim,
            max_length=max_length,
            layers=layers,
            heads=heads,
            inner=dim,
            dropout=dropout,
            activation=nn.ReLU,
            norm_first=True,
        )
        for table in (self.items, self.encoder.positions):
            nn.init.normal_(table.weight, std=1 / math.sqrt(dim))

    def forward_all(self, sessions: Tensor) -> Tensor:
        clicks = self._unit(self.items(sessions)) * math.sqrt(self.items.embedding_dim)  # (1), (B, L, D)
        return self._unit(self.encoder(clicks))  # (2)–(4)

    def _unit(self, vectors: Tensor) -> Tensor:
        return normalize(vectors, dim=-1) if self.head == "niser" else vectors

    def item_vectors(self) -> Tensor:
        return self.items.weight
