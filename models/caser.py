"""Caser: Tang & Wang, Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding,
WSDM 2018.

The last W = 5 clicks are an image E of W rows, one embedding each; clicks before the first are PAD, a row
learned like any other.

    c_h = max over time of φ(F_h · E[i : i + h] + b_h)       (1)  horizontal, h = 1..W: 16 filters each
    õ = Ẽ · E                                                (2)  vertical: 4 weighted sums of the rows
    z = φ(W [c_1; …; c_W; õ] + b),  φ = ReLU                 (3)
    y_i = W'_i · z + b'_i                                    (4)  a table of its own for the output

Departures: sessions are anonymous, so (4) has no user embedding beside z. A position is trained on its next
click: the paper's next T = 3 (`horizon=3`) validated worse on yoochoose1_64, 57.5/24.0 against 59.2/25.9
after three epochs. The full cross-entropy instead of `loss=bce` on 3 uniform negatives (`in_batch=false`);
D = 100 instead of 50. Tables start from N(0, 1/D) instead of N(0, 1/D²), from where little is learned in few
epochs, nor from N(0, 1) (`layers.start_short`: 20.7/7.3 on validation after five epochs on a tenth of
Diginetica, instead of 13.3/4.8). No L2 penalty. The rate is theirs although batches are larger: at 3e-3 most
ReLUs of (3) died on Diginetica, and validation fell from 13.7/3.6 in the second epoch to 7.3/1.5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad

from models.base import PAD, Batching, Family, Hyper, Recipe, SessionEncoder
from models.bounds import require
from models.layers import start_short


class Caser(SessionEncoder):
    """Convolutions over the newest clicks; neighbouring windows share them, so all are done in one pass."""

    recipe: Recipe = Recipe(epochs=10, batch_size=1024, lr=1e-3, lr_step=8, patience=2)
    paper: ClassVar[Mapping[str, Hyper]] = {
        "loss": "bce",
        "negatives": 512,  # theirs are 3 a target; the mean over a shared sample is the same in expectation
        "in_batch": False,
        "horizon": 3,
        "epochs": 50,
        "patience": 50,
        "batch_size": 512,
        "optimizer": "adam",
        "lr": 1e-3,
        "lr_gamma": 1.0,
        "weight_decay": 1e-6,
        "dim": 50,
        "window": 5,
        "horizontal": 16,
        "vertical": 4,
        "dropout": 0.5,
    }
    family: ClassVar[Family] = "sequence"
    batching: Batching = "positions"
    causal: ClassVar[bool] = True

    def __init__(
        self,
        n_items: int,
        *,
        dim: int = 100,
        window: int = 5,
        horizontal: int = 16,
        vertical: int = 4,
        dropout: float = 0.5,
    ) -> None:
        require(at_least=1, dim=dim, window=window, horizontal=horizontal, vertical=vertical)
        super().__init__()
        self.window = window
        self.clicks = nn.Embedding(n_items + 1, dim)
        self.horizontal = nn.ModuleList(nn.Conv1d(dim, horizontal, h) for h in range(1, window + 1))
        self.vertical = nn.Linear(window, vertical)
        self.dropout = nn.Dropout(dropout)
        self.full = nn.Linear(vertical * dim + window * horizontal, dim)
        self.items = nn.Embedding(n_items + 1, dim)  # W'
        self.bias = nn.Parameter(torch.zeros(n_items + 1))  # b'
        readers = [*self.vertical.parameters(), *self.horizontal.parameters()]
        start_short(self.clicks, [each for each in readers if each.ndim > 1])
        nn.init.normal_(self.items.weight, std=1 / math.sqrt(dim))

    def forward_all(self, sessions: Tensor) -> Tensor:
        image = self.clicks(pad(sessions, (self.window - 1, 0), value=PAD))  # (B, W - 1 + L, D)
        features = [self.vertical(image.unfold(1, self.window, 1)).flatten(2)]  # (2), (B, L, 4 D)
        for height, convolution in enumerate(self.horizontal, start=1):
            responses = convolution(image.transpose(1, 2)).relu()  # (B, 16, L + W - height)
            # A 2-d pooling of one row: the exporter freezes L in a 1-d one.
            strongest = max_pool2d(responses, (1, self.window - height + 1), stride=1)  # (1), (B, 16, L)
            features.append(strongest.transpose(1, 2))
        vectors: Tensor = self.full(self.dropout(torch.cat(features, 2))).relu()  # (3), (B, L, D)
        return vectors

    def item_vectors(self) -> Tensor:
        return self.items.weight

    def item_bias(self) -> Tensor | None:
        return self.bias
