"""GCE-GNN: Wang et al., Global Context Enhanced Graph Neural Networks for Session-based Recommendation, SIGIR
2020.

Within a session there is an edge from each item to itself and to the items clicked next to it. Its type r
says whether the other one came after, before, or both:

    α_ij = softmax_j LeakyReLU(a_rᵀ(h_i ⊙ h_j)),  h_S,i = Σ_j α_ij h_j                 (1)

Across sessions an item's neighbours are the `neighbours` items most often clicked within `reach` places of it
in any training session, w_ij times. What each is worth depends on s̄, the mean over the session's clicks:

    π_ij = softmax_j q₁ᵀ LeakyReLU(W₁[s̄ ⊙ h_j; w_ij]),  h_N,i = Σ_j π_ij h_j            (2)
    h_G,i = ReLU(W₂[h_i; h_N,i])                             (3)  a second hop takes every h from the first
    h_i = h_S,i + dropout(h_G,i)                             (4)

The readout goes over positions i = 1..l, counted from the last click; h̄ is the mean of their h_i:

    z_i = tanh(W₃[h_i; p_{l−i+1}]),  β_i = q₂ᵀσ(W₄z_i + W₅h̄ + b),  s = Σ_i β_i h_i      (5)
    ŷ = softmax(sᵀx_i)                                       (6)

As in the authors' code, w_ij is a plain count, and an item clicked twice within `reach` is a neighbour of
itself.

Departures: one hop by default, since a second one takes a neighbourhood for every neighbour (the paper has
two on Diginetica: `hops=2`). By default (6) is a scaled cosine and item vectors enter both graphs at unit
length (`head=niser`); `head=native` is the paper's. An item with fewer neighbours attends to those it has,
where the authors' code repeats some of them at random. Batches of 1,024 instead of 100 at twice the learning
rate; no L2 penalty; dropout on the session's item vectors. q₂ starts positive: a session shall not begin as
the opposite of its clicks. In training (2) is computed in the softmax's precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, linear, normalize, pad

from models.base import PAD, Batching, Family, Head, Hyper, Recipe, SessionEncoder
from models.bounds import require
from models.layers import SessionGraph, places
from models.sessions import Sessions

SLOPE = 0.2  # of LeakyReLU below 0


class GCEGNN(SessionEncoder):
    """Two graphs, one of the session's clicks and one of all training sessions', summed."""

    recipe: Recipe = Recipe(epochs=4, batch_size=1024, lr=2e-3, lr_step=2, patience=2)
    paper: ClassVar[Mapping[str, Hyper]] = {
        "loss": "ce",
        "epochs": 20,
        "patience": 3,
        "batch_size": 100,
        "optimizer": "adam",
        "lr": 1e-3,
        "lr_step": 3,
        "lr_gamma": 0.1,
        "weight_decay": 1e-5,
        "dim": 100,
        "hops": 2,  # Diginetica; one on Tmall and Nowplaying
        "reach": 3,
        "neighbours": 12,
        "dropout": 0.0,
        "dropout_hop": 0.2,  # Diginetica; 0.6 on Tmall
        "dropout_global": 0.5,
        "head": "native",
        "scale": 1.0,
        "max_length": 200,  # whole sessions
    }
    family: ClassVar[Family] = "global graph"
    batching: Batching = "prefixes"
    mixed_precision: ClassVar[bool] = True
    global_items: Tensor
    global_weights: Tensor

    def __init__(
        self,
        n_items: int,
        *,
        dim: int = 100,
        hops: int = 1,
        reach: int = 3,
        neighbours: int = 12,
        dropout: float = 0.2,
        dropout_hop: float = 0.0,
        dropout_global: float = 0.5,
        head: Head = "niser",
        scale: float = 16.0,
        max_length: int = 50,
    ) -> None:
        require(above=0, scale=scale)
        super().__init__()
        require(at_least=1, dim=dim, hops=hops, reach=reach, neighbours=neighbours, max_length=max_length)
        self.head = head
        self.scale = scale if head == "niser" else 1.0
        self.max_length = max_length
        self.reach = reach
        self.items = nn.Embedding(n_items + 1, dim, padding_idx=PAD)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("global_items", torch.zeros(n_items + 1, neighbours, dtype=torch.int32))
        self.register_buffer("global_weights", torch.zeros(n_items + 1, neighbours))
        self.edges = EdgeAttention(dim)
        self.hops = nn.ModuleList(GlobalAttention(dim, dropout_hop) for _ in range(hops))
        self.dropout_global = nn.Dropout(dropout_global)
        self.readout = ReversedAttention(dim, max_length)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(dim), 1 / math.sqrt(dim))
        with torch.no_grad():
            self.readout.weight.weight.abs_()

    @classmethod
    def build(cls, train: Sessions, **hyper: Hyper) -> Self:
        model = cls(train.n_items, **hyper)  # type: ignore[arg-type]
        items, weights = global_graph(train, model.reach, model.global_items.shape[1])
        model.global_items.copy_(torch.from_numpy(items))
        model.global_weights.copy_(torch.from_numpy(weights))
        return model

    def forward(self, sessions: Tensor) -> Tensor:
        real = (sessions > PAD)[:, :, None]  # (B, L, 1)
        clicks = self.dropout(self._vectors(sessions))  # (B, L, D)
        mean = (clicks * real).sum(1) / real.sum(1)  # s̄, (B, D)
        graph = SessionGraph(sessions)
        of_session = graph.node_of @ self.edges(clicks, graph)  # (1), (B, L, D)
        row = torch.arange(sessions.shape[0], device=sessions.device)[:, None].expand_as(sessions)
        of_all = self._around(len(self.hops), row.flatten(), sessions.flatten(), mean)  # (2), (3)
        h = of_session + self.dropout_global(of_all).view_as(clicks)  # (4)
        session = self.readout(h, sessions)  # (5)
        return normalize(session, dim=1) if self.head == "niser" else session

    def _around(self, hops: int, row: Tensor, items: Tensor, mean: Tensor) -> Tensor:
        """(P, D) of (P,) items with so many hops around them, each as the session in its row sees it.

        Computed once for each distinct pair of row and item, from neighbourhoods that are gathered once for
        each distinct item.
        """
        if hops == 0:
            return self._vectors(items)
        n_rows = len(self.global_items)
        pair, place = _distinct(row * n_rows + items)
        row, items = pair // n_rows, pair % n_rows
        own = self._around(hops - 1, row, items, mean)  # (P', D)
        distinct, of = _distinct(items)
        neighbours, weights = self.global_items[distinct], self.global_weights[distinct][:, :, None]  # (U, K)
        layer = self.hops[hops - 1]
        # Training multiplies in the softmax's precision: this product is the step's second largest.
        dtype = self.softmax_dtype if self.training else torch.float32
        if hops == 1:  # what is around a neighbour does not matter yet: it is the same in every session
            near = torch.cat([self._vectors(neighbours), weights], 2).to(dtype)[of]  # (P', K, D + 1)
        else:
            neighbours = neighbours[of]
            rows = row[:, None].expand_as(neighbours)
            seen = self._around(hops - 1, rows.flatten(), neighbours.flatten(), mean)
            near = torch.cat([seen.view(*neighbours.shape, -1), weights[of]], 2).to(dtype)
        vectors: Tensor = layer(own, near, mean[row])  # (P', D)
        return vectors[place]

    def _vectors(self, items: Tensor) -> Tensor:
        """(...) items to (..., D): what enters both graphs."""
        vectors: Tensor = self.items(items)
        return normalize(vectors, dim=-1) if self.head == "niser" else vectors

    def item_vectors(self) -> Tensor:
        return self.items.weight


class EdgeAttention(nn.Module):
    """Equation (1): attention along the session's own edges, scored by type."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.types = nn.Parameter(torch.empty(4, dim))  # a_r: to itself, to the next, to the one before, both

    def forward(self, nodes: Tensor, graph: SessionGraph) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        place = torch.arange(nodes.shape[1], device=nodes.device)
        itself, following, preceding = place == place[:, None], graph.outgoing > 0, graph.incoming > 0
        scores = (nodes[:, None] * self.types[:, None]) @ nodes.transpose(1, 2)[:, None]  # (B, 4, L, L)
        to_itself, to_next, to_previous, to_both = scores.unbind(1)
        other = torch.where(following, torch.where(preceding, to_both, to_next), to_previous)
        e: Tensor = leaky_relu(torch.where(itself, to_itself, other), SLOPE)
        alpha = e.masked_fill(~(itself | following | preceding), -torch.inf).softmax(2)
        return alpha @ nodes


class GlobalAttention(nn.Module):
    """Equations (2) and (3): one hop of the global graph, as a session sees it."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim + 1, dim, bias=False)  # W₁
        self.weight = nn.Linear(dim, 1, bias=False)  # q₁
        self.mix = nn.Linear(2 * dim, dim, bias=False)  # W₂
        self.dropout = nn.Dropout(dropout)

    def forward(self, own: Tensor, near: Tensor, session: Tensor) -> Tensor:
        """(P, D) items, their neighbours [h_j ‖ w_ij] (P, K, D + 1) and sessions s̄ (P, D) to (P, D)."""
        dtype = near.dtype
        asked = near * pad(session, (0, 1), value=1.0).to(dtype)[:, None]  # [s̄ ⊙ h_j ‖ w_ij]
        hidden = leaky_relu(linear(asked, self.hidden.weight.to(dtype)), SLOPE)  # (P, K, D)
        logits = linear(hidden, self.weight.weight.to(dtype)).float()  # (P, K, 1)
        real = near[:, :, -1:] > 0
        pi = logits.masked_fill(~real, torch.finfo(torch.float32).min).softmax(1) * real
        around = (pi.transpose(1, 2).to(dtype) @ near).squeeze(1)[:, :-1].float()  # (P, D)
        vectors: Tensor = torch.relu(self.mix(self.dropout(torch.cat([own, around], 1))))  # (3)
        return vectors


class ReversedAttention(nn.Module):
    """Equation (5): soft attention over positions counted from the last click."""

    def __init__(self, dim: int, max_length: int) -> None:
        super().__init__()
        self.positions = nn.Embedding(max_length, dim)
        self.place = nn.Linear(2 * dim, dim, bias=False)  # W₃
        self.of_each = nn.Linear(dim, dim)  # W₄, b
        self.of_mean = nn.Linear(dim, dim, bias=False)  # W₅
        self.weight = nn.Linear(dim, 1, bias=False)  # q₂

    def forward(self, h: Tensor, sessions: Tensor) -> Tensor:
        """(B, L, D) vectors by position and their (B, L) sessions to (B, D)."""
        real = (sessions > PAD)[:, :, None]  # (B, L, 1)
        at = self.positions(places(sessions, "reversed"))
        z = torch.tanh(self.place(torch.cat([h, at], 2)))
        mean = (h * real).sum(1) / real.sum(1)  # (B, D)
        beta = self.weight(torch.sigmoid(self.of_each(z) + self.of_mean(mean)[:, None]))  # (B, L, 1)
        session: Tensor = (beta * h * real).sum(1)
        return session


def global_graph(
    train: Sessions, reach: int, neighbours: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Each item's most frequent neighbours and how often they met, (n_items + 1, neighbours), 0 where none.

    Two clicks of a session meet when they are at most `reach` apart; of equally frequent neighbours the
    lower index, the more popular one, comes first. As in the authors' code, an item that is clicked twice
    within `reach` is its own neighbour, from both ends.
    """
    n_rows = train.n_items + 1
    items = train.items.astype(np.int64)
    session = np.repeat(np.arange(len(train)), np.diff(train.offsets))
    pairs = []
    for distance in range(1, reach + 1):
        together = session[distance:] == session[:-distance]
        earlier, later = items[:-distance][together], items[distance:][together]
        pairs += [earlier * n_rows + later, later * n_rows + earlier]
    codes, counts = np.unique(np.concatenate(pairs), return_counts=True)
    order = np.lexsort((codes, -counts, codes // n_rows))
    codes, counts = codes[order], counts[order]
    item, neighbour = np.divmod(codes, n_rows)
    nth = np.arange(len(item)) - np.searchsorted(item, item)
    kept = nth < neighbours
    near = np.zeros((n_rows, neighbours), np.int32)
    weights = np.zeros((n_rows, neighbours), np.float32)
    near[item[kept], nth[kept]] = neighbour[kept]
    weights[item[kept], nth[kept]] = counts[kept]
    return near, weights


def _distinct(values: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct values of (P,), and the place of each value among them.

    A served batch is too small to gain by it: the exported graph takes values as they come.
    """
    if torch.compiler.is_exporting():
        return values, torch.arange(values.shape[0], device=values.device)
    distinct, place = torch.unique(values, return_inverse=True)
    return distinct, place
