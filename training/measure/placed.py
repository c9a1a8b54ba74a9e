"""Offline metrics under a placement: every answer is made by the service's own recommender.

What lives only in the shop is not there: nothing is trending, and no other session has clicked anything. The
catalogue is that of one moment, and not that of each click.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import cast

import numpy as np

from models.sessions import Sessions
from service.catalogue.filters import Filters
from service.catalogue.placements import Prepared
from service.live.deployment import Deployment
from service.live.follower import DeploymentFollower
from service.live.quality import QualityMonitor
from service.live.snapshot import Snapshot
from service.live.trending import Trending
from service.process.settings import Settings
from service.ranking.bundle import Bundle
from service.ranking.served import ServedBundle
from service.recommender import Options, Recommender, placed
from service.state.store import SessionStore
from training.data.dataset import Dataset, DatasetError
from training.measure.metrics import MISSED, Ranks, ranking_metrics

AT_ONCE = 64  # answers, which are ranked together

Case = tuple[Sequence[str], str]  # what was clicked, oldest first, and what came next; '' is unknown


class _NobodyElse:
    """The store of a shop that nobody visits but the session that is in the request."""

    async def co_clicks(self, item_id: str, limit: int) -> list[tuple[str, float]]:
        return []


@dataclass(frozen=True)
class PlacedEvaluation:
    """How a placement's answers did; percent, by the position of the next click among the items answered."""

    metrics: dict[str, float]
    items_answered: float  # in the mean
    ranks: Ranks  # (cases,)


def evaluate_placed(
    bundle: Bundle, data: Dataset, sessions: Sessions, filters: Filters, prepared: Prepared
) -> PlacedEvaluation:
    """Measure a bundle on every proper prefix of every session, as it answers in a placement.

    `filters` hold the catalogue. Raises `DatasetError` when there is no case.
    """
    recommender = _recommender(bundle, filters)
    options = placed(Options(k=0), prepared)
    ranks: list[int] = []
    answered = 0

    async def measure() -> None:
        nonlocal answered
        cases = _cases(data, sessions)
        while some := list(islice(cases, AT_ONCE)):
            answers = await asyncio.gather(
                *(recommender.recommend_items(clicks, options) for clicks, _ in some)
            )
            for (_, target), answer in zip(some, answers, strict=True):
                item_ids = [item_id for item_id, _ in answer.items]
                answered += len(item_ids)
                ranks.append(item_ids.index(target) + 1 if target in item_ids else MISSED)

    asyncio.run(measure())
    if not ranks:
        raise DatasetError(f"{data.path}: no session to measure on has a second click")
    as_array = np.array(ranks, dtype=np.int64)
    return PlacedEvaluation(ranking_metrics(as_array), answered / len(ranks), as_array)


def _recommender(bundle: Bundle, filters: Filters) -> Recommender:
    """The service's, with one bundle that is live, whatever else a placement names."""
    store, settings = cast("SessionStore", _NobodyElse()), Settings()
    follower = DeploymentFollower(bundle.path, 0.0, filters=filters)
    version = bundle.manifest.version
    follower.current = Snapshot(Deployment(champion=version), champion=ServedBundle.of(bundle))
    return Recommender(store, follower, Trending(store), QualityMonitor(store, 0.0), settings)


def _cases(data: Dataset, sessions: Sessions) -> Iterator[Case]:
    names = ["", *data.items]
    for number in range(len(sessions)):
        start, stop = sessions.offsets[number], sessions.offsets[number + 1]
        clicked = [names[item] for item in sessions.items[start:stop].tolist()]
        for place in range(1, len(clicked)):
            # An item that is in no vocabulary is no click that a shop could name.
            yield [item_id for item_id in clicked[:place] if item_id], clicked[place]
