"""NGCF: Wang et al., Neural Graph Collaborative Filtering, SIGIR 2019.

On the bipartite graph of sessions and items, Â = D^-½ A D^-½ (see `interactions.py`):

    M⁽ᵏ⁾ = LeakyReLU((Â + I) H⁽ᵏ⁾ Wₖ + bₖ) + LeakyReLU((H⁽ᵏ⁾ ⊙ Â H⁽ᵏ⁾) W′ₖ + b′ₖ)     (1)
    H⁽ᵏ⁺¹⁾ = dropout(M⁽ᵏ⁾)                                   (2)  message dropout, 0.1
    v = [H⁽⁰⁾; H⁽¹⁾/‖H⁽¹⁾‖; …; H⁽ᴷ⁾/‖H⁽ᴷ⁾‖]                  (3)
    loss = −log σ(v_s · v_i − v_s · v_j) + λ/2 (‖h_s‖² + ‖h_i‖² + ‖h_j‖²)    (4)  h: rows of H⁽⁰⁾
    v_s = mean of the clicks' v                              (5)  of a session that is served

Departures: the authors' code has D⁻¹(A + I) for Â, the paper D^-½ A D^-½. The paper has one LeakyReLU around
the sum in (1) and no biases; the authors' code has two and biases, as here. λ weighs rows of H⁽⁰⁾ instead of
v. The vector of a session in (4) has dropout masks of its own, not those under which its items hear from it.
A step's pairs share one sample of negatives. H⁽⁰⁾ starts from N(0, 0.1²) instead of Xavier's, which shrinks
with the number of sessions. Batches of 8,192 instead of 1,024 at a higher learning rate. By default items are
ranked by cosine (`head=niser`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, normalize

from models.base import Head, Hyper, Recipe
from models.bounds import require
from models.interactions import GraphEncoder, SessionItemGraph, dense_layers


class NGCF(GraphEncoder):
    """What a node's neighbours gather, and how like them it is, through dense layers."""

    recipe: Recipe = Recipe(
        epochs=20, batch_size=8192, lr=3e-2, lr_step=14, patience=3, loss="bpr", negatives=256, in_batch=False
    )

    paper: ClassVar[Mapping[str, Hyper]] = {
        "loss": "bpr",
        "negatives": 256,  # theirs is one a pair; the mean over a shared sample is the same in expectation
        "in_batch": False,
        "epochs": 400,  # these and below: the command for Gowalla in the README of the authors' code
        "patience": 10,
        "batch_size": 1024,
        "optimizer": "adam",
        "lr": 1e-4,
        "lr_gamma": 1.0,
        "dim": 64,
        "layers": 3,
        "dropout": 0.1,
        "slope": 0.2,
        "decay": 1e-5,
        "head": "native",
    }

    def __init__(
        self,
        n_items: int,
        graph: SessionItemGraph,
        *,
        dim: int = 64,
        layers: int = 3,
        dropout: float = 0.1,
        slope: float = 0.2,
        decay: float = 1e-5,
        head: Head = "niser",
    ) -> None:
        require(at_least=0, slope=slope)
        super().__init__(n_items, graph, dim=dim, layers=layers, decay=decay, head=head)
        self.slope = slope
        self.dropout = nn.Dropout(dropout)
        self.sums = dense_layers(layers, dim)  # W, b
        self.products = dense_layers(layers, dim)  # W′, b′

    def layer(self, number: int, own: Tensor, gathered: Tensor) -> Tensor:
        of_sum = leaky_relu(self.sums[number](own + gathered), self.slope)
        of_product = leaky_relu(self.products[number](own * gathered), self.slope)
        vectors: Tensor = self.dropout(of_sum + of_product)  # (1), (2)
        return vectors

    def combine(self, layers: Sequence[Tensor]) -> Tensor:
        first, *later = layers
        return torch.cat([first, *(normalize(layer, dim=1) for layer in later)], 1)  # (3)
