"""Pieces that more than one model is made of: a GRU, running means, the session graph, its gated update, soft
attention, the Transformer.

The session graph needs no loop over sessions. In position space, node u of a session is the item first
clicked at position u: `first[t] = min {u : x_u = x_t}`. A node's row exists only at its first position;
later repeats are edges back to it. Everything is a dense (B, L, L) product, and exports to ONNX.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from models.base import PAD, last_position
from models.bounds import require

Reset = Literal["before", "after"]
Positions = Literal["forward", "reversed"]


@torch.no_grad()
def start_short(table: nn.Embedding, readers: Iterable[Tensor]) -> None:
    """Rows of N(0, 1/D) for nn.Embedding's N(0, 1), and the weights that read them √D larger.

    What is made of them is the same. But Adam moves a row by about its rate a step, whatever its length, and
    rare items have few: rows of N(0, 1) stay the noise that they are, where there are many items.
    """
    width = table.embedding_dim
    nn.init.normal_(table.weight, std=1 / math.sqrt(width))
    if table.padding_idx is not None:
        table.weight[table.padding_idx] = 0
    for weights in readers:
        weights *= math.sqrt(width)


class GRU(nn.GRU):
    """torch's GRU, batch first, that exports as ONNX's own operator.

    Its reset gate scales the state `after` its product with the weights, as cuDNN's does; Cho et al. 2014
    have it `before`, and that is slower: a step at a time. The exporter would unroll `nn.GRU` to the length
    of its example; the symbolic operator leaves L free.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, reset: Reset = "after"
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, batch_first=True)
        self.reset = reset

    def states(self, inputs: Tensor) -> Tensor:
        """(B, L, input) to the last layer's states (B, L, hidden), from a zero state."""
        if not torch.compiler.is_exporting():
            if self.reset == "after":
                states: Tensor = self(inputs)[0]
                return states
            for layer in range(self.num_layers):
                state, every = inputs.new_zeros(len(inputs), self.hidden_size), []
                for now in inputs.unbind(1):
                    state = self.step(now, state, layer)
                    every.append(state)
                inputs = torch.stack(every, 1)
            return inputs
        by_time = inputs.transpose(0, 1)  # (L, B, input)
        for layer in range(self.num_layers):
            w_ih, w_hh, b_ih, b_hh = (_z_first(weight) for weight in self.all_weights[layer])
            by_direction = torch.onnx.ops.symbolic(
                "GRU",
                (by_time, w_ih[None], w_hh[None], torch.cat([b_ih, b_hh])[None]),
                {"hidden_size": self.hidden_size, "linear_before_reset": int(self.reset == "after")},
                dtype=inputs.dtype,
                shape=(by_time.shape[0], 1, by_time.shape[1], self.hidden_size),
                version=18,
            )
            by_time = by_direction.squeeze(1)
        return by_time.transpose(0, 1)

    def step(self, inputs: Tensor, state: Tensor, layer: int = 0) -> Tensor:
        """One step of one layer: (B, input) and its state (B, hidden) to the next state."""
        w_ih, w_hh, b_ih, b_hh = self.all_weights[layer]
        if self.reset == "after":
            return torch.gru_cell(inputs, state, w_ih, w_hh, b_ih, b_hh)
        gates = 2 * self.hidden_size
        of_inputs = linear(inputs, w_ih, b_ih)
        r, z = torch.sigmoid(of_inputs[:, :gates] + linear(state, w_hh[:gates], b_hh[:gates])).chunk(2, 1)
        proposed = torch.tanh(of_inputs[:, gates:] + linear(r * state, w_hh[gates:], b_hh[gates:]))
        return proposed + z * (state - proposed)


def shorten(vectors: Tensor, max_norm: float) -> Tensor:
    """Scale the vectors (..., D) longer than `max_norm` down to that length."""
    norms: Tensor = vectors.norm(dim=-1, keepdim=True)
    return vectors * (max_norm / norms.clamp(min=max_norm))


def places(sessions: Tensor, positions: Positions) -> Tensor:
    """Rows of a table of positions, for the clicks of (B, L) sessions.

    Forward they are counted from a session's first click, (L,); reversed from its newest one, (B, L), so that
    in sessions of all lengths the newest click has the same position (Wang et al. 2020, section 4.3). What
    pads a session is at 0 then.
    """
    place = torch.arange(sessions.shape[1], device=sessions.device)
    if positions == "forward":
        return place
    return ((sessions > PAD).sum(1, keepdim=True) - 1 - place).clamp(min=0)


def running_mean(positions: Tensor) -> Tensor:
    """(B, L, D) to (B, L, D): at each position the mean over it and those before it."""
    count = torch.arange(1, positions.shape[1] + 1, device=positions.device)
    return positions.cumsum(1) / count[:, None]


class SessionGraph:
    """The directed graph of consecutive clicks of each session (Wu et al. 2019, section 3.2).

    Attributes:
        node_of: (B, L, L) float, one-hot: `node_of[b, t, u] = 1` when position t shows node u.
        is_node: (B, L) bool, whether position u is the first of its item: a node.
        incoming, outgoing: (B, L, L) float, `incoming[b, u, w]` the weight of edge w → u among the edges that
            enter u, `outgoing[b, u, w]` that of u → w among those that leave it; rows sum to 1 or 0.
    """

    def __init__(self, sessions: Tensor) -> None:
        length = sessions.shape[1]
        place = torch.arange(length, device=sessions.device)
        real = sessions > PAD  # (B, L)
        same = (sessions[:, :, None] == sessions[:, None, :]) & real[:, :, None]  # (B, L, L)
        first = same.to(torch.int64).argmax(2)  # (B, L)
        self.is_node = (first == place) & real
        node_of = (first[:, :, None] == place) & real[:, :, None]
        self.node_of = node_of.to(torch.float32)
        # Position t and the one after it, by padding: an empty slice at L = 1 is undefined in onnxruntime.
        following = nn.functional.pad(self.node_of, (0, 0, 0, 1))[:, 1:]  # (B, L, L)
        edges = (self.node_of.transpose(1, 2) @ following).clamp(max=1.0)  # (B, from, to)
        self.outgoing = _normalise_rows(edges)
        self.incoming = _normalise_rows(edges.transpose(1, 2))


class GatedGraphLayer(nn.Module):
    """One step of SR-GNN's gated graph update, equations (1)–(5) of Wu et al. 2019.

    The reset gate r scales x_i `before` its product with U_o, as the paper writes (4), or `after` it, U_o
    then with a bias, as all published codes have it.
    """

    def __init__(self, dim: int, reset: Reset = "before") -> None:
        super().__init__()
        self.reset = reset
        self.edges = nn.Linear(dim, 2 * dim)  # W_in, W_out
        self.of_edges = nn.Linear(2 * dim, 3 * dim)  # W_z, W_r, W_o
        self.of_node = nn.Linear(dim, 2 * dim, bias=False)  # U_z, U_r
        self.of_kept = nn.Linear(dim, dim, bias=reset == "after")  # U_o

    def forward(self, nodes: Tensor, graph: SessionGraph) -> Tensor:
        """(B, L, D) node vectors to (B, L, D)."""
        sources, sinks = self.edges(nodes).chunk(2, 2)
        a = torch.cat([graph.incoming @ sources, graph.outgoing @ sinks], 2)  # (1)
        gates, of_edges = self.of_edges(a).tensor_split([2 * nodes.shape[2]], 2)
        z, r = torch.sigmoid(gates + self.of_node(nodes)).chunk(2, 2)  # (2), (3)
        kept = self.of_kept(r * nodes) if self.reset == "before" else r * self.of_kept(nodes)
        proposed = torch.tanh(of_edges + kept)  # (4)
        return nodes + z * (proposed - nodes)  # (5)


class SoftAttention(nn.Module):
    """Readout s = W₃[x_t; Σ α_i x_i], α_i = qᵀσ(W₁x_t + W₂x_i + c): equations (6)–(7) of Wu et al. 2019.

    With `bias` (7) has one, as in the published codes.
    """

    def __init__(self, dim: int, bias: bool = False) -> None:
        super().__init__()
        self.of_last = nn.Linear(dim, dim, bias=False)  # W₁
        self.of_each = nn.Linear(dim, dim)  # W₂, c
        self.weight = nn.Linear(dim, 1, bias=False)  # q
        self.mix = nn.Linear(2 * dim, dim, bias=bias)  # W₃

    def forward(self, positions: Tensor, sessions: Tensor) -> Tensor:
        """(B, L, D) vectors by position and their (B, L) sessions to (B, D)."""
        real = (sessions > PAD)[:, :, None]  # (B, L, 1)
        last = last_position(positions, sessions)  # (B, D)
        alpha = self.weight(torch.sigmoid(self.of_last(last)[:, None] + self.of_each(positions)))  # (B, L, 1)
        overall = (alpha * positions * real).sum(1)  # (6)
        session: Tensor = self.mix(torch.cat([last, overall], 1))  # (7)
        return session


def _normalise_rows(matrix: Tensor) -> Tensor:
    return matrix / matrix.sum(2, keepdim=True).clamp(min=1.0)


def _z_first(weight: Tensor) -> Tensor:
    """torch stacks a GRU's gates as r, z, n; ONNX as z, r, n."""
    r, z, n = weight.chunk(3)
    return torch.cat([z, r, n])


class Transformer(nn.Module):
    """Self-attention over a session (Vaswani et al. 2017), with learned positions.

    A block is attention, then a feed-forward layer at each position, each with dropout and a residual.
    With `norm_first` a block is x + f(LN(x)), and the last one is followed by a LayerNorm, as in SASRec;
    without, it is LN(x + f(x)), and the first one is preceded by a LayerNorm, as in BERT.
    """

    def __init__(
        self,
        dim: int,
        *,
        max_length: int,
        layers: int,
        heads: int,
        inner: int,
        dropout: float,
        activation: type[nn.Module],
        norm_first: bool,
    ) -> None:
        super().__init__()
        require(at_least=1, dim=dim, max_length=max_length, layers=layers, heads=heads, inner=inner)
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads, and {dim} is not one of {heads}")
        self.norm_first = norm_first
        self.positions = nn.Embedding(max_length, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            _TransformerBlock(dim, heads, inner, dropout, activation, norm_first) for _ in range(layers)
        )

    def forward(self, inputs: Tensor, real: Tensor | None = None, place: Tensor | None = None) -> Tensor:
        """(B, L, D) to (B, L, D): causal, or seeing every position where `real` (B, L) is true.

        `place`, (L,) or (B, L), is the row of each position in their table; without, 0 is the first click.
        """
        if place is None:
            place = torch.arange(inputs.shape[1], device=inputs.device)
        x = inputs + self.positions(place)
        x = self.dropout(x if self.norm_first else self.norm(x))
        for block in self.blocks:
            x = block(x, real)
        vectors: Tensor = self.norm(x) if self.norm_first else x
        return vectors


class _TransformerBlock(nn.Module):
    def __init__(
        self,
        dim: int,
        heads: int,
        inner: int,
        dropout: float,
        activation: type[nn.Module],
        norm_first: bool,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm_first = norm_first
        self.qkv = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, inner), activation(), nn.Linear(inner, dim))
        self.norm_attention = nn.LayerNorm(dim)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        if self.norm_first:
            x = x + self.dropout(self._attend(self.norm_attention(x), real))
            x = x + self.dropout(self.feed_forward(self.norm_feed_forward(x)))
        else:
            x = self.norm_attention(x + self.dropout(self._attend(x, real)))
            x = self.norm_feed_forward(x + self.dropout(self.feed_forward(x)))
        return x

    def _attend(self, x: Tensor, real: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, L, d)
        mask = None if real is None else real[:, None, None]  # (B, 1, 1, L): of the keys
        attended = nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None)
        mixed: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return mixed
