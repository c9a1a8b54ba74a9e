"""How full the click log is and how far its collector is behind, told to the metrics."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from service.process.append_only import damaged
from service.process.metrics import (
    LOG_ENTRIES,
    LOG_FILL,
    LOG_LAG_SECONDS,
    LOG_UNCOLLECTED,
    REDIS_DAMAGED,
    REDIS_ERRORS,
)
from service.state.link import StoreUnavailable
from service.state.store import SessionStore

log = structlog.get_logger()


async def follow_click_log(store: SessionStore, refresh_seconds: float, redis_data: Path) -> None:
    """Measure it again and again; raises nothing. `redis_data`: where the private Redis has its files."""
    while True:
        await asyncio.sleep(refresh_seconds)
        REDIS_DAMAGED.set(len(damaged(redis_data)))
        try:
            state = await store.click_log()
        except StoreUnavailable as error:
            REDIS_ERRORS.labels("click_log").inc()
            log.warning("redis unavailable: the click log is not measured", reason=str(error))
        else:
            LOG_ENTRIES.set(state.entries)
            LOG_FILL.set(state.fill_ratio)
            LOG_UNCOLLECTED.set(state.uncollected)
            LOG_LAG_SECONDS.set(state.lag_seconds)
