"""Finds models (`models/niser.py`: `niser`) and counted baselines (`baselines/stan.py`: `stan`) by name."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable

import models
from models.base import SessionEncoder
from training import baselines
from training.baselines.counting import Counted


class UnknownModelError(ValueError):
    """No module defines this model or baseline; the message lists those that do."""


def model_names() -> list[str]:
    """Every module under `models/` that defines a session encoder."""
    return sorted(name for _, name, _ in pkgutil.iter_modules(models.__path__) if _encoders(name))


def baseline_names() -> list[str]:
    """Every module under `baselines/` that counts one."""
    found = (name for _, name, _ in pkgutil.iter_modules(baselines.__path__))
    return sorted(
        name for name in found if hasattr(importlib.import_module(f"{baselines.__name__}.{name}"), "fit")
    )


def find_baseline(name: str) -> Callable[..., Counted]:
    """The `fit` of `baselines/<name>.py`: training sessions and hyper-parameters in, the baseline out."""
    counting: Callable[..., Counted] = importlib.import_module(f"{baselines.__name__}.{name}").fit
    return counting


def find_model(name: str) -> type[SessionEncoder]:
    """The session encoder that `models/<name>.py` defines. Raises `UnknownModelError`."""
    if not (name.isidentifier() and importlib.util.find_spec(f"models.{name}") and _encoders(name)):
        known = [*model_names(), *baseline_names()]
        closest = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {closest[0]}?)" if closest else ""
        raise UnknownModelError(f"no model {name!r}{hint}; there are: {', '.join(known)}")
    return _encoders(name)[0]


def name_of(model: type[SessionEncoder]) -> str:
    """What a session encoder is called by whoever types it."""
    return model.__module__.rpartition(".")[2]


def _encoders(name: str) -> list[type[SessionEncoder]]:
    module = importlib.import_module(f"models.{name}")
    return [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, SessionEncoder)
        and member.__module__ == module.__name__
        and hasattr(member, "recipe")
    ]
