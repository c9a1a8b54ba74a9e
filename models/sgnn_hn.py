"""SGNN-HN: Pan et al., Star Graph Neural Networks for Session-based Recommendation, CIKM 2020.

The session graph of SR-GNN with a star node that every item is linked to. x⁰ are the item vectors of the
session, the star begins as their mean, and for each of `layers` layers l, one set of weights for all:

    x̂ = GatedGraph(x)                                        (1)  SR-GNN's update, between neighbours
    α_i = σ((W_q1 x̂_i)ᵀ(W_k1 x_s) / √d)                      (2)
    x_i ← (1 − α_i) x̂_i + α_i x_s                            (3)  from the star
    β = softmax_i((W_k2 x_i)ᵀ(W_q2 x_s) / √d)                (4)
    x_s ← Σ_i β_i x_i                                        (5)  to the star

Then the highway past all layers, positions p, and SR-GNN's readout with the star asking, too:

    g = σ(W_g[x⁰; xᴸ]),  xᶠ = g ⊙ x⁰ + (1 − g) ⊙ xᴸ          (6)
    u_t = xᶠ[x_t] + p_t                                      (7)
    γ_t = w₀ᵀσ(W₁u_t + W₂x_s + W₃u_last + b)                 (8)
    z = W₄[Σ_t γ_t u_t; u_last]                              (9)
    ŷ = softmax(τ · z̃ᵀ ṽ_i),  z̃ and ṽ L2-normalised, τ = 12  (10)

Readings: the paper has no σ in (2), the authors' code has, and only with it does α weigh two vectors against
each other; the code has no projections in (2) and (4), the paper has.

Departures: (7) counts positions from the newest click, as GCE-GNN does, instead of from the first
(`positions`), see NISER+; three layers, the paper has up to six (on yoochoose1_64 six validate no better
after an epoch, at twice the cost); (10) normalises without centring first, which the authors' code does
(`centre`); that code's reset gate is after the product (`reset=after`), and its (9) has a bias (`bias`);
D = 100 instead of 256; batches of 1,024 instead of 100 at twice the learning rate, as in NISER+; dropout on
the item vectors, no L2 penalty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from models.base import PAD, Batching, Family, Head, Hyper, Recipe, SessionEncoder, last_position
from models.bounds import require
from models.layers import GatedGraphLayer, Positions, Reset, SessionGraph, places


class SGNNHN(SessionEncoder):
    """Star graph network with a highway, between normalised items and sessions."""

    recipe: Recipe = Recipe(epochs=8, batch_size=1024, lr=2e-3, lr_step=3, patience=2)
    paper: ClassVar[Mapping[str, Hyper]] = {
        "loss": "ce",
        "epochs": 30,
        "patience": 10,
        "batch_size": 100,
        "optimizer": "adam",
        "lr": 1e-3,
        "lr_step": 3,
        "lr_gamma": 0.1,
        "weight_decay": 1e-5,
        "dim": 256,
        "layers": 6,
        "reset": "after",  # their code; the paper's formula is SR-GNN's, `before`
        "bias": True,  # likewise
        "centre": True,  # likewise
        "positions": "forward",
        "dropout": 0.0,
        "scale": 12.0,
        "max_length": 200,  # whole sessions
    }
    earlier: ClassVar[Mapping[str, Hyper]] = {"positions": "forward"}
    family: ClassVar[Family] = "session graph"
    batching: Batching = "prefixes"
    head: Head = "niser"
    mixed_precision: ClassVar[bool] = True

    def __init__(
        self,
        n_items: int,
        *,
        dim: int = 100,
        layers: int = 3,
        reset: Reset = "before",
        bias: bool = False,
        centre: bool = False,
        positions: Positions = "reversed",
        dropout: float = 0.2,
        scale: float = 12.0,
        max_length: int = 50,
    ) -> None:
        require(at_least=1, dim=dim, layers=layers, max_length=max_length)
        require(above=0, scale=scale)
        super().__init__()
        self.scale = scale
        self.max_length = max_length
        self.layers = layers
        self.centre = centre
        self.counted = positions
        self.items = nn.Embedding(n_items + 1, dim, padding_idx=PAD)
        self.positions = nn.Embedding(max_length, dim)
        self.dropout = nn.Dropout(dropout)
        self.graph_layer = GatedGraphLayer(dim, reset)
        self.from_star = StarQuery(dim)  # W_k1, W_q1
        self.to_star = StarQuery(dim)  # W_q2, W_k2
        self.highway = nn.Linear(2 * dim, dim)  # W_g
        self.of_each = nn.Linear(dim, dim)  # W₁, b
        self.of_star = nn.Linear(dim, dim, bias=False)  # W₂
        self.of_last = nn.Linear(dim, dim, bias=False)  # W₃
        self.weight = nn.Linear(dim, 1, bias=False)  # w₀
        self.mix = nn.Linear(2 * dim, dim, bias=bias)  # W₄
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(dim), 1 / math.sqrt(dim))

    def forward(self, sessions: Tensor) -> Tensor:
        graph = SessionGraph(sessions)
        is_node = graph.is_node[:, :, None]  # (B, L, 1)
        first = self.dropout(self.items(sessions))  # x⁰, (B, L, D)
        nodes = first
        star = (nodes * is_node).sum(1, keepdim=True) / is_node.sum(1, keepdim=True)  # (B, 1, D)
        for _ in range(self.layers):
            nodes = self.graph_layer(nodes, graph)  # (1)
            alpha = torch.sigmoid(self.from_star(star, nodes))  # (2), (B, L, 1)
            nodes = nodes + alpha * (star - nodes)  # (3)
            beta = self.to_star(star, nodes).masked_fill(~is_node, -torch.inf).softmax(1)  # (4), (B, L, 1)
            star = (beta * nodes).sum(1, keepdim=True)  # (5)
        gate = torch.sigmoid(self.highway(torch.cat([first, nodes], 2)))
        nodes = nodes + gate * (first - nodes)  # (6)
        place = places(sessions, self.counted)
        clicks = graph.node_of @ nodes + self.positions(place)  # (7), (B, L, D)
        last = last_position(clicks, sessions)  # (B, D)
        asking = self.of_star(star) + self.of_last(last)[:, None]
        gamma = self.weight(torch.sigmoid(self.of_each(clicks) + asking))  # (8), (B, L, 1)
        overall = (gamma * clicks * (sessions > PAD)[:, :, None]).sum(1)  # (B, D)
        return normalize(self._centred(self.mix(torch.cat([overall, last], 1))), dim=1)  # (9), (10)

    def _centred(self, vectors: Tensor) -> Tensor:
        return vectors - vectors.mean(-1, keepdim=True) if self.centre else vectors

    def item_vectors(self) -> Tensor:
        return self._centred(self.items.weight)

    def vectors_of(self, items: Tensor) -> Tensor:
        return self._centred(self.items(items))


class StarQuery(nn.Module):
    """(W x_i)ᵀ(V x_s) / √d between a session's star and its nodes.

    Computed as x_iᵀ(WᵀV x_s): two products a session, none a node.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.of_star = nn.Linear(dim, dim, bias=False)  # V
        self.of_node = nn.Linear(dim, dim, bias=False)  # W

    def forward(self, star: Tensor, nodes: Tensor) -> Tensor:
        """(B, 1, D) stars and (B, L, D) nodes to (B, L, 1)."""
        query: Tensor = self.of_star(star) @ self.of_node.weight / math.sqrt(nodes.shape[2])  # (B, 1, D)
        return (nodes * query).sum(2, keepdim=True)
