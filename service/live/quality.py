"""Live quality: in a sample of sessions, what was shown is judged by what the visitor clicks next.

The sample is drawn by session. A shadow is scored in a part of the same sessions: it would have shown its
items where another version answered, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from service.live.snapshot import Snapshot, bucket
from service.process.metrics import (
    FEEDBACK,
    HITS,
    JUDGED,
    PLACEMENT_HITS,
    PLACEMENT_JUDGED,
    PLACEMENT_RECIPROCAL_RANKS,
    RECIPROCAL_RANKS,
    REDIS_ERRORS,
)
from service.ranking.served import ServedBundle
from service.state.link import StoreUnavailable
from service.state.store import PLACEMENT, Appended, SessionStore

TOP = 20  # items that are judged: hit rate@20, MRR@20
SAMPLE = "live quality"

OF_VERSIONS = (JUDGED, HITS, RECIPROCAL_RANKS)
OF_PLACEMENTS = (PLACEMENT_JUDGED, PLACEMENT_HITS, PLACEMENT_RECIPROCAL_RANKS)

ItemIds = Sequence[str]
AnswerBy = Callable[[ServedBundle], Awaitable[ItemIds]]


class QualityMonitor:
    """Remembers what is shown, and counts what the clicks say of it."""

    def __init__(self, store: SessionStore, share: float) -> None:
        self._store = store
        self._share = share
        self._tasks: set[asyncio.Task[None]] = set()

    def watches(self, snapshot: Snapshot, session_id: str) -> bool:
        """Whether the session belongs to the sample; then its answers have at least `TOP` items to judge."""
        share = max(self._share, snapshot.deployment.shadow_share if snapshot.shadow else 0)
        return share > 0 and bucket(session_id, SAMPLE) < share

    async def shown(
        self,
        snapshot: Snapshot,
        session_id: str,
        recommendation_id: str,
        version: str,
        item_ids: ItemIds,
        given_on: str,
        answer_by: AnswerBy,
        placement: str = "",
    ) -> None:
        """Remember an answer before it is sent: the click that follows it must find it.

        `given_on` is the session's newest item, '' if it has none: a click on that is no choice among what is
        shown. `answer_by` makes the shadow's answer to the same session, in the same `placement`.
        """
        await self._remember(session_id, recommendation_id, version, item_ids, given_on, placement=placement)
        shadow = snapshot.shadow
        if shadow is not None and bucket(session_id, SAMPLE) < snapshot.deployment.shadow_share:
            task = asyncio.create_task(
                self._score(shadow, session_id, recommendation_id, given_on, answer_by)
            )
            self._tasks.add(task)  # the loop itself holds tasks only weakly
            task.add_done_callback(self._tasks.discard)

    def count(self, appended: Appended, feedback_on: str | None) -> None:
        """Count what a stored click said; `feedback_on` is the version whose recommendation it named."""
        for of, rank in appended.judged:
            if of.startswith(PLACEMENT):
                counters, label = OF_PLACEMENTS, of.removeprefix(PLACEMENT)
            else:
                counters, label = OF_VERSIONS, of
            clicks, hits, reciprocal_ranks = counters
            clicks.labels(label).inc()
            if rank:
                hits.labels(label).inc()
                reciprocal_ranks.labels(label).inc(1 / rank)
        if feedback_on is not None and not appended.duplicate:
            FEEDBACK.labels(feedback_on).inc()

    async def _score(
        self,
        shadow: ServedBundle,
        session_id: str,
        recommendation_id: str,
        given_on: str,
        answer_by: AnswerBy,
    ) -> None:
        item_ids = await answer_by(shadow)
        await self._remember(session_id, recommendation_id, shadow.version, item_ids, given_on, beside=True)

    async def _remember(
        self,
        session_id: str,
        recommendation_id: str,
        version: str,
        item_ids: ItemIds,
        given_on: str,
        *,
        beside: bool = False,
        placement: str = "",
    ) -> None:
        try:
            await self._store.remember(
                session_id,
                recommendation_id,
                version,
                item_ids[:TOP],
                given_on=given_on,
                beside=beside,
                placement=placement,
            )
        except StoreUnavailable:  # the answer is good all the same
            REDIS_ERRORS.labels("remember").inc()
