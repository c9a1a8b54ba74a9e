"""Tells running workers at once that deployment.json was changed; they look every second anyway."""

from __future__ import annotations

from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from service.process.embedded_redis import running_redis_url
from service.process.settings import Settings, load_settings
from service.state import keys

TIMEOUT_SECONDS = 2.0


def settings_for(artifacts: Path) -> Settings:
    """The service's settings, over these artifacts. Raises `SettingsError`."""
    return load_settings().model_copy(update={"artifacts_dir": artifacts})


def announce(settings: Settings, version: str) -> bool:
    """Whether Redis took the message that `version` is deployed; False when none answers."""
    url = running_redis_url(settings)
    if url is None:
        return False
    once = Retry(NoBackoff(), 0)
    try:
        with Redis.from_url(
            url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS, retry=once
        ) as client:
            client.publish(keys.DEPLOYMENT_CHANNEL, version)
    except RedisError:
        return False
    return True
