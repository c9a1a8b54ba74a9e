"""Finds a model by its module's name under `models/`: `gru4rec`, `niser`, …"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil

import models
from models.base import SessionEncoder


class UnknownModelError(ValueError):
    """No module under `models/` defines this model; the message lists those that do."""


def model_names() -> list[str]:
    """Every module under `models/` that defines a session encoder."""
    return sorted(name for _, name, _ in pkgutil.iter_modules(models.__path__) if _encoders(name))


def find_model(name: str) -> type[SessionEncoder]:
    """The session encoder that `models/<name>.py` defines. Raises `UnknownModelError`."""
    if not (name.isidentifier() and importlib.util.find_spec(f"models.{name}") and _encoders(name)):
        known = model_names()
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UnknownModelError(f"no model {name!r}{hint}; there are: {', '.join(known)}")
    return _encoders(name)[0]


def _encoders(name: str) -> list[type[SessionEncoder]]:
    module = importlib.import_module(f"models.{name}")
    return [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, SessionEncoder)
        and member.__module__ == module.__name__
        and hasattr(member, "recipe")
    ]
