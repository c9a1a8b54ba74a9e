"""`--set name=value`: any field of a model's recipe or any of its hyper-parameters, checked and typed."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Sequence

from models.base import Hyper, HyperParameter, Recipe, SessionEncoder, hyperparameters_of
from training.learn.registry import find_baseline

BOOLEANS = {"true": True, "false": False}


class HyperError(ValueError):
    """A `--set` or `--search` names nothing the model has, or a value of the wrong type."""


def resolve(model: type[SessionEncoder], assignments: Sequence[str]) -> tuple[Recipe, dict[str, Hyper]]:
    """The model's recipe and every hyper-parameter, with `name=value` assignments applied.

    Raises `HyperError` that lists the known names.
    """
    hints = typing.get_type_hints(Recipe)
    recipe_fields = {
        f.name: HyperParameter(type(default), default, typing.get_args(hints[f.name]))
        for f in dataclasses.fields(Recipe)
        for default in [getattr(model.recipe, f.name)]
    }
    declared = model.hyperparameters()
    assigned = _assign(model.__name__, {**recipe_fields, **declared}, assignments)
    hyper = {name: assigned.get(name, parameter.default) for name, parameter in declared.items()}
    try:
        recipe = dataclasses.replace(
            model.recipe,
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


def resolve_counted(baseline: str, assignments: Sequence[str]) -> dict[str, Hyper]:
    """Every hyper-parameter of a counted baseline, likewise. Raises `HyperError`."""
    declared = hyperparameters_of(find_baseline(baseline))
    assigned = _assign(baseline, declared, assignments)
    return {name: assigned.get(name, parameter.default) for name, parameter in declared.items()}


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
