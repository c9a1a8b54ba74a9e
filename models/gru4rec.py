"""GRU4Rec: Hidasi et al., Session-based Recommendations with Recurrent Neural Networks, ICLR 2016.

Losses and the shared sample of Hidasi & Karatzoglou, Recurrent Neural Networks with Top-k Gains, CIKM 2018.

    h_t = GRU(x_t, h_{t−1})                                  (1)
    r_i = V_i · h_t + b_i                                    (2)

x_t is one-hot (`embedding=one-hot`), a row of a table of its own (`separate`), or V's row (`tied`, the
papers' "constrained" embedding).

Trained as in its papers: session-parallel mini-batches with the lanes' targets and a drawn sample as
negatives, gradients through one click, Adagrad with momentum. The default is the newest that its authors
published for 100 units, cross-entropy over the sample on RSC15 (Hidasi & Czapp, RecSys 2023; paramfiles/ of
their PyTorch code). `--paper` is the 2018 paper's BPR-max on V's rows (param_samples/ of their Theano
code), `--paper-of 2016` the first paper's (one-hot, TOP1, no drawn sample), `2016-bpr` the same with BPR,
and `2023-…` the best of 2023 for two more data sets. A plain GRU with cosines and the full softmax, which
does better here, is `gru`.

Also in the first paper, off by default as there: the input a discounted sum of all clicks so far
(`discount`, with `batching=positions`), scaled to the length it would have if they were different items;
the input fed to every layer, not only the first (`input_to_all`); layers tanh(W h + c) before the output
(`feed_forward`); a tanh of (2) in training (`tanh`).

As in its authors' code, each gate's weights start from U(±sqrt(6 / (rows + columns))) of their own matrix,
and dropout on the states of a session-parallel step is carried on: the next layer, the next click and the
scores see the same. Of padded sessions only what is scored is dropped out.

Departures: by default the reset gate scales the state after its product with the weights, as in the
authors' PyTorch code; the paper and their first code have it before (`reset=before`). Under `logq`,
negatives are corrected for how often they are to be expected in the whole sample, where the authors' code
takes a click's support as it is; a target only with `logq_target`, as theirs always is. With `input_to_all`
a one-hot is fed to the higher layers as the rows that it has in the first. `batching=positions` trains
padded sessions whole, as no paper does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from models.base import PAD, Batch, Batching, Family, Hyper, Recipe, SessionEncoder
from models.bounds import require
from models.layers import GRU, Reset

_FIRST: dict[str, Hyper] = {  # examples/rsc15/run_rsc15.py of the Theano code, 100 units
    "batching": "session-parallel",
    "embedding": "one-hot",
    "dim": 100,
    "layers": 1,
    "reset": "before",
    "dropout_embedding": 0.0,
    "dropout_hidden": 0.5,
    "discount": 0.0,
    "input_to_all": False,
    "feed_forward": 0,
    "loss": "top1",
    "tanh": True,
    "negatives": 0,
    "in_batch": True,
    "epochs": 10,
    "patience": 10,
    "batch_size": 50,
    "optimizer": "adagrad",
    "lr": 0.01,
    "momentum": 0.0,
    "lr_gamma": 1.0,
}
_SECOND: dict[str, Hyper] = {  # param_samples/rsc15_bpr-max_constrained.py
    **_FIRST,
    "embedding": "tied",
    "dropout_hidden": 0.0,
    "loss": "bpr-max",
    "tanh": False,
    "elu": 0.5,
    "penalty": 0.5,
    "negatives": 2048,
    "negatives_power": 0.0,
    "batch_size": 32,
    "lr": 0.2,
    "momentum": 0.1,
}
_THIRD: dict[str, Hyper] = {**_SECOND, "reset": "after"}  # paramfiles/ of the PyTorch code
_SOFTMAX: dict[str, Hyper] = {**_THIRD, "loss": "sampled-ce", "logq": True, "logq_target": True}
_RSC15: dict[str, Hyper] = {**_SOFTMAX, "dropout_hidden": 0.4, "negatives_power": 0.5, "momentum": 0.2}


class GRU4Rec(SessionEncoder):
    """A GRU over the clicks; its state after a click scores what comes next."""

    recipe: Recipe = Recipe(
        loss="sampled-ce",
        negatives=2048,
        negatives_power=0.5,
        logq_target=True,
        epochs=10,
        batch_size=32,
        optimizer="adagrad",
        lr=0.2,
        momentum=0.2,
        lr_gamma=1.0,
    )
    paper: ClassVar[Mapping[str, Hyper]] = _SECOND
    papers: ClassVar[Mapping[str, Mapping[str, Hyper]]] = {
        "2016": _FIRST,
        "2016-bpr": {**_FIRST, "loss": "bpr", "dropout_hidden": 0.2, "lr": 0.05, "momentum": 0.2},
        "2018": _SECOND,
        "2023-diginetica": {
            **_THIRD,
            "dim": 512,
            "dropout_embedding": 0.5,
            "dropout_hidden": 0.3,
            "elu": 1.0,
            "penalty": 0.9,
            "negatives_power": 0.3,
            "batch_size": 128,
            "lr": 0.05,
            "momentum": 0.15,
        },
        "2023-yoochoose": {
            **_SOFTMAX,
            "dim": 480,
            "dropout_hidden": 0.2,
            "negatives_power": 0.2,
            "batch_size": 48,
            "lr": 0.07,
            "momentum": 0.0,
        },
        "2023-rsc15": _RSC15,
    }
    family: ClassVar[Family] = "sequence"
    batching: Batching = "session-parallel"
    causal: ClassVar[bool] = True

    def __init__(
        self,
        n_items: int,
        *,
        dim: int = 100,
        layers: int = 1,
        embedding: Literal["one-hot", "separate", "tied"] = "tied",
        discount: float = 0.0,
        input_to_all: bool = False,
        feed_forward: int = 0,
        reset: Reset = "after",
        dropout_embedding: float = 0.0,
        dropout_hidden: float = 0.4,
        batching: Literal["positions", "session-parallel"] = "session-parallel",
    ) -> None:
        require(at_least=1, dim=dim, layers=layers)
        require(at_least=0, feed_forward=feed_forward)
        require(at_least=0, at_most=1, discount=discount)
        super().__init__()
        if discount and batching == "session-parallel":
            raise ValueError("discount: a session-parallel step has one click, not all so far")
        self.batching = batching
        self.discount = discount
        self.items = nn.Embedding(n_items + 1, dim, padding_idx=PAD)
        self.bias = nn.Parameter(torch.zeros(n_items + 1))
        # A one-hot's product with the input weights is a row of them, one for each gate.
        self.one_hot = embedding == "one-hot"
        width = 3 * dim if self.one_hot else dim
        self.inputs: nn.Embedding = (
            self.items if embedding == "tied" else nn.Embedding(n_items + 1, width, padding_idx=PAD)
        )
        self.gru = GRU(width, dim, 1 if input_to_all else layers, reset)
        higher = layers - 1 if input_to_all else 0
        self.higher = nn.ModuleList(GRU(dim + width, dim, reset=reset) for _ in range(higher))
        self.feed_forward = nn.ModuleList(nn.Linear(dim, dim) for _ in range(feed_forward))
        self.dropout_embedding = nn.Dropout(dropout_embedding)
        self.dropout_hidden = nn.Dropout(dropout_hidden)
        self._initialise()
        if self.one_hot:
            identity = self.gru.get_parameter("weight_ih_l0").requires_grad_(False)
            identity.copy_(torch.eye(width))

    def _initialise(self) -> None:
        """U(±sqrt(6 / (rows + columns))) for every matrix, each gate's its own; no bias."""
        n_items, dim = self.items.num_embeddings - 1, self.gru.hidden_size
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                nn.init.zeros_(parameter)
                continue
            rows = n_items if name in ("items.weight", "inputs.weight") else dim
            columns = dim if name == "inputs.weight" and self.one_hot else parameter.shape[1]
            bound = math.sqrt(6 / (rows + columns))
            nn.init.uniform_(parameter, -bound, bound)
        with torch.no_grad():
            self.items.weight[PAD].zero_()
            self.inputs.weight[PAD].zero_()

    def forward_all(self, sessions: Tensor) -> Tensor:
        clicks = self._clicks(sessions)
        states = self.gru.states(clicks)  # (1)
        for layer in self.higher:
            assert isinstance(layer, GRU)
            states = layer.states(torch.cat([states, clicks], 2))
        return self._session_vectors(self.dropout_hidden(states))

    def step(self, batch: Batch, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """One click of each lane; `state` is (layers, B, D), zeroed only in lanes that begin a session."""
        assert batch.starts is not None
        clicks = self._clicks(batch.sessions)[:, 0]
        layers = [(self.gru, layer) for layer in range(self.gru.num_layers)]
        layers += [(layer, 0) for layer in self.higher if isinstance(layer, GRU)]
        if state is None:
            state = clicks.new_zeros(len(layers), len(clicks), self.gru.hidden_size)
        carried, below = [], clicks
        for number, (gru, layer) in enumerate(layers):
            inputs = below if gru is self.gru else torch.cat([below, clicks], 1)
            below = self.dropout_hidden(
                gru.step(inputs, state[number] * ~batch.starts[:, None], layer)
            )  # (1)
            carried.append(below)
        vectors = self._session_vectors(below)[batch.places]
        loss = self.score_loss(vectors, batch.targets[batch.places], batch.negatives)
        running = (batch.targets > PAD).float().mean()  # a sum over these, by all lanes, as the authors'
        return loss * running, torch.stack(carried).detach()

    def _clicks(self, sessions: Tensor) -> Tensor:
        """(B, L) items to what the GRU reads, (B, L, D or 3D)."""
        clicks = self.inputs(sessions)
        if self.discount:
            place = torch.arange(sessions.shape[1], device=sessions.device)
            ago = place[:, None] - place  # (L, L)
            weights = torch.where(ago >= 0, self.discount ** ago.clamp(min=0), 0.0)
            clicks = normalize(weights, dim=1) @ clicks
        vectors: Tensor = self.dropout_embedding(clicks)
        return vectors

    def _session_vectors(self, states: Tensor) -> Tensor:
        for layer in self.feed_forward:
            states = torch.tanh(layer(states))
        return states

    def item_vectors(self) -> Tensor:
        return self.items.weight

    def item_bias(self) -> Tensor:
        return self.bias
