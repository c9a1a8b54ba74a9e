"""What every benchmark of a real service needs here: a Redis that may be slow."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def patience_with_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine answers would else be made without the session, which the load generator refuses."""
    monkeypatch.setenv("NEXTCLICK_REDIS_TIMEOUT_SECONDS", "60")
