"""GRU4Rec: Hidasi et al., Session-based Recommendations with Recurrent Neural Networks, ICLR 2016.

Losses and the shared sample of Hidasi & Karatzoglou, Recurrent Neural Networks with Top-k Gains, CIKM 2018.

    h_t = GRU(x_t, h_{t−1})                                  (1)
    r_i = V_i · h_t + b_i                                    (2)

x_t is one-hot (`embedding=one-hot`), a row of a table of its own (`separate`), or V's row (`tied`, the
papers' "constrained" embedding).

Two ways to train. The papers' own, session-parallel mini-batches with the lanes' targets and a drawn sample
as negatives, gradients through one click, Adagrad with momentum:

    --set batching=session-parallel --set head=native --set optimizer=adagrad --set batch_size=128
    --set loss=bpr-max --set negatives=2048 --set negatives_power=0.5 --set lr=0.05 --set momentum=0.1

(or sampled-ce, top1, bpr, top1-max), and the default: padded sessions, every position in one pass, gradients
through the whole session, the full softmax, Adam.

Departures: by default input and output share one table and scores are scaled cosines (`head=niser`), meant
against the popularity bias of (2), and without b; `head=native` is (2) itself. Not offered: discounted
one-hots of all clicks so far (worse than 1-of-N in the paper), the input fed to every layer, feed-forward
layers before the output.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from models.base import PAD, Batch, Batching, Family, Head, Recipe, SessionEncoder
from models.layers import GRU


class GRU4Rec(SessionEncoder):
    """A GRU over the clicks; its state after a click scores what comes next."""

    recipe: Recipe = Recipe(epochs=8, batch_size=1024, lr=3e-3, lr_step=3, patience=2)
    family: ClassVar[Family] = "sequence"
    batching: Batching = "positions"
    causal: ClassVar[bool] = True

    def __init__(
        self,
        n_items: int,
        *,
        dim: int = 100,
        layers: int = 1,
        embedding: Literal["one-hot", "separate", "tied"] = "tied",
        dropout_embedding: float = 0.25,
        dropout_hidden: float = 0.0,
        head: Head = "niser",
        scale: float = 16.0,
        batching: Literal["positions", "session-parallel"] = "positions",
    ) -> None:
        super().__init__()
        self.batching = batching
        self.head = head
        self.scale = scale if head == "niser" else 1.0
        self.items = nn.Embedding(n_items + 1, dim, padding_idx=PAD)
        self.bias = nn.Parameter(torch.zeros(n_items + 1)) if head == "native" else None
        # A one-hot's product with the input weights is a row of them, one for each gate.
        self.one_hot = embedding == "one-hot"
        width = 3 * dim if self.one_hot else dim
        self.inputs: nn.Embedding = (
            self.items if embedding == "tied" else nn.Embedding(n_items + 1, width, padding_idx=PAD)
        )
        self.gru = GRU(width, dim, layers)
        self.dropout_embedding = nn.Dropout(dropout_embedding)
        self.dropout_hidden = nn.Dropout(dropout_hidden)
        self._initialise()
        if self.one_hot:
            identity = self.gru.get_parameter("weight_ih_l0").requires_grad_(False)
            identity.copy_(torch.eye(width))

    def _initialise(self) -> None:
        """U(±sqrt(6 / (rows + columns))) for every matrix, each gate's its own, as the authors; no bias."""
        n_items = self.items.num_embeddings - 1
        for parameter in self.parameters():
            if parameter.dim() == 1:
                nn.init.zeros_(parameter)
                continue
            rows, columns = parameter.shape
            if rows == n_items + 1:
                size = (
                    n_items + self.gru.hidden_size if parameter is self.inputs.weight else n_items + columns
                )
            else:  # of the GRU: three gates, one upon the other
                size = rows // 3 + columns
            nn.init.uniform_(parameter, -math.sqrt(6 / size), math.sqrt(6 / size))
        with torch.no_grad():
            self.items.weight[PAD].zero_()
            self.inputs.weight[PAD].zero_()

    def forward_all(self, sessions: Tensor) -> Tensor:
        return self._session_vectors(self.gru.states(self._clicks(sessions)))  # (1)

    def step(self, batch: Batch, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """One click of each lane; `state` is (layers, B, D), zeroed only in lanes that begin a session."""
        assert batch.starts is not None
        if state is not None:
            state = state * ~batch.starts[:, None]
        carried: Tensor
        hidden, carried = self.gru(self._clicks(batch.sessions), state)  # (B, 1, D), (layers, B, D)
        vectors = self._session_vectors(hidden[:, 0])[batch.places]
        loss = self.score_loss(vectors, batch.targets[batch.places], batch.negatives)
        running = (
            (batch.targets > PAD).float().mean()
        )  # a sum over these, divided by all lanes, as the authors'
        return loss * running, carried.detach()

    def _clicks(self, sessions: Tensor) -> Tensor:
        """(B, L) items to what the GRU reads, (B, L, D or 3D)."""
        clicks = self.inputs(sessions) if self.one_hot else self._unit(self.inputs(sessions))
        vectors: Tensor = self.dropout_embedding(clicks)
        return vectors

    def _session_vectors(self, states: Tensor) -> Tensor:
        return self._unit(self.dropout_hidden(states))

    def _unit(self, vectors: Tensor) -> Tensor:
        return normalize(vectors, dim=-1) if self.head == "niser" else vectors

    def item_vectors(self) -> Tensor:
        return self.items.weight

    def item_bias(self) -> Tensor | None:
        return self.bias
