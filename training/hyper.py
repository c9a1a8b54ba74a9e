"""`--set name=value`: any field of a model's recipe or any of its hyper-parameters, checked and typed."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Sequence

from models.base import Hyper, HyperParameter, Recipe, SessionEncoder

BOOLEANS = {"true": True, "false": False}


class HyperError(ValueError):
    """A `--set` names nothing the model has, or a value of the wrong type."""


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
    hyper = {name: parameter.default for name, parameter in declared.items()}
    changes: dict[str, Hyper] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise HyperError(f"--set {assignment}: expected name=value")
        if name in recipe_fields:
            changes[name] = _parse(name, text, recipe_fields[name])
        elif name in declared:
            hyper[name] = _parse(name, text, declared[name])
        else:
            known = ", ".join(sorted([*recipe_fields, *declared]))
            raise HyperError(f"--set {name}: {model.__name__} has no such hyper-parameter; it has: {known}")
    try:
        recipe = dataclasses.replace(model.recipe, **changes)  # type: ignore[arg-type]
    except ValueError as error:
        raise HyperError(f"--set: {error}") from error
    if recipe.horizon > 1 and hyper.get("batching", model.batching) != "positions":
        raise HyperError(f"--set horizon={recipe.horizon}: {model.__name__} has one target an example")
    return recipe, hyper


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
