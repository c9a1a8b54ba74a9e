"""Cards: what each model or baseline is, as its module's docstring and its class say it."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Literal

from models.base import Family, Head
from training.learn.hyper import build_empty
from training.learn.registry import baseline_names, find_baseline, find_model, model_names

# "NAME: Authors, Title, Venue Year.", the first sentence of every model's module
_FIRST_SENTENCE = re.compile(r"(?P<title>[^:]+): (?P<paper>(?P<authors>[^,]+), .*?\b(?P<year>\d{4}))[.;]")


@dataclass(frozen=True)
class Card:
    """A model in one line; `title` is its name in the literature, `parameters` their number.

    A factorisation model learns a vector of each training session too: one is counted. No bundle holds any.
    A counted baseline has no parameters and no head.
    """

    name: str
    title: str
    paper: str
    cited: str  # authors and year
    family: Family | Literal["counted"]
    parameters: int
    head: Head | None
    causal: bool


def all_cards(n_items: int) -> list[Card]:
    """The card of every model and baseline, for a catalogue of `n_items`."""
    return [card(name, n_items) for name in [*baseline_names(), *model_names()]]


def card(name: str, n_items: int) -> Card:
    """One card, of a model at its default hyper-parameters. Raises `UnknownModelError`."""
    source = _FIRST_SENTENCE.match(" ".join(docstring(name).split()))
    assert source, f"{name}: its module's docstring must begin 'NAME: Authors, Title, Venue Year.'"
    identity = (name, source["title"], source["paper"], f"{source['authors']} {source['year']}")
    if name in baseline_names():
        return Card(*identity, family="counted", parameters=0, head=None, causal=False)
    model = build_empty(find_model(name), {}, n_items)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Card(*identity, model.family, parameters, model.head, model.causal)


def docstring(name: str) -> str:
    """What its module says of it. Raises `UnknownModelError`."""
    defined = find_baseline(name) if name in baseline_names() else find_model(name)
    return (sys.modules[defined.__module__].__doc__ or "").strip()
