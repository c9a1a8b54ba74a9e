"""TRON: Wilm et al., Scaling Session-Based Transformer Recommendations using Optimized Negative Sampling and
Loss Functions, RecSys 2023.

SASRec's encoder under another loss, for catalogues too large for a full softmax:

    x_t = √D · v_t + p_t                                     (1)  p: learned positions
    s_t = LN(blocks(x)_t),  r_i = v_i · s_t                  (2)  causal, two blocks
    L = −r_t + log(e^{r_t} + Σ_{j ∈ top-k} e^{r_j})          (3)

In (3) t is the target and top-k its 100 highest-scored negatives, among 16,384 uniform ones that all
targets of a step share.

Departures: none of the other clicks of a batch are negatives (the authors draw 127 a session from them;
`in_batch=true`): a step here has 1,024 targets, and without them validation on yoochoose1_64 after an epoch
was 57.5/26.4, with them 53.1/25.6, with them corrected for popularity 42.8/21.0, the last two with clicks of
the target's own session among them, which are none now, and all three with repeats in the sample, which took
the places of other hard items. Now its items are distinct: 59.4/26.9. A negative's score in (3) is corrected
for how likely it is to be in the sample (`logq`), which the paper does not. D = 100 instead of 200, dropout
0.2 instead of 0.05. Head, positions and attention as in SASRec here: by default every v and s are
L2-normalised, and cosines scaled (`head="niser"`; the authors' is `native`), and positions count from the
first click.
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


class TRON(SessionEncoder):
    """Causal self-attention, trained on the hardest of many shared negatives."""

    recipe: Recipe = Recipe(
        loss="sampled-ce",
        negatives=16_384,
        in_batch=False,
        hardest=100,
        epochs=7,
        batch_size=1024,
        lr=2e-3,
        lr_step=5,
        patience=2,
    )
    paper: ClassVar[Mapping[str, Hyper]] = {
        "loss": "sampled-ce",
        "negatives": 16_384,
        "in_batch": True,  # all other sessions' clicks of a step; theirs are 127
        "hardest": 100,
        "logq": False,
        "epochs": 10,
        "patience": 10,
        "batch_size": 512,  # targets; theirs is 128 sessions
        "optimizer": "adam",
        "lr": 5e-4,
        "lr_gamma": 1.0,
        "dim": 200,
        "layers": 2,
        "heads": 1,
        "dropout": 0.05,
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
        return self._unit(self.encoder(clicks))  # (2)

    def _unit(self, vectors: Tensor) -> Tensor:
        return normalize(vectors, dim=-1) if self.head == "niser" else vectors

    def item_vectors(self) -> Tensor:
        return self.items.weight
