"""Fixtures of the live loop's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis

from tests.training.shop import Shop


@pytest.fixture
def shop(artifacts: Path, redis_url: str, redis_client: Redis) -> Shop:
    """A shop whose Redis is empty, with nothing collected."""
    return Shop.at(artifacts, redis_url, redis_client)
