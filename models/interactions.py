"""What the models of (session, item) interactions share: the graph of them, and a session that is a user.

In training every session is a user with a vector of its own, learned from the items it holds. A session that
is served has none: it is the mean of its clicks' item vectors, after propagation where a model has any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag, normalize

from models.base import PAD, Batch, Batching, Family, Head, Hyper, SessionEncoder
from models.bounds import require
from models.layers import running_mean
from models.sessions import Sessions

Indices = npt.NDArray[np.int64]

MAX_SESSIONS = 1_000_000  # at 100 dimensions 1.6 GB of vectors, gradients and Adam's two means


@dataclass(frozen=True)
class SparseRows:
    """A constant sparse matrix, row by row.

    Row r has `weights[e]` at `columns[e]`, starts[r] <= e < starts[r + 1].
    """

    columns: Tensor  # (edges,) int64
    starts: Tensor  # (rows + 1,) int64
    weights: Tensor  # (edges,) float32

    @classmethod
    def of(
        cls,
        rows: Indices,
        columns: Indices,
        weights: npt.NDArray[np.float32],
        n: int,
    ) -> SparseRows:
        """A matrix of `n` rows from its entries in any order."""
        order = np.lexsort((columns, rows))
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))])
        return cls(*(torch.from_numpy(part) for part in (columns[order], starts, weights[order])))

    def take(self, rows: Tensor) -> SparseRows:
        """The matrix of these (B,) rows."""
        first = self.starts[rows]
        count = self.starts[rows + 1] - first
        starts = nn.functional.pad(count.cumsum(0), (1, 0))
        n_edges = int(starts[-1])
        before = (first - starts[:-1]).repeat_interleave(count, output_size=n_edges)
        edges = torch.arange(n_edges, device=rows.device) + before
        return SparseRows(self.columns[edges], starts, self.weights[edges])

    def moved(self, move: Callable[[Tensor], Tensor]) -> SparseRows:
        """The same matrix, with each of its tensors moved."""
        return SparseRows(move(self.columns), move(self.starts), move(self.weights))

    def times(self, dense: Tensor) -> Tensor:
        """The product with a (columns, D) matrix, (rows, D).

        A bag is a row's neighbours: embedding_bag is 3 to 4 times as fast here as torch's sparse CSR product.
        """
        if len(self.starts) == 1:  # no rows
            return dense.new_zeros(0, dense.shape[1])
        return embedding_bag(
            self.columns,
            dense,
            self.starts,
            mode="sum",
            per_sample_weights=self.weights,
            include_last_offset=True,
        )


def held(sessions: Sessions) -> Sessions:
    """The newest sessions, as many as get a vector each: of more, a model learns from these."""
    return sessions[-MAX_SESSIONS:]


def interactions(sessions: Sessions) -> tuple[Indices, Indices]:
    """Each session with each item clicked in it, once: the session's number and the item, both (pairs,)."""
    session = np.repeat(np.arange(len(sessions)), np.diff(sessions.offsets))
    pairs = np.unique(session * (sessions.n_items + 1) + sessions.items)
    return np.divmod(pairs, sessions.n_items + 1)


class SessionItemGraph:
    """The bipartite graph of sessions and the items in them, as the two halves of Â = D^-½ A D^-½.

    A holds an edge for each session and item clicked in it, however often, so that Â = [[0, R], [Rᵀ, 0]] with
    R[s, i] = 1 / sqrt(|N(s)| |N(i)|). Both halves are kept: each one's gradient is a product with the other.
    """

    def __init__(self, sessions: Sessions) -> None:
        session, item = interactions(sessions)
        of_sessions = np.bincount(session, minlength=len(sessions))
        of_items = np.bincount(item, minlength=sessions.n_items + 1)
        weights = (1 / np.sqrt(of_sessions[session] * of_items[item])).astype(np.float32)
        self.n_sessions = len(sessions)
        self._sessions = SparseRows.of(session, item, weights, self.n_sessions)  # R
        self._items = SparseRows.of(item, session, weights, sessions.n_items + 1)  # Rᵀ

    def move(self, move: Callable[[Tensor], Tensor]) -> None:
        """Take both halves to where the vectors are."""
        self._sessions, self._items = self._sessions.moved(move), self._items.moved(move)

    def to_items(self, sessions: Tensor) -> Tensor:
        """Rᵀ · sessions: what each item gathers, (n_items + 1, D), of all session vectors (S, D)."""
        gathered: Tensor = _Product.apply(self._items, self._sessions, sessions)  # type: ignore[no-untyped-call]
        return gathered

    def to_sessions(self, items: Tensor) -> Tensor:
        """R · items: what each session gathers, (S, D), of all item vectors (n_items + 1, D)."""
        gathered: Tensor = _Product.apply(self._sessions, self._items, items)  # type: ignore[no-untyped-call]
        return gathered

    def rows_of(self, sessions: Tensor) -> SparseRows:
        """R's rows of these (B,) sessions: times all item vectors, what each of them gathers, (B, D)."""
        return self._sessions.take(sessions)


class _Product(torch.autograd.Function):
    """A constant sparse matrix times a dense one; the gradient needs its transpose and nothing else."""

    @staticmethod
    def forward(ctx: Any, matrix: SparseRows, transposed: SparseRows, dense: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix.times(dense.detach())  # else embedding_bag keeps what only its own gradient needs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, ctx.transposed.times(grads[0].contiguous())


class InteractionEncoder(SessionEncoder):
    """Trained on (session, item) interactions, served by the mean of a session's item vectors.

    A model writes `embed`. What it answers in eval mode is a table worked out when it enters that mode: the
    encoder that is exported holds no graph, no session of training, and propagates nothing. Training scores
    by dot product, as the papers do; `head` is how items are ranked afterwards: by cosine to the mean of unit
    item vectors (`niser`), or by dot product with the mean of the vectors as they are (`native`).
    """

    family: ClassVar[Family] = "factorisation"
    batching: Batching = "interactions"
    causal: ClassVar[bool] = True
    table: Tensor

    def __init__(self, n_items: int, n_sessions: int, *, dim: int, decay: float, head: Head) -> None:
        super().__init__()
        require(at_least=1, dim=dim)
        require(at_least=0, decay=decay)
        self.decay = decay
        self.head = head
        self.items = nn.Embedding(n_items + 1, dim, padding_idx=PAD)
        self.sessions = nn.Embedding(n_sessions, dim)
        for each in (self.items, self.sessions):
            nn.init.normal_(each.weight, std=0.1)
        self.register_buffer("table", torch.empty(0), persistent=False)  # item vectors, in eval mode

    def embed(self, sessions: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of these (B,) training sessions, (B, D), and of all items, (n_items + 1, D).

        `own` (B, dim) are the sessions' rows of `self.sessions`.
        """
        raise TypeError(f"{type(self).__name__} must define embed")

    def train(self, mode: bool = True) -> Self:
        """Also works out `table` on entering eval mode; weights that change later need another call."""
        super().train(mode)
        if not mode:
            with torch.inference_mode(False), torch.no_grad():
                items = self._propagated_items()
                items = normalize(items, dim=1) if self.head == "niser" else items
                self.table = items.detach()  # a parameter as it is would become one of this name, too
        return self

    def forward_all(self, sessions: Tensor) -> Tensor:
        means = running_mean(embedding(sessions, self.item_vectors()))  # (B, L, D)
        return normalize(means, dim=2) if self.head == "niser" else means

    def item_vectors(self) -> Tensor:
        return self._propagated_items() if self.training else self.table

    def loss(self, batch: Batch) -> Tensor:
        """The recipe's loss of each interaction by dot products, plus the decay of the rows it touches."""
        own = self.sessions(batch.sessions)  # (B, dim)
        vectors, items = self.embed(batch.sessions, own)  # (B, D), (n_items + 1, D)
        loss = self.score_loss(vectors, batch.targets, batch.negatives, items=items, head="native")
        touched = [own, self.items(batch.targets)]
        if batch.negatives is not None:
            touched.append(self.items(batch.negatives.items))
        squares = torch.stack([rows.square().sum(1).mean() for rows in touched]).sum()
        return loss + self.decay / 2 * squares

    def _propagated_items(self) -> Tensor:
        none = torch.zeros(0, dtype=torch.int64, device=self.items.weight.device)
        return self.embed(none, self.sessions(none))[1]


class GraphEncoder(InteractionEncoder):
    """Vectors propagated over the session–item graph, once a step for all of its interactions.

    A model writes `layer`, and `combine` if its vectors are not its layers' side by side.
    """

    def __init__(
        self, n_items: int, graph: SessionItemGraph, *, dim: int, layers: int, decay: float, head: Head
    ) -> None:
        require(at_least=1, layers=layers)
        super().__init__(n_items, graph.n_sessions, dim=dim, decay=decay, head=head)
        self.graph = graph
        self.n_layers = layers

    @classmethod
    def build(cls, train: Sessions, **hyper: Hyper) -> Self:
        return cls(train.n_items, SessionItemGraph(held(train)), **hyper)  # type: ignore[arg-type]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What moves the model moves its graph, which is no part of it: no checkpoint or export holds any."""
        self.graph.move(fn)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def layer(self, number: int, own: Tensor, gathered: Tensor) -> Tensor:
        """The next layer's vectors, of a node's own and those gathered from its neighbours."""
        raise TypeError(f"{type(self).__name__} must define layer")

    def combine(self, layers: Sequence[Tensor]) -> Tensor:
        """Vectors of all layers to the one that is scored."""
        return torch.cat(list(layers), 1)

    def embed(self, sessions: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Of the last layer, only the sessions asked for are worked out."""
        rows = self.graph.rows_of(sessions)
        of_sessions, of_items = self.sessions.weight, self.items.weight  # (S, D), (n_items + 1, D)
        asked, items = [own], [of_items]
        for number in range(self.n_layers):
            asked.append(self.layer(number, asked[-1], rows.times(of_items)))
            gathered = self.graph.to_items(of_sessions)
            if number < self.n_layers - 1:
                of_sessions = self.layer(number, of_sessions, self.graph.to_sessions(of_items))
            of_items = self.layer(number, of_items, gathered)
            items.append(of_items)
        return self.combine(asked), self.combine(items)


def dense_layers(count: int, dim: int) -> nn.ModuleList:
    """A square dense layer for each layer of propagation, Xavier-uniform, biases 0."""
    layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(count))
    for parameter in layers.parameters():
        if parameter.dim() == 2:
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)
    return layers
