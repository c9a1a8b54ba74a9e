"""Model cards: what each model is, as its module's docstring and its class say it."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

import numpy as np
import torch

from models.base import Family, Head, SessionEncoder, Sessions
from training.registry import find_model, model_names

# "NAME: Authors, Title, Venue Year.", the first sentence of every model's module
_FIRST_SENTENCE = re.compile(r"(?P<title>[^:]+): (?P<paper>(?P<authors>[^,]+), .*?\b(?P<year>\d{4}))[.;]")


@dataclass(frozen=True)
class Card:
    """A model in one line; `title` is its name in the literature, `parameters` their number.

    A factorisation model learns a vector of each training session too: one is counted. No bundle holds any.
    """

    name: str
    title: str
    paper: str
    cited: str  # authors and year
    family: Family
    parameters: int
    head: Head
    causal: bool


def all_cards(n_items: int) -> list[Card]:
    """The card of every model under `models/`, for a catalogue of `n_items`."""
    return [card(name, n_items) for name in model_names()]


def card(name: str, n_items: int) -> Card:
    """One model's card, at its default hyper-parameters. Raises `UnknownModelError`."""
    model_class = find_model(name)
    source = _FIRST_SENTENCE.match(" ".join(docstring(name).split()))
    assert source, f"models/{name}.py: its docstring must begin 'NAME: Authors, Title, Venue Year.'"
    model = _without_memory(model_class, n_items)
    return Card(
        name=name,
        title=source["title"],
        paper=source["paper"],
        cited=f"{source['authors']} {source['year']}",
        family=model.family,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        head=model.head,
        causal=model.causal,
    )


def docstring(name: str) -> str:
    """What the model's module says of it. Raises `UnknownModelError`."""
    return (sys.modules[find_model(name).__module__].__doc__ or "").strip()


def _without_memory(model_class: type[SessionEncoder], n_items: int) -> SessionEncoder:
    """The model with shapes but no values: a table of any size costs nothing."""
    one_session = Sessions(np.array([1, 2], np.int32), np.array([0, 2]), n_items)
    with torch.device("meta"):
        return model_class.build(one_session)
