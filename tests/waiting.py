"""Waiting for a condition, with a deadline that only a failure meets."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE_SECONDS = 60.0


def until(condition: Callable[[], bool], otherwise: Callable[[], str] = str) -> None:
    """Return once `condition` holds. Raises `AssertionError` that says `otherwise` when it never does."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.01)
