"""PEN4Rec: Hu et al., PEN4Rec: Preference Evolution Networks for Session-based Recommendation, KSEM 2021.

No code was ever published (the authors' repository holds a README alone); this is our reading of the paper.
The session graph gives every click t its vector h_t, h_T that of the last one:

    h = GatedGraph(x)                                        (1)  SR-GNN's update

First stage: what of the history is related to the newest `recent` clicks R, each of them asking.

    α_t = (1/|R|) Σ_{i ∈ R} vᵀσ(W₁h_i + W₂h_t + c)           (2)  not normalised over positions, as in SR-GNN
    g_1..g_T = GRU(α_1 h_1..α_T h_T)                         (3)  the session reader

Second stage: the preference evolves through what was read, more where that bears on the current interest
h_T. It is a GRU whose update gate is scaled by relevance, as DIEN's AUGRU (Zhou et al., AAAI 2019).

    a_t = σ(g_tᵀ W_a h_T / √d)                               (4)
    u_t = a_t · σ(W_u g_t + U_u e_{t−1} + b_u)               (5)
    r_t = σ(W_r g_t + U_r e_{t−1} + b_r)                     (6)
    ẽ_t = tanh(W_e g_t + r_t ⊙ (U_e e_{t−1} + b′_e) + b_e)   (7)
    e_t = (1 − u_t) ⊙ e_{t−1} + u_t ⊙ ẽ_t                    (8)
    s = W[e_T; h_T]                                          (9)

Readings: relevance (4) is a click's own, between 0 and 1; DIEN's softmax would share out one update among
all clicks, so that a long session hardly moves.

Departures: by default scores are scaled cosines of normalised items and sessions (`head=niser`, as in
NISER+), with dropout on the item vectors; `head=native` is the paper's s · x_i. Batches of 1,024 targets at a
learning rate of 0.002, no L2 penalty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.nn.functional import linear, normalize

from models.base import PAD, Batching, Family, Head, Hyper, Recipe, SessionEncoder, last_position
from models.bounds import require
from models.layers import GRU, GatedGraphLayer, SessionGraph


class PEN4Rec(SessionEncoder):
    """Two retrievals from the session's history, then a preference that evolves through them."""

    recipe: Recipe = Recipe(epochs=6, batch_size=1024, lr=2e-3, lr_step=3, patience=2)
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
        "recent": 2,
        "dropout": 0.0,
        "head": "native",
        "scale": 1.0,
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
        recent: int = 2,
        dropout: float = 0.2,
        head: Head = "niser",
        scale: float = 16.0,
        max_length: int = 50,
    ) -> None:
        require(at_least=1, dim=dim, steps=steps, max_length=max_length)
        require(above=0, scale=scale)
        super().__init__()
        if not 1 <= recent <= max_length:
            raise ValueError(f"recent must be between 1 and max_length ({max_length}), not {recent}")
        self.head = head
        self.scale = scale if head == "niser" else 1.0
        self.max_length = max_length
        self.steps = steps
        self.recent = recent
        self.items = nn.Embedding(n_items + 1, dim, padding_idx=PAD)
        self.dropout = nn.Dropout(dropout)
        self.graph_layer = GatedGraphLayer(dim)
        self.of_recent = nn.Linear(dim, dim, bias=False)  # W₁
        self.of_each = nn.Linear(dim, dim)  # W₂, c
        self.weight = nn.Linear(dim, 1, bias=False)  # v
        self.reader = GRU(dim, dim)
        self.relevance = nn.Linear(dim, dim, bias=False)  # W_a
        self.evolution = AttentiveGRU(dim)
        self.mix = nn.Linear(2 * dim, dim, bias=False)  # W
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(dim), 1 / math.sqrt(dim))
        if head == "native":  # a dot product needs longer vectors to begin with
            nn.init.normal_(self.items.weight, std=1 / math.sqrt(dim))

    def forward(self, sessions: Tensor) -> Tensor:
        graph = SessionGraph(sessions)
        real = (sessions > PAD)[:, :, None]  # (B, L, 1)
        nodes = self.dropout(self._unit(self.items(sessions)))  # (B, L, D)
        for _ in range(self.steps):
            nodes = self.graph_layer(nodes, graph)  # (1)
        clicks = graph.node_of @ nodes  # (B, L, D)
        last = last_position(clicks, sessions)  # (B, D)
        read = self.reader.states(self._related(clicks, sessions) * clicks)  # (3), (B, L, D)
        interest = self.relevance(last)[:, :, None] / math.sqrt(last.shape[1])  # (B, D, 1)
        relevance = torch.sigmoid(read @ interest) * real  # (4), (B, L, 1); 0 at PAD: nothing evolves there
        evolved = self.evolution(read, relevance)  # (5)–(8), (B, D)
        return self._unit(self.mix(torch.cat([evolved, last], 1)))  # (9)

    def _related(self, clicks: Tensor, sessions: Tensor) -> Tensor:
        """(2): how much each of the (B, L, D) clicks is related to the newest ones, (B, L, 1)."""
        back = torch.arange(self.recent, device=sessions.device)
        place = (sessions > PAD).sum(1, keepdim=True) - 1 - back  # (B, K) of the newest clicks
        there = place >= 0
        chosen = place.clamp(min=0)[:, :, None].expand(-1, -1, clicks.shape[2])
        asking = self.of_recent(clicks.gather(1, chosen))  # (B, K, D)
        asked = self.of_each(clicks)
        total = torch.zeros_like(asked[:, :, :1])
        for i in range(self.recent):  # one at a time: (B, K, L, D) would not fit the processor's cache
            alpha = self.weight(torch.sigmoid(asked + asking[:, i, None]))  # (B, L, 1)
            total = total + alpha * there[:, i, None, None]
        return total / there.sum(1)[:, None, None]

    def _unit(self, vectors: Tensor) -> Tensor:
        return normalize(vectors, dim=-1) if self.head == "niser" else vectors

    def item_vectors(self) -> Tensor:
        return self.items.weight


class AttentiveGRU(nn.Module):
    """A GRU whose update gate is scaled at each step: equations (5)–(8)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(dim, 3 * dim)  # W_u, W_r, W_e
        self.state = nn.Linear(dim, 3 * dim)  # U_u, U_r, U_e

    def forward(self, inputs: Tensor, attention: Tensor) -> Tensor:
        """(B, L, D) inputs and (B, L, 1) attention to the last state (B, D); no attention, no change."""
        by_time = self.inputs(inputs).transpose(0, 1), attention.transpose(0, 1)  # (L, B, 3D), (L, B, 1)
        weight, bias = self.state.weight, self.state.bias

        def step(state: Tensor, now: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            (u_in, r_in, e_in), scaling = now[0].chunk(3, 1), now[1]
            u, r, e = linear(state, weight, bias).chunk(3, 1)
            update = scaling * torch.sigmoid(u_in + u)  # (5)
            proposed = torch.tanh(e_in + torch.sigmoid(r_in + r) * e)  # (6), (7)
            state = state + update * (proposed - state)  # (8)
            return state, state.clone()

        state = torch.zeros_like(inputs[:, 0])
        if torch.compiler.is_exporting():  # a loop of Python's would be unrolled to the example's length
            state, _ = scan(step, state, by_time)
        else:
            for now in zip(*by_time, strict=True):
                state, _ = step(state, now)
        return state
