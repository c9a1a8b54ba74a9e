"""`--set name=value`: any field of a model's recipe or any of its hyper-parameters, checked and typed."""

from __future__ import annotations

import dataclasses
import math
import sys
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.base import Hyper, HyperParameter, Recipe, SessionEncoder, hyperparameters_of
from models.sessions import Sessions
from training.learn.registry import find_baseline, find_model, name_of

PAPER = "paper"  # a model's own paper, among the settings that were published
LARGE_CATALOGUE = 30_000  # items; of 43,000 a step of full softmax takes 2.7 times a sampled one's
SAMPLED: dict[str, Hyper] = {
    "loss": "sampled-ce",
    "negatives": 8192,
    "negatives_power": 0.5,
    "in_batch": True,
    "logq": True,
}
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
            known = ", ".join(there) or "nothing"
            option = "--paper" if published == PAPER else f"--paper-of {published}"
            raise HyperError(f"{option}: of {name_of(model)} there is: {known}")
        values = there[published]
        own = dataclasses.replace(Recipe(), **{k: v for k, v in values.items() if k not in declared})  # type: ignore[arg-type]
        declared = {k: dataclasses.replace(each, default=values[k]) for k, each in declared.items()}
    hints = typing.get_type_hints(Recipe)
    recipe_fields = {
        f.name: HyperParameter(type(default), default, typing.get_args(hints[f.name]))
        for f in dataclasses.fields(Recipe)
        for default in [getattr(own, f.name)]
    }
    assigned = _assign(name_of(model), {**recipe_fields, **declared}, assignments)
    hyper = {name: assigned.get(name, parameter.default) for name, parameter in declared.items()}
    try:
        recipe = dataclasses.replace(
            own,
            **{name: value for name, value in assigned.items() if name in recipe_fields},  # type: ignore[arg-type]
        )
    except ValueError as error:
        raise HyperError(f"--set: {error}") from error
    _check(lambda values: build_empty(model, values), declared, hyper, assigned)
    if recipe.horizon > 1 and hyper.get("batching", model.batching) != "positions":
        raise HyperError(f"--set horizon={recipe.horizon}: {name_of(model)} has one target an example")
    batching = hyper.get("batching", model.batching)
    if recipe.time_order and batching not in ("prefixes", "positions"):
        raise HyperError(f"--set time_order=true: batches of {batching} have an order of their own")
    return recipe, hyper


def fit_to_catalogue(
    recipe: Recipe, n_items: int, assignments: Sequence[str], published: str | None = None
) -> tuple[Recipe, str | None]:
    """The recipe for so many items, and why it is another one; None where it is not.

    A full softmax over more than `LARGE_CATALOGUE` items becomes `SAMPLED`, but for what was assigned. It
    stays where the loss itself was assigned, or is what was published.
    """
    named = {assignment.partition("=")[0] for assignment in assignments}
    if recipe.loss != "ce" or n_items <= LARGE_CATALOGUE or "loss" in named or published is not None:
        return recipe, None
    sampled = {name: value for name, value in SAMPLED.items() if name not in named}
    return (
        dataclasses.replace(recipe, **sampled),  # type: ignore[arg-type]
        f"a full softmax over {n_items:,} items would cost several times as much: the loss is sampled"
        f" above {LARGE_CATALOGUE:,}; --set loss=ce insists on all",
    )


def check_teachable(model: str, recipe: Recipe, hyper: Mapping[str, Hyper]) -> None:
    """Refuse a teacher where no softmax is learned target by target. Raises `HyperError`."""
    model_class = find_model(model)
    batching = hyper.get("batching", model_class.batching)
    if model_class.loss is not SessionEncoder.loss or batching not in ("prefixes", "positions"):
        raise HyperError(f"--teacher: {model} does not learn one next click at a time, as a student must")
    if recipe.loss not in ("ce", "sampled-ce"):
        raise HyperError(
            f"--teacher: answers can be mixed into a softmax, not into {recipe.loss}: --set loss=sampled-ce"
        )
    if recipe.horizon > 1:
        raise HyperError(f"--teacher: answers are of the next click, not of the next {recipe.horizon}")


def objective_in_words(recipe: Recipe, n_items: int) -> str:
    """What a step's targets are held against."""
    if recipe.loss == "ce":
        return f"full softmax over {n_items:,} items"
    sample = [f"{recipe.negatives:,} negatives"] if recipe.negatives else []
    sample += ["the step's other targets"] if recipe.in_batch else []
    corrected = ", corrected by logQ" if recipe.loss == "sampled-ce" and recipe.logq else ""
    return f"{recipe.loss} against {' and '.join(sample)} of {n_items:,} items{corrected}"


def published_settings(model: type[SessionEncoder]) -> dict[str, Mapping[str, Hyper]]:
    """What was published of a model: its paper's settings, and further ones by name; perhaps nothing."""
    return {**({PAPER: model.paper} if model.paper else {}), **model.papers}


def resolve_counted(
    baseline: str, assignments: Sequence[str], published: str | None = None
) -> dict[str, Hyper]:
    """Every hyper-parameter of a counted baseline, likewise. Raises `HyperError`."""
    declared = hyperparameters_of(find_baseline(baseline))
    if published is not None:
        values = paper_of_counted(baseline)
        if published != PAPER or not values:
            there = PAPER if values else "nothing"
            option = "--paper" if published == PAPER else f"--paper-of {published}"
            raise HyperError(f"{option}: of {baseline} there is: {there}")
        declared = {k: dataclasses.replace(each, default=values[k]) for k, each in declared.items()}
    assigned = _assign(baseline, declared, assignments)
    hyper = {name: assigned.get(name, parameter.default) for name, parameter in declared.items()}
    _check(lambda values: find_baseline(baseline)(_one_session(2), **values), declared, hyper, assigned)
    return hyper


def build_empty(model: type[SessionEncoder], hyper: Mapping[str, Hyper], n_items: int = 2) -> SessionEncoder:
    """The model with shapes but no values: a table of any size costs nothing."""
    with torch.device("meta"), _Unfilled():
        return model.build(_one_session(n_items), **hyper)


class _Unfilled(TorchFunctionMode):
    """Nothing is drawn: it would be in vain, and on "meta" it imports PyTorch's compiler, for seconds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        of = kwargs or {}
        if func in (nn.init.normal_, Tensor.normal_, Tensor.abs_):
            return args[0] if args else of["tensor"]
        return func(*args, **of)


def paper_of_counted(baseline: str) -> Mapping[str, Hyper]:
    """What the paper of a counted baseline gives; nothing where it gives no settings."""
    values: Mapping[str, Hyper] = getattr(sys.modules[find_baseline(baseline).__module__], "PAPER", {})
    return values


def _one_session(n_items: int) -> Sessions:
    return Sessions(np.array([1, 2], np.int32), np.array([0, 2]), n_items)


def _check(
    make: Callable[[dict[str, Hyper]], object],
    declared: Mapping[str, HyperParameter],
    hyper: dict[str, Hyper],
    assigned: Mapping[str, Hyper],
) -> None:
    """Let the model say whether it takes these values. Raises `HyperError` naming the option."""

    def refusal(values: dict[str, Hyper]) -> ValueError | None:
        try:
            make(values)
        except ValueError as error:
            return error
        return None

    reason = refusal(hyper)
    if reason is None:
        return
    ours = {name: value for name, value in assigned.items() if name in declared}
    own = {name: parameter.default for name, parameter in declared.items()}
    alone = [name for name in ours if refusal({**own, name: ours[name]})]
    named = ", ".join(f"{name}={_text(ours[name])}" for name in alone or ours)
    raise HyperError(f"--set {named}: {reason}") from reason


def _text(value: Hyper) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


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
