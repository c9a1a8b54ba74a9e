"""One row per model: all that the contract suite needs to know of it. A new model adds its row here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from models.base import Hyper, SessionEncoder
from training.learn.registry import find_model


@dataclass(frozen=True)
class Case:
    """A small instance of a model, and the learning rate at which it learns the planted pattern."""

    name: str
    hyper: dict[str, Hyper] = field(default_factory=dict)
    lr: float = 0.02
    recipe: dict[str, Any] = field(default_factory=dict)  # what else its training needs
    learns: float = 0.95  # of the best possible MRR@20

    @property
    def model(self) -> type[SessionEncoder]:
        return find_model(self.name)

    def __str__(self) -> str:
        return "-".join([self.name, *(str(value) for value in self.hyper.values() if isinstance(value, str))])


CASES = [
    Case("gru", {"dim": 16, "head": "niser"}),
    Case("gru", {"dim": 16, "head": "native", "layers": 2}),
    Case(
        "gru4rec",
        {"dim": 16, "dropout_hidden": 0.0, "embedding": "one-hot"},
        lr=0.1,
        recipe={
            "optimizer": "adagrad",
            "momentum": 0.1,
            "loss": "bpr-max",
            "negatives": 10,
            "batch_size": 16,
        },
    ),
    Case(
        "gru4rec",
        {
            "dim": 16,
            "batching": "positions",
            "dropout_hidden": 0.0,
            "layers": 2,
            "input_to_all": True,
            "feed_forward": 1,
            "discount": 0.5,
            "reset": "before",
        },
        recipe={"loss": "ce", "optimizer": "adam"},
    ),
    Case("narm", {"dim": 16, "hidden": 20}),
    Case("narm", {"dim": 16, "hidden": 20, "attention": "plain", "reset": "before"}),
    Case("stmp", {"dim": 16}),
    Case("stamp", {"dim": 16}),
    Case("sasrec", {"dim": 16, "head": "niser"}),
    Case("sasrec", {"dim": 16, "head": "native", "heads": 2}),
    Case(  # a mean of a session's own items: they rank first, and the pattern repeats none
        "core",
        {"dim": 16, "dropout": 0.0, "dropout_session": 0.0, "dropout_items": 0.0, "temperature": 0.15},
        lr=0.01,
        learns=0.3,
    ),
    Case("tron", {"dim": 16}),
    Case("bert4rec", {"dim": 32, "dropout": 0.0}, lr=0.005),
    Case("caser", {"dim": 16}),
    Case("svae", {"dim": 16, "hidden": 20, "dim_output": 16, "latent": 8}),
    Case("srgnn", {"dim": 16, "steps": 2}),
    Case("srgnn", {"dim": 16, "reset": "after", "bias": True, "items_from": "uniform"}),
    Case("niser", {"dim": 16, "steps": 2}),
    Case("niser", {"dim": 16, "reset": "after", "bias": True}),
    Case("sgnn_hn", {"dim": 16, "layers": 3}),
    Case("sgnn_hn", {"dim": 16, "layers": 2, "reset": "after", "bias": True, "centre": True}),
    Case("pen4rec", {"dim": 16, "head": "niser"}),
    Case("pen4rec", {"dim": 16, "head": "native", "steps": 2, "recent": 3}),
    Case("gce_gnn", {"dim": 16, "dropout_global": 0.1, "head": "niser"}),
    Case("gce_gnn", {"dim": 16, "dropout_global": 0.1, "head": "native", "hops": 2}),
    # Means of a session's items again, and without the order of its clicks. Untrained they reach 0.06 to 0.10
    # and trained 0.20 to 0.25. A wrong graph would not show: that is for test_interactions.py to find.
    *(
        Case(name, {"dim": 16, "head": head}, lr=0.05, recipe={"negatives": 20}, learns=0.17)
        for name, head in [("bprmf", "native"), ("gcn", "niser"), ("ngcf", "niser"), ("lightgcn", "niser")]
    ),
]
