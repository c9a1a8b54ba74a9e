"""BERT4Rec: Sun et al., BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
Transformer, CIKM 2019.

    h = Transformer(v_1 + p_1, .., [MASK] + p_{t+1})         (1)  bidirectional
    r_i = v_i · LN(GELU(W h_mask + b)) + b_i                 (2)  the input's item table

Trained as a cloze test: some clicks are hidden behind [MASK] and predicted from both sides. A session is
served with a [MASK] after its newest click; training samples that hide only the last click are of that kind.

Departures: the authors write down ten maskings of each user's whole sequence beforehand; here every prefix of
a session is masked anew in every epoch: a share `last_only` of them at the last click, the others at a share
`masked` of their clicks, at least one. Positions are counted from the newest click, the [MASK] a session is
served with among them, instead of from the first (`positions`), see NISER+. Item and position tables start at
N(0, 1/D) instead of N(0, 0.02²), from where little is learned in few epochs; no warm-up, weight decay or
dropout on attention weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from models.base import PAD, Batch, Batching, Family, Hyper, Recipe, SessionEncoder, last_position
from models.bounds import require
from models.layers import Positions, Transformer, places


class BERT4Rec(SessionEncoder):
    """Bidirectional self-attention that fills in hidden clicks, the next one among them."""

    recipe: Recipe = Recipe(epochs=6, batch_size=1024, lr=1e-3, lr_step=4, patience=2)
    paper: ClassVar[Mapping[str, Hyper]] = {
        "loss": "ce",
        "epochs": 200,
        "patience": 20,
        "batch_size": 256,
        "optimizer": "adam",
        "lr": 1e-4,
        "lr_gamma": 1.0,
        "dim": 64,
        "layers": 2,
        "heads": 2,
        "dropout": 0.2,  # MovieLens, bert_train/ and run_ml-1m.sh of the authors' code; 0.5 on Beauty
        "masked": 0.2,  # MovieLens; 0.6 on Beauty, where histories are short
        "last_only": 0.1,  # one of eleven samples of a user
        "positions": "forward",
        "max_length": 50,
    }
    earlier: ClassVar[Mapping[str, Hyper]] = {"positions": "forward"}
    family: ClassVar[Family] = "sequence"
    batching: Batching = "prefixes"

    def __init__(
        self,
        n_items: int,
        *,
        dim: int = 100,
        layers: int = 2,
        heads: int = 2,
        dropout: float = 0.2,
        masked: float = 0.2,
        last_only: float = 0.5,
        positions: Positions = "reversed",
        max_length: int = 50,
    ) -> None:
        require(at_least=0, at_most=1, masked=masked, last_only=last_only)
        require(at_least=1, dim=dim)
        super().__init__()
        self.masked = masked
        self.last_only = last_only
        self.counted = positions
        self.max_length = max_length
        self.mask = n_items + 1
        self.items = nn.Embedding(n_items + 2, dim, padding_idx=PAD)  # the last row is [MASK]
        self.bias = nn.Parameter(torch.zeros(n_items + 1))
        self.encoder = Transformer(
            dim,
            max_length=max_length + 1,
            layers=layers,
            heads=heads,
            inner=4 * dim,
            dropout=dropout,
            activation=nn.GELU,
            norm_first=False,
        )
        self.output = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim))
        for table in (self.items, self.encoder.positions):
            nn.init.normal_(table.weight, std=1 / math.sqrt(dim))

    def forward(self, sessions: Tensor) -> Tensor:
        extended = self._append(sessions, torch.full_like(sessions[:, 0], self.mask))
        vectors: Tensor = self.output(last_position(self._encode(extended), extended))  # (2)
        return vectors

    def _encode(self, sessions: Tensor) -> Tensor:
        place = places(sessions, self.counted)
        encoded: Tensor = self.encoder(self.items(sessions), sessions > PAD, place)  # (1), (B, L, D)
        return encoded

    def _append(self, sessions: Tensor, clicks: Tensor) -> Tensor:
        """(B, L) sessions and one more click of each, (B,), to (B, L + 1)."""
        place = torch.arange(sessions.shape[1] + 1, device=sessions.device)
        end = (sessions > PAD).sum(1, keepdim=True)  # (B, 1)
        return torch.where(place == end, clicks[:, None], pad(sessions, (0, 1)))

    def loss(self, batch: Batch) -> Tensor:
        whole = self._append(batch.sessions, batch.targets)  # (B, L)
        hidden = self.hide(whole)
        encoded = self._encode(whole.masked_fill(hidden, self.mask))
        vectors, rows = self.output(encoded[hidden]), hidden.nonzero()[:, 0]
        return self.score_loss(vectors, whole[hidden], batch.negatives, rows=rows)

    def hide(self, whole: Tensor) -> Tensor:
        """Which clicks (B, L) of each session are masked: its last one, or a random share."""
        real = whole > PAD
        lengths = real.sum(1, keepdim=True)  # (B, 1)
        place = torch.arange(whole.shape[1], device=whole.device)
        order = torch.rand(whole.shape, device=whole.device).masked_fill(~real, 2.0).argsort(1).argsort(1)
        some = order < (self.masked * lengths).round().clamp(min=1)
        only_last = torch.rand(len(whole), 1, device=whole.device) < self.last_only
        return torch.where(only_last, place == lengths - 1, some)

    def item_vectors(self) -> Tensor:
        return self.items.weight[:-1]

    def vectors_of(self, items: Tensor) -> Tensor:
        vectors: Tensor = self.items(items)
        return vectors

    def item_bias(self) -> Tensor:
        return self.bias
