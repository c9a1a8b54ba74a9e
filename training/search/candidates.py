"""`--model auto`: the models that are tried, in order of cost, and the settings that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from models.base import Hyper, Recipe
from service.live.deployment import bundle_path, read_deployment
from service.ranking.bundle import BundleError, read_manifest
from service.ranking.neighbours import NEIGHBOURS
from training.learn.hyper import HyperError, fit_to_catalogue, resolve, resolve_counted
from training.learn.registry import find_model, model_names

CANDIDATES = ("vmis_knn", "gru", "niser", "core")  # the cheapest first
UNJUDGED = "niser"  # what is taken where there is nothing to judge by

Resolved = tuple[Recipe | None, dict[str, Hyper]]  # no recipe: it is counted


def candidates(
    artifacts: Path, assignments: Sequence[str], tell: Callable[[str], object]
) -> dict[str, Resolved]:
    """The usual ones, and last the model that is live, if it is another and can be trained so.

    Raises `DeploymentError`, `HyperError`.
    """
    found = shared_settings(CANDIDATES, assignments)
    champion = read_deployment(artifacts).champion
    if champion is not None:
        try:
            live = read_manifest(bundle_path(artifacts, champion)).model
            if live not in found:
                found |= _live(live, assignments)
        except (BundleError, HyperError) as error:
            tell(f"the live model is no candidate: {error}")
    return found


def _live(model: str, assignments: Sequence[str]) -> dict[str, Resolved]:
    if model not in NEIGHBOURS and model not in model_names():
        raise HyperError(f"a {model} is not trained by itself")
    return shared_settings([model], assignments)


def shared_settings(models: Sequence[str], assignments: Sequence[str]) -> dict[str, Resolved]:
    """Recipe and hyper-parameters of each model, by name; `--set` assignments are for all that are trained.

    Raises `HyperError` when one of these has no such setting.
    """
    found: dict[str, Resolved] = {}
    for name in models:
        if name in NEIGHBOURS:
            found[name] = None, resolve_counted(name, [])
            continue
        try:
            found[name] = resolve(find_model(name), assignments)
        except HyperError as error:
            if len(models) == 1:
                raise
            raise HyperError(f"{error}; of several models all that are trained must have it") from error
    return found


def fitted_to_catalogue(
    settings: Mapping[str, Resolved], n_items: int, assignments: Sequence[str], tell: Callable[[str], object]
) -> dict[str, Resolved]:
    """The same for so many items; which full softmax is sampled is told."""
    found: dict[str, Resolved] = {}
    for name, (recipe, hyper) in settings.items():
        if recipe is not None:
            recipe, reason = fit_to_catalogue(recipe, n_items, assignments)
            if reason is not None:
                tell(f"{name}: {reason}")
        found[name] = recipe, hyper
    return found
