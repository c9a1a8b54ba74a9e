"""BPR-MF: Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback, UAI 2009.

    r(s, i) = w_s · h_i + b_i                                (1)
    loss = −log σ(r(s, i) − r(s, j)) + λ/2 (‖w_s‖² + ‖h_i‖² + ‖h_j‖²)      (2)  i in session s, j any item
    w = mean of the clicks' h                                (3)  of a session that is served

The bias is learned like everything else, and negatives are uniform over the catalogue; GRU4Rec's authors'
BPR-MF does neither, and that is where the published figures on sessions come from.

Departures: a step's pairs share one sample of negatives, and (2) is the mean over it; Adam instead of
stochastic gradient descent; λ = 1e-4 for sessions and items alike, none for b. By default items are ranked by
cosine, and without b (`head=niser`); `head=native` ranks by (1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from models.base import Head, Hyper, Recipe
from models.interactions import InteractionEncoder, held
from models.sessions import Sessions


class BPRMF(InteractionEncoder):
    """Matrix factorisation of sessions and items, learned pair by pair."""

    recipe: Recipe = Recipe(
        epochs=12, batch_size=4096, lr=1e-2, lr_step=12, patience=3, loss="bpr", negatives=256, in_batch=False
    )

    paper: ClassVar[Mapping[str, Hyper]] = {
        "loss": "bpr",
        "negatives": 256,  # theirs is one a pair; the mean over a shared sample is the same in expectation
        "in_batch": False,
        "epochs": 10,  # these and below are GRU4Rec's baseline's, where the figures on sessions come from
        "patience": 10,
        "batch_size": 4096,  # theirs is one pair
        "optimizer": "adam",  # theirs is stochastic gradient descent
        "lr": 1e-2,
        "lr_gamma": 1.0,
        "dim": 100,
        "decay": 0.0,
        "head": "native",
    }

    def __init__(
        self, n_items: int, n_sessions: int, *, dim: int = 100, decay: float = 1e-4, head: Head = "niser"
    ) -> None:
        super().__init__(n_items, n_sessions, dim=dim, decay=decay, head=head)
        self.bias = nn.Parameter(torch.zeros(n_items + 1))

    @classmethod
    def build(cls, train: Sessions, **hyper: Hyper) -> Self:
        return cls(train.n_items, len(held(train)), **hyper)  # type: ignore[arg-type]

    def embed(self, sessions: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        return own, self.items.weight

    def item_bias(self) -> Tensor | None:
        return self.bias
