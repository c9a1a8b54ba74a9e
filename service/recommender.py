"""The recommender: clicks in, the next click out. Plain Python; knows nothing of HTTP.

An answer comes from the first of three stages that has one, and is filled up to k by the stages after it:

    model     what the live bundle makes of the session's known items
    trending  what is clicked most by everyone now (this worker's copy, so it outlives Redis)
    popular   what was clicked most in training

With a bundle loaded, only its items are ever answered: a click may name anything, a recommendation may not.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

import structlog

from service.live import LiveBundle, Model
from service.metrics import CLICKS, RECOMMENDATIONS, REDIS_ERRORS
from service.redis_link import StoreUnavailable
from service.retriever import Items, Scores
from service.store import Appended, Click, SessionStore

DEFAULT_K = 20
TRENDING_KEPT = 1000  # what remains of it after hidden, unknown and excluded items should fill an answer

Stage = Literal["model", "trending", "popular"]
Scored = tuple[str, float]

log = structlog.get_logger()


class UnknownModel(LookupError):  # noqa: N818
    """The version asked for is not loaded here; `loaded` lists those that are."""

    def __init__(self, loaded: list[str]) -> None:
        super().__init__(f"no such version is loaded; loaded: {', '.join(loaded) or 'none'}")
        self.loaded = loaded


class UnknownItem(LookupError):  # noqa: N818
    """The item is not one of the live bundle's."""


class NoModel(LookupError):  # noqa: N818
    """No bundle is loaded, and nothing is trending either."""


@dataclass(frozen=True)
class Options:
    """How a recommendation is wanted."""

    k: int = DEFAULT_K
    exclude: Sequence[str] = ()
    exclude_seen: bool | None = None  # None: as deployed
    model: str | None = None  # a version; None: the live one


@dataclass(frozen=True)
class Recommendation:
    """An answer: its items, best first, and how it came about."""

    recommendation_id: str
    version: str | None
    stage: Stage
    reason: str
    degraded: bool  # Redis did not answer: made without the session
    ignored: list[str]  # the session's items that the bundle does not know
    encoded: list[str]  # the items that the model saw, oldest first
    items: list[Scored]


class Query(NamedTuple):
    """One session for the model: item indices, oldest first; how many items to find, and which not."""

    items: Sequence[int]
    k: int
    excluded: Collection[int]


def rank(model: Model, queries: Sequence[Query]) -> list[list[Scored]]:
    """Each query's best items, all queries at once; fewer than k only by a bundle of neighbours."""
    found = model.ranker.rank(
        [query.items for query in queries],
        [query.k for query in queries],
        [query.excluded for query in queries],
    )
    return [_scored(model, scores, items) for scores, items in found]


class Recommender:
    """Answers from the session store, the live bundle and this worker's copy of what is trending."""

    def __init__(self, store: SessionStore, live: LiveBundle, encoder_click_types: Collection[str]) -> None:
        self._store = store
        self._live = live
        self._encoder_click_types = frozenset(encoder_click_types)
        self._trending: list[Scored] = []

    async def click(self, session_id: str, click: Click) -> Appended:
        """Store a click. Raises `StoreUnavailable`."""
        return await self._append(session_id, click, with_session=False)

    async def click_and_recommend(
        self, session_id: str, click: Click, k: int
    ) -> tuple[Appended, Recommendation | None]:
        """Store a click and answer its session, in one call to Redis; None when nothing can be answered.

        Raises `StoreUnavailable`.
        """
        appended = await self._append(session_id, click, with_session=True)
        try:
            return appended, self._answer_clicks(appended.clicks, Options(k))
        except NoModel:  # the click counts all the same
            return appended, None

    async def click_many(self, clicks: Sequence[tuple[str, Click]]) -> list[Appended | StoreUnavailable]:
        """Store many clicks in order, each with its own outcome."""
        outcomes = await self._store.append_many(clicks)
        for outcome in outcomes:
            _count(outcome)
        return outcomes

    async def recommend(self, session_id: str, options: Options) -> Recommendation:
        """Answer a stored session. Raises `UnknownModel`, `NoModel`."""
        try:
            clicks = await self._store.read(session_id)
        except StoreUnavailable:
            REDIS_ERRORS.labels("read").inc()
            return self._answer((), (), options, degraded=True)
        return self._answer_clicks(clicks, options)

    def recommend_items(self, item_ids: Sequence[str], options: Options) -> Recommendation:
        """Answer a session that is not stored, oldest click first. Raises `UnknownModel`, `NoModel`."""
        return self._answer(item_ids, item_ids, options)

    def similar(self, item_id: str, k: int) -> tuple[str, list[Scored]]:
        """The live version, and the items nearest to one item. Raises `NoModel`, `UnknownItem`."""
        model = self._live.current.model
        if model is None:
            raise NoModel("no model is published yet")
        if item_id not in model.bundle.index_of:
            raise UnknownItem(f"not an item of version {model.version}")
        return model.version, _scored(model, *model.ranker.similar(model.bundle.index_of[item_id], k))

    def trending(self, k: int, excluded: Collection[str] = ()) -> list[Scored]:
        """What everyone clicks now, highest score first, without what is hidden or not in the bundle."""
        live = self._live.current
        known = live.model.bundle.index_of if live.model else None
        allowed = (
            entry
            for entry in self._trending
            if entry[0] not in live.hidden
            and entry[0] not in excluded
            and (known is None or entry[0] in known)
        )
        return list(islice(allowed, k))

    async def refresh_trending(self) -> None:
        """Copy what is trending from Redis. Raises `StoreUnavailable`, and keeps the copy at hand."""
        found = await self._store.trending(TRENDING_KEPT)
        self._trending = [(item_id, round(score, 6)) for item_id, score in found]

    async def follow_trending(self, refresh_seconds: float) -> None:
        """Copy what is trending from Redis again and again; while Redis is down the last copy serves on."""
        while True:
            await asyncio.sleep(refresh_seconds)
            try:
                await self.refresh_trending()
            except StoreUnavailable as error:
                REDIS_ERRORS.labels("trending").inc()
                log.warning("redis unavailable: sessions are not read, clicks are refused", reason=str(error))

    async def _append(self, session_id: str, click: Click, *, with_session: bool) -> Appended:
        try:
            appended = await self._store.append(session_id, click, with_session=with_session)
        except StoreUnavailable as error:
            _count(error)
            raise
        _count(appended)
        return appended

    def _answer_clicks(self, clicks: Sequence[Click], options: Options) -> Recommendation:
        fed = [click.item_id for click in clicks if click.type in self._encoder_click_types]
        return self._answer(fed, [click.item_id for click in clicks], options)

    def _answer(
        self, fed: Sequence[str], seen: Sequence[str], options: Options, *, degraded: bool = False
    ) -> Recommendation:
        """`fed` may go into the encoder, oldest first; `seen` is all that the session holds."""
        live = self._live.current
        model = live.model
        loaded = [model.version] if model else []
        if options.model is not None and options.model not in loaded:
            raise UnknownModel(loaded)
        index_of = model.bundle.index_of if model else {}
        exclude_seen = live.deployment.exclude_seen if options.exclude_seen is None else options.exclude_seen
        excluded = {*options.exclude, *seen} if exclude_seen else {*options.exclude}
        known = [item_id for item_id in fed if item_id in index_of]

        stage: Stage = "model"
        items: list[Scored] = []
        if model and known:
            known = known[-model.ranker.max_length :]
            reason = f"the model saw {len(known)} of the session's {len(seen)} clicks"
            query = Query(
                [index_of[item_id] for item_id in known],
                options.k,
                {index_of[item_id] for item_id in excluded if item_id in index_of},
            )
            (items,) = rank(model, [query])
            reason += "" if items else ", and found nothing"
        else:
            reason = _why_no_model(seen, fed, model, degraded)
        if len(items) < options.k:
            held = len(items)
            items += self.trending(options.k - held, excluded.union(item_id for item_id, _ in items))
            if not held:
                stage = "trending" if items else "popular"
            if model:
                items += _popular(
                    model, options.k - len(items), excluded.union(item_id for item_id, _ in items)
                )
            elif not items:
                raise NoModel("no model is published yet, and nothing is trending")

        RECOMMENDATIONS.labels(stage, model.version if model else "none").inc()
        return Recommendation(
            recommendation_id=uuid.uuid4().hex,
            version=model.version if model else None,
            stage=stage,
            reason=reason,
            degraded=degraded,
            ignored=list(dict.fromkeys(item_id for item_id in fed if item_id not in index_of)),
            encoded=known,
            items=items,
        )


def _popular(model: Model, k: int, excluded: Collection[str]) -> list[Scored]:
    # Of the first k + m, at most m are excluded.
    candidates = (model.bundle.items[item] for item in model.visible[: k + len(excluded)].tolist())
    return [(item_id, 0.0) for item_id in candidates if item_id not in excluded][:k]


def _scored(model: Model, scores: Scores, items: Items) -> list[Scored]:
    names = model.bundle.items
    return [
        (names[item], round(score, 6)) for score, item in zip(scores.tolist(), items.tolist(), strict=True)
    ]


def _why_no_model(seen: Sequence[str], fed: Sequence[str], model: Model | None, degraded: bool) -> str:
    if degraded:
        return "the session could not be read: Redis did not answer"
    if model is None:
        return "no model is published yet"
    if not seen:
        return "the session is empty or unknown"
    if not fed:
        return "the session has no click of a type that feeds the encoder"
    return f"version {model.version} knows none of the session's items"


def _count(outcome: Appended | StoreUnavailable) -> None:
    if isinstance(outcome, StoreUnavailable):
        REDIS_ERRORS.labels("append").inc()
        CLICKS.labels("refused").inc()
    else:
        CLICKS.labels("duplicate" if outcome.duplicate else "accepted").inc()
