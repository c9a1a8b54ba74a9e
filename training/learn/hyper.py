"""`--set name=value`: any field of a model's recipe or any of its hyper-parameters, checked and typed."""

from __future__ import annotations

import dataclasses
import math
import sys
import typing
from collections.abc import Mapping, Sequence

from models.base import Hyper, HyperParameter, Recipe, SessionEncoder, hyperparameters_of
from training.learn.registry import find_baseline

PAPER = "paper"  # a model's own paper, among the settings that were published
BOOLEANS = {"true": True, "false": False}


class HyperError(ValueError):
    """A `--set` or `--search` names nothing the model has, or a value of the wrong type."""


def resolve(
    model: type[SessionEncoder], assignments: Sequence[str], published: str | None = None
) -> tuple[Recipe, dict[str, Hyper]]:
    """The model's recipe and every hyper-parameter, with `name=value` assignments applied.

    With `published` they begin from what was published (`PAPER`, or a name of `model.papers`), and nothing of
    our own recipe is left in them. Raises `HyperError` that lists the known names.
    """
    own, declared = model.recipe, model.hyperparameters()
    if published is not None:
        there = published_settings(model)
        if published not in there:
            raise HyperError(f"--paper-of {published}: of {model.__name__} there is: {', '.join(there)}")
        values = there[published]
        own = dataclasses.replace(Recipe(), **{k: v for k, v in values.items() if k not in declared})  # type: ignore[arg-type]
        declared = {k: dataclasses.replace(each, default=values[k]) for k, each in declared.items()}
    hints = typing.get_type_hints(Recipe)
    recipe_fields = {
        f.name: HyperParameter(type(default), default, typing.get_args(hints[f.name]))
        for f in dataclasses.fields(Recipe)
        for default in [getattr(own, f.name)]
    }
    assigned = _assign(model.__name__, {**recipe_fields, **declared}, assignments)
    hyper = {name: assigned.get(name, parameter.default) for name, parameter in declared.items()}
    try:
        recipe = dataclasses.replace(
            own,
            **{name: value for name, value in assigned.items() if name in recipe_fields},  # type: ignore[arg-type]
        )
    except ValueError as error:
        raise HyperError(f"--set: {error}") from error
    if recipe.horizon > 1 and hyper.get("batching", model.batching) != "positions":
        raise HyperError(f"--set horizon={recipe.horizon}: {model.__name__} has one target an example")
    batching = hyper.get("batching", model.batching)
    if recipe.time_order and batching not in ("prefixes", "positions"):
        raise HyperError(f"--set time_order=true: batches of {batching} have an order of their own")
    return recipe, hyper


def published_settings(model: type[SessionEncoder]) -> dict[str, Mapping[str, Hyper]]:
    """What was published of a model: its paper's settings, and further ones by name."""
    return {PAPER: model.paper, **model.papers}


def resolve_counted(
    baseline: str, assignments: Sequence[str], published: str | None = None
) -> dict[str, Hyper]:
    """Every hyper-parameter of a counted baseline, likewise. Raises `HyperError`."""
    declared = hyperparameters_of(find_baseline(baseline))
    if published is not None:
        values = paper_of_counted(baseline)
        if published != PAPER or not values:
            there = PAPER if values else "nothing"
            raise HyperError(f"--paper-of {published}: of {baseline} there is: {there}")
        declared = {k: dataclasses.replace(each, default=values[k]) for k, each in declared.items()}
    assigned = _assign(baseline, declared, assignments)
    return {name: assigned.get(name, parameter.default) for name, parameter in declared.items()}


def paper_of_counted(baseline: str) -> Mapping[str, Hyper]:
    """What the paper of a counted baseline gives; nothing where it gives no settings."""
    values: Mapping[str, Hyper] = getattr(sys.modules[find_baseline(baseline).__module__], "PAPER", {})
    return values


def _assign(owner: str, known: dict[str, HyperParameter], assignments: Sequence[str]) -> dict[str, Hyper]:
    assigned: dict[str, Hyper] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise HyperError(f"--set {assignment}: expected name=value")
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise HyperError(f"--set {name}: {owner} has no such hyper-parameter; it has: {names}")
        assigned[name] = _parse(name, text, known[name])
    return assigned


def _parse(name: str, text: str, parameter: HyperParameter) -> Hyper:
    expected = "true or false" if parameter.kind is bool else parameter.kind.__name__
    if parameter.choices:
        expected = f"one of {', '.join(map(str, parameter.choices))}"
    try:
        value: Hyper = BOOLEANS[text] if parameter.kind is bool else parameter.kind(text)
    except (KeyError, ValueError):
        raise HyperError(f"--set {name}={text}: expected {expected}") from None
    if parameter.choices and value not in parameter.choices:
        raise HyperError(f"--set {name}={text}: expected {expected}")
    if isinstance(value, float) and not math.isfinite(value):
        raise HyperError(f"--set {name}={text}: expected a finite number")
    return value
