"""GCN: Kipf & Welling, Semi-Supervised Classification with Graph Convolutional Networks, ICLR 2017.

On the bipartite graph of sessions and items, Â = D^-½ A D^-½ (see `interactions.py`):

    H⁽ᵏ⁺¹⁾ = LeakyReLU(Â H⁽ᵏ⁾ Wₖ + bₖ)                       (1)  H⁽⁰⁾: a vector of each session and item
    v = [H⁽⁰⁾; H⁽¹⁾; …; H⁽ᴷ⁾]                                (2)
    loss = −log σ(v_s · v_i − v_s · v_j) + λ/2 (‖h_s‖² + ‖h_i‖² + ‖h_j‖²)    (3)  h: rows of H⁽⁰⁾
    v_s = mean of the clicks' v                              (4)  of a session that is served

Departures: the paper classifies the nodes of one graph; nodes without features, (2) and (3) are those of the
later papers that compare themselves with it as a recommender. Â has no self-loops, since (2) keeps a node's
own vector. A step's pairs share one sample of negatives, and (3) is the mean over it. By default items are
ranked by cosine (`head=niser`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import leaky_relu

from models.base import Head, Hyper, Recipe
from models.bounds import require
from models.interactions import GraphEncoder, SessionItemGraph, dense_layers


class GCN(GraphEncoder):
    """What a node's neighbours gather, through a dense layer, layer upon layer."""

    recipe: Recipe = Recipe(
        epochs=20, batch_size=8192, lr=3e-2, lr_step=14, patience=3, loss="bpr", negatives=256, in_batch=False
    )

    paper: ClassVar[Mapping[str, Hyper]] = {
        "loss": "bpr",
        "negatives": 256,  # theirs is one a pair; the mean over a shared sample is the same in expectation
        "in_batch": False,
        "epochs": 400,
        "patience": 10,
        "batch_size": 1024,
        "optimizer": "adam",
        "lr": 1e-4,  # the settings of NGCF's paper, which compares itself with it
        "lr_gamma": 1.0,
        "dim": 64,
        "layers": 1,
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
        layers: int = 2,
        slope: float = 0.2,
        decay: float = 1e-4,
        head: Head = "niser",
    ) -> None:
        require(at_least=0, slope=slope)
        super().__init__(n_items, graph, dim=dim, layers=layers, decay=decay, head=head)
        self.slope = slope
        self.weights = dense_layers(layers, dim)  # W, b

    def layer(self, number: int, own: Tensor, gathered: Tensor) -> Tensor:
        return leaky_relu(self.weights[number](gathered), self.slope)  # (1)
