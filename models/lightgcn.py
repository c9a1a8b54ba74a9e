"""LightGCN: He et al., LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation,
SIGIR 2020.

On the bipartite graph of sessions and items, Â = D^-½ A D^-½ (see `interactions.py`):

    H⁽ᵏ⁺¹⁾ = Â H⁽ᵏ⁾                                          (1)  H⁽⁰⁾: a vector of each session and item
    v = (H⁽⁰⁾ + H⁽¹⁾ + … + H⁽ᴷ⁾) / (K + 1)                   (2)
    loss = −log σ(v_s · v_i − v_s · v_j) + λ/2 (‖h_s‖² + ‖h_i‖² + ‖h_j‖²)    (3)  h: rows of H⁽⁰⁾
    v_s = mean of the clicks' v                              (4)  of a session that is served

Departures: batches of 8,192 instead of 2,048 at a higher learning rate, since a step costs about as much as
its propagation, whatever its batch. The layers weigh alike in (2), as in the paper's results; that they might
be weighed by a hyper-parameter, as it says, is not offered. A step's pairs share one sample of negatives, and
(3) is the mean over it. By default items are ranked by cosine (`head=niser`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from models.base import Head, Hyper, Recipe
from models.interactions import GraphEncoder, SessionItemGraph


class LightGCN(GraphEncoder):
    """Vectors averaged over the graph, and nothing else that is learned."""

    recipe: Recipe = Recipe(
        epochs=20, batch_size=8192, lr=5e-2, lr_step=14, patience=3, loss="bpr", negatives=256, in_batch=False
    )

    paper: ClassVar[Mapping[str, Hyper]] = {
        "loss": "bpr",
        "negatives": 256,  # theirs is one a pair; the mean over a shared sample is the same in expectation
        "in_batch": False,
        "epochs": 1000,
        "patience": 10,
        "batch_size": 2048,
        "optimizer": "adam",
        "lr": 1e-3,
        "lr_gamma": 1.0,
        "dim": 64,
        "layers": 3,
        "decay": 1e-4,
        "head": "native",
    }

    def __init__(
        self,
        n_items: int,
        graph: SessionItemGraph,
        *,
        dim: int = 64,
        layers: int = 3,
        decay: float = 1e-4,
        head: Head = "niser",
    ) -> None:
        super().__init__(n_items, graph, dim=dim, layers=layers, decay=decay, head=head)

    def layer(self, number: int, own: Tensor, gathered: Tensor) -> Tensor:
        return gathered  # (1)

    def combine(self, layers: Sequence[Tensor]) -> Tensor:
        total = layers[0]
        for layer in layers[1:]:
            total = total + layer
        return total / len(layers)  # (2)
