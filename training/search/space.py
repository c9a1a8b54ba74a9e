"""`--search NAME=LOW..HIGH` or `NAME=A|B`: what a search may vary, checked and typed as `--set` does it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from models.base import Hyper, SessionEncoder
from training.learn.hyper import HyperError, resolve
from training.learn.registry import name_of

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
Space = dict[str, Distribution]

LOGARITHMIC = ("lr", "weight_decay")
WIDE = 100  # a range whose ends lie this many times apart is searched by its logarithm, whatever it is of


def settings(model: type[SessionEncoder], assignments: Sequence[str]) -> dict[str, Hyper]:
    """Every recipe field and hyper-parameter by name. Raises `HyperError`."""
    recipe, hyper = resolve(model, assignments)
    return {**dataclasses.asdict(recipe), **hyper}


def assignments(parameters: Mapping[str, Hyper]) -> list[str]:
    """The parameters as `--set` takes them, to the last digit."""
    texts = {n: str(v).lower() if isinstance(v, bool) else str(v) for n, v in parameters.items()}
    return [f"{name}={text}" for name, text in texts.items()]


def search_space(model: type[SessionEncoder], fixed: Sequence[str], searches: Sequence[str]) -> Space:
    """The space of `searches`, beside the `fixed` assignments; without any, the model's usual one.

    All combinations of ends and categories are tried on the model: each alone may need another beside it.

    Raises `HyperError` that names the option at fault.
    """
    settings(model, fixed)  # what is wrong here is wrong with --set
    texts: dict[str, list[str]] = {}
    ranges: set[str] = set()
    for search in searches or _usual(model, fixed):
        name, equals, text = search.partition("=")
        low, dots, high = text.partition("..")
        if not equals or not (dots or "|" in text):
            raise HyperError(f"--search {search}: expected NAME=LOW..HIGH or NAME=A|B")
        if name in texts:
            raise HyperError(f"--search {search}: {name} is searched already")
        if name in _names(fixed):
            raise HyperError(f"--search {search}: --set has fixed {name}")
        texts[name] = text.split("|") if "|" in text else [low, high]
        if "|" not in text:
            ranges.add(name)
    if not texts:
        raise HyperError(
            f"--search: {name_of(model)} has nothing usual left to search: name a hyper-parameter"
        )

    values: dict[str, dict[str, Hyper]] = {name: {} for name in texts}  # by their texts
    for combination in itertools.product(*texts.values()):
        named = dict(zip(texts, combination, strict=True))
        try:
            typed = settings(model, [*fixed, *assignments(named)])
        except HyperError as error:
            raise HyperError("--search" + str(error).removeprefix("--set")) from error
        for name, text in named.items():
            values[name][text] = typed[name]
    return {
        name: _range(name, *(values[name][text] for text in texts[name]))
        if name in ranges
        else _categories(name, [values[name][text] for text in texts[name]])
        for name in texts
    }


def own_parameters(
    model: type[SessionEncoder], fixed: Sequence[str], space: Space
) -> dict[str, Hyper] | None:
    """The model's own value of everything searched; None when one of them lies outside the space."""
    own = settings(model, fixed)
    inside = all(
        own[name] in distribution.choices
        if isinstance(distribution, CategoricalDistribution)
        else distribution.low <= float(own[name]) <= distribution.high
        for name, distribution in space.items()
    )
    return {name: own[name] for name in space} if inside else None


def _usual(model: type[SessionEncoder], fixed: Sequence[str]) -> list[str]:
    lr = model.recipe.lr
    usual = [f"lr={lr / 3:.3g}..{lr * 3:.3g}"]
    usual += [f"{name}=0..0.6" for name in model.hyperparameters() if name.startswith("dropout")]
    return [search for search in usual if search.partition("=")[0] not in _names(fixed)]


def _names(assignments: Sequence[str]) -> set[str]:
    return {assignment.partition("=")[0] for assignment in assignments}


def _range(name: str, low: Hyper, high: Hyper) -> Distribution:
    if isinstance(low, bool | str) or isinstance(high, bool | str):
        raise HyperError(f"--search {name}: a range is of numbers; give the values as {name}=A|B")
    if low >= high:
        raise HyperError(f"--search {name}={low}..{high}: {low} is not below {high}")
    log = low > 0 and (name in LOGARITHMIC or high / low >= WIDE)
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _categories(name: str, values: list[Hyper]) -> Distribution:
    if len(set(values)) < len(values):
        raise HyperError(f"--search {name}: a value is given twice")
    return CategoricalDistribution(values)
