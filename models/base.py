"""The contract between a model and everything else: what it is given, what it must answer."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from models.bounds import require
from models.losses import Negatives, Objective, Taught, cross_entropy, distillation, sampled_loss
from models.sessions import Sessions

PAD = 0
Head = Literal["native", "niser"]
Batching = Literal["prefixes", "positions", "session-parallel", "interactions"]
Family = Literal["sequence", "session graph", "global graph", "factorisation"]
Hyper = bool | int | float | str


@dataclass(frozen=True)
class Batch:
    """What one training step sees; item indices, right-padded with PAD.

    `prefixes`: `targets` is (B,), the click after each prefix.
    `positions`: `targets` is (B, L), the click after each position, PAD where there is none.
    `session-parallel`: one click of each lane, `sessions` (B, 1), and the next one, `targets` (B,); both PAD
    in a lane that has run out of sessions. `starts` (B,) marks the lanes that begin a session here.
    `interactions`: `sessions` (B,) holds no items but which of the training sessions each interaction is of,
    and `targets` (B,) its item.
    """

    sessions: Tensor  # (B, L) int64
    targets: Tensor
    starts: Tensor | None = None
    negatives: Negatives | None = None  # for the losses that sample them
    taught: Taught | None = None  # what a teacher answers, if there is one
    known_places: Tensor | None = None  # a GPU would have to be waited for to count them

    @property
    def places(self) -> Tensor:
        """(N,) int64: which of the flattened `targets` there are, in order."""
        return self.targets.flatten().nonzero()[:, 0] if self.known_places is None else self.known_places

    @property
    def rows(self) -> Tensor | None:
        """(N,) int64: which example each of them is of, where examples may have several."""
        return self.places // self.targets.shape[1] if self.targets.dim() > 1 else None


@dataclass(frozen=True)
class Recipe(Objective):
    """How a model is trained unless told otherwise: as in its paper, or as its docstring says."""

    epochs: int = 30
    batch_size: int = 512  # targets a step, whatever the batching; in `session-parallel`, lanes
    optimizer: Literal["adam", "adagrad"] = "adam"
    lr: float = 1e-3
    momentum: float = 0.0  # of adagrad
    lr_step: int = 3  # epochs between two decays of the learning rate
    lr_gamma: float = 0.1
    time_order: bool = False  # once the rate has decayed, epochs go through the sessions oldest first
    weight_decay: float = 0.0  # L2, added to the gradient
    teacher_weight: float = 0.5  # how much of each target is a teacher's answers, if there is one
    patience: int = 3  # epochs without a better validation MRR@20 before training stops

    def __post_init__(self) -> None:
        super().__post_init__()
        require(at_least=1, epochs=self.epochs, batch_size=self.batch_size)
        require(at_least=1, lr_step=self.lr_step, patience=self.patience)
        require(at_least=0, lr=self.lr, lr_gamma=self.lr_gamma)
        require(at_least=0, at_most=1, teacher_weight=self.teacher_weight)
        require(at_least=0, momentum=self.momentum, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class HyperParameter:
    """A keyword argument of a model: its type, its default, and the only values it takes (none: any)."""

    kind: type
    default: Hyper
    choices: tuple[Hyper, ...] = ()


class SessionEncoder(nn.Module):
    """Encodes a session as one vector; an item's score is its inner product with that vector, plus its bias.

    A model file sets the class attributes, takes its hyper-parameters as keyword arguments of `__init__`
    after `n_items`, and writes `forward` and `item_vectors`. Causal models write `forward_all` instead.
    """

    recipe: Recipe  # the class's own; a run may set another on its model
    paper: ClassVar[
        Mapping[str, Hyper]
    ]  # what its paper says of recipe and hyper-parameters; {}: it has none
    papers: ClassVar[Mapping[str, Mapping[str, Hyper]]] = {}  # further published settings, by their names
    earlier: ClassVar[Mapping[str, Hyper]] = {}  # what was, where a checkpoint's hyper-parameters lack a name
    family: ClassVar[Family]
    batching: Batching
    causal: ClassVar[bool] = False
    head: Head = "native"
    scale: float = 1.0  # of the cosines in the softmax of the `niser` head
    max_length: int = 50  # clicks of a session that are read: its newest ones
    softmax_dtype: torch.dtype = torch.float32  # of the products with the item table in training
    mixed_precision: ClassVar[bool] = False  # the encoder's products, too, are trained in `softmax_dtype`
    sparse_rows: bool = False  # see `set_sparse_rows`

    @classmethod
    def build(cls, train: Sessions, **hyper: Hyper) -> Self:
        """A new model for the training sessions; override to precompute a graph from them."""
        return cls(train.n_items, **hyper)

    @classmethod
    def hyperparameters(cls) -> dict[str, HyperParameter]:
        """Every hyper-parameter, read off the signature of `__init__`."""
        return hyperparameters_of(cls.__init__)

    def forward(self, sessions: Tensor) -> Tensor:
        """Session vectors (B, D) of (B, L) int64 sessions; L2-normalised under the `niser` head."""
        return last_position(self.forward_all(sessions), sessions)

    def forward_all(self, sessions: Tensor) -> Tensor:
        """Session vectors (B, L, D) of every prefix of (B, L) sessions, in one pass (causal models)."""
        raise TypeError(f"{type(self).__name__} is not causal: it has no vector for every position")

    def item_vectors(self) -> Tensor:
        """(n_items + 1, D); row 0 is PAD. The `niser` head normalises them where they are scored."""
        raise TypeError(f"{type(self).__name__} must define item_vectors")

    def item_bias(self) -> Tensor | None:
        """(n_items + 1,), or None. Ignored by the `niser` head."""
        return None

    def vectors_of(self, items: Tensor) -> Tensor:
        """Rows (N, D) of `item_vectors` for (N,) items; override where those take more than looking up."""
        return self._rows(self.item_vectors(), items)

    def set_sparse_rows(self, sparse: bool) -> None:
        """Whether gradients of tables are sparse: no larger than the rows that a sampled loss looks up."""
        self.sparse_rows = sparse
        for table in self.modules():
            if isinstance(table, nn.Embedding):
                table.sparse = sparse

    def tables(self) -> list[Tensor]:
        """The parameters that steps look rows up in: all embeddings, and the items' bias."""
        found: list[Tensor] = [each.weight for each in self.modules() if isinstance(each, nn.Embedding)]
        bias = self.item_bias()
        return found if bias is None else [*found, bias]

    def _rows(self, table: Tensor, items: Tensor) -> Tensor:
        sparse = self.sparse_rows and isinstance(table, nn.Parameter)
        if table.dim() == 1:
            return table.gather(0, items, sparse_grad=sparse)
        return nn.functional.embedding(items, table, sparse=sparse)

    def loss(self, batch: Batch) -> Tensor:
        """Mean of the recipe's loss over the batch's targets, of which a teacher's answers may be a part."""
        vectors, targets = self.pairs(batch)
        loss = self.score_loss(vectors, targets, batch.negatives, rows=batch.rows)
        if batch.taught is None:
            return loss
        places, shares = (
            each.flatten(0, -2)[batch.places] for each in (batch.taught.places, batch.taught.shares)
        )
        bias = None if self.head == "niser" else self.item_bias()
        return loss + self.recipe.teacher_weight * distillation(
            vectors * self.scale,
            self.vectors_of,
            targets,
            Taught(batch.taught.items, places, shares),
            bias=None if bias is None else partial(self._rows, bias),
            normalise=self.head == "niser",
        )

    def step(self, batch: Batch, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Loss of a session-parallel step, and the state to carry to the next (None at an epoch's start).

        A sum over the lanes that still run, divided by all lanes: the last steps of an epoch weigh less.
        """
        raise TypeError(f"{type(self).__name__} has no session-parallel mode")

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Session vectors (N, D) and their targets: (N,), or (N, K) under a horizon of K, PAD where none."""
        low = self.mixed_precision and self.softmax_dtype != torch.float32
        with torch.autocast(batch.sessions.device.type, self.softmax_dtype, enabled=low):
            if self.batching == "prefixes":
                return self(batch.sessions).float(), batch.targets
            vectors = self.forward_all(batch.sessions).flatten(0, 1)[batch.places]
            return vectors.float(), self.next_clicks(batch).flatten(0, 1)[batch.places]

    def terms(self, batch: Batch) -> int:
        """How many terms the loss is the mean of: how much a part of a batch counts in the whole.

        A lane that has run out of sessions is one, too.
        """
        if self.batching == "session-parallel":
            return len(batch.targets)
        if self.batching == "positions":
            return int((self.next_clicks(batch) > PAD).sum())
        return int((batch.targets > PAD).sum())

    def next_clicks(self, batch: Batch) -> Tensor:
        """The targets of each position (B, L), or under a horizon of K its next K clicks (B, L, K)."""
        horizon = self.recipe.horizon
        if horizon == 1:
            return batch.targets
        return nn.functional.pad(batch.targets, (0, horizon - 1)).unfold(1, horizon, 1)

    def score_loss(
        self,
        vectors: Tensor,
        targets: Tensor,
        negatives: Negatives | None,
        *,
        rows: Tensor | None = None,
        items: Tensor | None = None,
        head: Head | None = None,
    ) -> Tensor:
        """Mean of the recipe's loss over (N, D) session vectors and their targets, (N,) or (N, K) items.

        `negatives` must be given for every loss but `ce`; `rows` (N,) says which of the batch's examples each
        target is of, if some may be of the same; `items` are the item vectors, if they are at hand, and
        `head` is how they are scored in training, if not as they are served.
        """
        normalise = (head or self.head) == "niser"
        vectors = vectors * self.scale
        bias = None if normalise else self.item_bias()
        if self.recipe.loss == "ce":
            items = self.item_vectors() if items is None else items
            return cross_entropy(
                vectors,
                items[1:],
                targets - 1,
                bias=None if bias is None else bias[1:],
                normalise=normalise,
                dtype=self.softmax_dtype,
            )
        assert negatives is not None, "the training loop draws negatives for a sampled loss"
        if targets.dim() == 2:
            present = targets > PAD  # (N, K)
            each = present.sum(1)
            vectors, targets = vectors.repeat_interleave(each, 0), targets[present]
            rows = None if rows is None else rows.repeat_interleave(each, 0)
        return sampled_loss(
            self.recipe,
            vectors,
            self.vectors_of if items is None else partial(self._rows, items),
            targets,
            negatives,
            bias=None if bias is None else partial(self._rows, bias),
            normalise=normalise,
            rows=rows,
            dtype=self.softmax_dtype,
        )


def hyperparameters_of(function: Callable[..., object]) -> dict[str, HyperParameter]:
    """The keyword-only arguments of a function."""
    hints = typing.get_type_hints(function)
    found = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            choices = typing.get_args(hints[parameter.name])  # of a Literal
            found[parameter.name] = HyperParameter(type(parameter.default), parameter.default, choices)
    return found


def last_position(positions: Tensor, sessions: Tensor) -> Tensor:
    """The (B, D) vectors at each session's newest click, out of (B, L, D)."""
    last = (sessions > PAD).sum(1) - 1  # (B,)
    return positions.gather(1, last[:, None, None].expand(-1, 1, positions.shape[2])).squeeze(1)
