"""One row per model: all that the contract suite needs to know of it. A new model adds its row here."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.base import Hyper, SessionEncoder
from training.registry import find_model


@dataclass(frozen=True)
class Case:
    """A small instance of a model, and the learning rate at which it learns the planted pattern."""

    name: str
    hyper: dict[str, Hyper] = field(default_factory=dict)
    lr: float = 0.02

    @property
    def model(self) -> type[SessionEncoder]:
        return find_model(self.name)

    def __str__(self) -> str:
        return "-".join([self.name, *(str(value) for value in self.hyper.values() if isinstance(value, str))])


CASES = [
    Case("gru4rec", {"dim": 16, "head": "niser"}),
    Case("gru4rec", {"dim": 16, "head": "native", "layers": 2}),
    Case("niser", {"dim": 16, "steps": 2}),
]
