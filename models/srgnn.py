"""SR-GNN: Wu et al., Session-based Recommendation with Graph Neural Networks, AAAI 2019.

The clicks of a session as a directed graph of items, row i of A_in and A_out the edges that enter and leave
item i, weighted so that they sum to 1. `steps` times, for every item i of the session:

    a_i = [A_in,i (X W_in + b_in); A_out,i (X W_out + b_out)]   (1)
    z_i = σ(W_z a_i + U_z x_i)                                  (2)
    r_i = σ(W_r a_i + U_r x_i)                                  (3)
    x̃_i = tanh(W_o a_i + U_o (r_i ⊙ x_i))                       (4)
    x_i ← (1 − z_i) ⊙ x_i + z_i ⊙ x̃_i                           (5)

Then over the positions t of the session, the last click x_last asking:

    α_t = qᵀσ(W₁x_last + W₂x_t + c),  s_g = Σ_t α_t x_t         (6)  not normalised over positions
    s_h = W₃[x_last; s_g]                                       (7)
    score_i = s_h · v_i,  v the item table

(1)–(5) are `GatedGraphLayer`, (6) and (7) `SoftAttention`, both in `layers.py`. (2)–(4) have biases, as in
the authors' code. That code has two more things, which the paper has not: r_i ⊙ (U_o x_i) in (4)
(`reset=after`) and a bias in (7) (`bias`).

Departures: batches of 1,024 instead of 100 at three times the learning rate, so that a step is worth its
update of the whole item table; no L2 penalty; the item table starts from N(0, 1/D): from the paper's U(±1/√D)
little is learned in the first epoch (`items_from=uniform`); 50 clicks of a session are read, not all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from models.base import PAD, Batching, Family, Hyper, Recipe, SessionEncoder
from models.bounds import require
from models.layers import GatedGraphLayer, Reset, SessionGraph, SoftAttention


class SRGNN(SessionEncoder):
    """Gated graph network over a session's items, read out by soft attention."""

    recipe: Recipe = Recipe(epochs=7, batch_size=1024, lr=3e-3, lr_step=4, patience=2)
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
        "dim": 100,
        "steps": 1,
        "reset": "after",  # their code; the paper's (4) is `before`
        "bias": True,  # likewise
        "items_from": "uniform",
        "max_length": 200,  # whole sessions
    }
    family: ClassVar[Family] = "session graph"
    batching: Batching = "prefixes"
    mixed_precision: ClassVar[bool] = True

    def __init__(
        self,
        n_items: int,
        *,
        dim: int = 100,
        steps: int = 1,
        reset: Reset = "before",
        bias: bool = False,
        items_from: Literal["normal", "uniform"] = "normal",
        max_length: int = 50,
    ) -> None:
        require(at_least=1, dim=dim, steps=steps, max_length=max_length)
        super().__init__()
        self.max_length = max_length
        self.steps = steps
        self.items = nn.Embedding(n_items + 1, dim, padding_idx=PAD)
        self.graph_layer = GatedGraphLayer(dim, reset)
        self.readout = SoftAttention(dim, bias)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(dim), 1 / math.sqrt(dim))
        if items_from == "normal":
            nn.init.normal_(self.items.weight, std=1 / math.sqrt(dim))

    def forward(self, sessions: Tensor) -> Tensor:
        graph = SessionGraph(sessions)
        nodes = self.items(sessions)  # (B, L, D)
        for _ in range(self.steps):
            nodes = self.graph_layer(nodes, graph)  # (1)–(5)
        session: Tensor = self.readout(graph.node_of @ nodes, sessions)  # (6), (7), (B, D)
        return session

    def item_vectors(self) -> Tensor:
        return self.items.weight
