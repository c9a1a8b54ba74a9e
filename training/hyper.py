"""`--set name=value`: any field of a model's recipe or any of its hyper-parameters, checked and typed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from models.base import Hyper, Recipe, SessionEncoder


class HyperError(ValueError):
    """A `--set` names nothing the model has, or a value of the wrong type."""


def resolve(model: type[SessionEncoder], assignments: Sequence[str]) -> tuple[Recipe, dict[str, Hyper]]:
    """The model's recipe and every hyper-parameter, with `name=value` assignments applied.

    Raises `HyperError` that lists the known names.
    """
    recipe_fields = {f.name: type(getattr(model.recipe, f.name)) for f in dataclasses.fields(Recipe)}
    declared = model.hyperparameters()
    hyper = {name: default for name, (_, default) in declared.items()}
    changes: dict[str, Hyper] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise HyperError(f"--set {assignment}: expected name=value")
        if name in recipe_fields:
            changes[name] = _parse(name, text, recipe_fields[name])
        elif name in declared:
            hyper[name] = _parse(name, text, declared[name][0])
        else:
            known = ", ".join(sorted([*recipe_fields, *declared]))
            raise HyperError(f"--set {name}: {model.__name__} has no such hyper-parameter; it has: {known}")
    return dataclasses.replace(model.recipe, **changes), hyper  # type: ignore[arg-type]


def _parse(name: str, text: str, kind: type) -> Hyper:
    if kind is bool:
        if text not in ("true", "false"):
            raise HyperError(f"--set {name}={text}: expected true or false")
        return text == "true"
    try:
        value: Hyper = kind(text)
    except ValueError:
        raise HyperError(f"--set {name}={text}: expected {kind.__name__}") from None
    return value
