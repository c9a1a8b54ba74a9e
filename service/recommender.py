"""The recommender: clicks in, the next click out. Plain Python; knows nothing of HTTP.

An answer comes from the first of four stages that has one, and is filled up to k by the stages after it:

    neighbours  when no bundle knows the newest item: what other sessions with it clicked, live
    model       what the session's bundle makes of its known items
    trending    what is clicked most by everyone now
    popular     what was clicked most in training

A click may name anything, a recommendation may not: with a bundle loaded, an item that it does not know is
answered only when enough live clicks name it.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from functools import cache
from typing import Literal, NamedTuple

from service.live.follower import Live, LiveBundle, Model
from service.live.quality import TOP, LiveQuality
from service.live.trending import Trending
from service.process.metrics import CLICKS, RECOMMENDATIONS, REDIS_ERRORS
from service.process.settings import Settings
from service.ranking.batcher import Query, Ranking, Scored, scored
from service.state.link import StoreUnavailable
from service.state.store import Appended, Arrival, Click, SessionStore

DEFAULT_K = 20
MAX_K = 100
ID_SEPARATOR = "~"  # between a recommendation's version and its own id; no version holds one

Stage = Literal["neighbours", "model", "trending", "popular"]

counter_of = cache(RECOMMENDATIONS.labels)


class UnknownModel(LookupError):  # noqa: N818
    """The version asked for is not loaded here; `loaded` lists those that are."""

    def __init__(self, loaded: list[str]) -> None:
        super().__init__(f"no such version is loaded; loaded: {', '.join(loaded) or 'none'}")
        self.loaded = loaded


class UnknownItem(LookupError):  # noqa: N818
    """The item is not one of the live bundle's."""


class NoModel(LookupError):  # noqa: N818
    """No bundle is loaded, and nothing is trending either."""


class Options(NamedTuple):
    """How a recommendation is wanted."""

    k: int = DEFAULT_K
    exclude: Sequence[str] = ()
    exclude_seen: bool | None = None  # None: as deployed
    model: str | None = None  # a version; None: the live one


class Recommendation(NamedTuple):
    """An answer: its items, best first, and how it came about."""

    recommendation_id: str
    version: str | None
    stage: Stage
    reason: str
    degraded: bool  # Redis did not answer: made without the session
    ignored: list[str]  # the session's items that the bundle does not know
    encoded: list[str]  # the items that the model saw, oldest first
    items: list[Scored]


class Visit(NamedTuple):
    """What is known of the session that is to be answered; item ids, oldest click first."""

    fed: Sequence[str]  # may go into the encoder
    seen: Sequence[str]  # all that the session holds
    near: Sequence[Scored] = ()  # live co-clicks of the newest item, if no bundle knows that
    degraded: bool = False


class Recommender:
    """Answers from the session store, the live bundles and what is trending."""

    def __init__(
        self,
        store: SessionStore,
        live: LiveBundle,
        trending: Trending,
        quality: LiveQuality,
        settings: Settings,
    ) -> None:
        self._store = store
        self._live = live
        self._trending = trending
        self._quality = quality
        self._ranking = Ranking()
        self._encoder_click_types = frozenset(settings.encoder_click_types)
        self._cold_min_clicks = settings.cold_min_clicks

    async def click(self, session_id: str, click: Click, recommendation_id: str | None = None) -> Appended:
        """Store a click, and the answer that it came from. Raises `StoreUnavailable`."""
        return await self._append(self._arrival(session_id, click, recommendation_id), with_session=False)

    async def click_and_recommend(
        self, session_id: str, click: Click, k: int, recommendation_id: str | None = None
    ) -> tuple[Appended, Recommendation | None]:
        """Store a click and answer its session; None when nothing can be answered.

        Raises `StoreUnavailable`.
        """
        arrival = self._arrival(session_id, click, recommendation_id)
        appended = await self._ranking.after(self._append(arrival, with_session=True))
        try:
            return appended, await self._answer_session(session_id, appended.clicks, Options(k))
        except NoModel:  # the click counts all the same
            return appended, None

    async def click_many(
        self, clicks: Sequence[tuple[str, Click, str | None]]
    ) -> list[Appended | StoreUnavailable]:
        """Store many clicks in order, each with its own outcome."""
        arrivals = [self._arrival(*click) for click in clicks]
        outcomes = await self._store.append_many(arrivals)
        for arrival, outcome in zip(arrivals, outcomes, strict=True):
            self._count(arrival, outcome)
        return outcomes

    async def recommend(self, session_id: str, options: Options) -> Recommendation:
        """Answer a stored session. Raises `UnknownModel`, `NoModel`."""
        try:
            clicks = await self._ranking.after(self._store.read(session_id))
        except StoreUnavailable:
            REDIS_ERRORS.labels("read").inc()
            live = self._live.current
            model = _asked_for(live, options) or live.answering(session_id)
            return _counted(await self._answer(live, model, Visit((), (), degraded=True), options))
        return await self._answer_session(session_id, clicks, options)

    async def recommend_items(self, item_ids: Sequence[str], options: Options) -> Recommendation:
        """Answer a session that is not stored, oldest click first. Raises `UnknownModel`, `NoModel`."""
        live = self._live.current
        model = _asked_for(live, options) or live.answering(None)
        visit = Visit(item_ids, item_ids, await self._near(model, item_ids))
        return _counted(await self._answer(live, model, visit, options))

    def similar(self, item_id: str, k: int) -> tuple[str, list[Scored]]:
        """The champion's version, and the items nearest to one item. Raises `NoModel`, `UnknownItem`."""
        model = self._live.current.champion
        if model is None:
            raise NoModel("no model is published yet")
        if item_id not in model.bundle.index_of:
            raise UnknownItem(f"not an item of version {model.version}")
        return model.version, scored(model, *model.ranker.similar(model.bundle.index_of[item_id], k))

    def trending(self, k: int) -> list[Scored]:
        """What everyone clicks now, highest score first, without what may not be answered."""
        live = self._live.current
        return self._trending.top(k, lambda item_id: self._may_answer(live, live.champion, item_id))

    async def _answer_session(
        self, session_id: str, clicks: Sequence[Click], options: Options
    ) -> Recommendation:
        live = self._live.current
        asked_for = _asked_for(live, options)
        model = asked_for or live.answering(session_id)
        fed = [click.item_id for click in clicks if click.type in self._encoder_click_types]
        seen = [click.item_id for click in clicks]
        visit = Visit(fed, seen, await self._near(model, fed, set(seen)))
        if model is None or asked_for is not None or not self._quality.watches(live, session_id):
            return _counted(await self._answer(live, model, visit, options))

        full = options._replace(k=max(options.k, TOP))
        found = await self._answer(live, model, visit, full)

        async def answer_by(other: Model) -> list[str]:
            return [item_id for item_id, _ in (await self._answer(live, other, visit, full)).items]

        item_ids = [item_id for item_id, _ in found.items]
        await self._quality.shown(
            live, session_id, found.recommendation_id, model.version, item_ids, answer_by
        )
        return _counted(found._replace(items=found.items[: options.k]))

    async def _answer(
        self, live: Live, model: Model | None, visit: Visit, options: Options
    ) -> Recommendation:
        """Fill an answer stage by stage; it names the first that gave something. Raises `NoModel`."""
        index_of = model.bundle.index_of if model else {}
        exclude_seen = live.deployment.exclude_seen if options.exclude_seen is None else options.exclude_seen
        held = {*options.exclude, *visit.seen} if exclude_seen else {*options.exclude}
        known = [item_id for item_id in visit.fed if item_id in index_of]
        known = known[-model.ranker.max_length :] if model else []
        items: list[Scored] = []
        stages: list[Stage] = []

        def add(stage: Stage, found: Sequence[Scored]) -> None:
            if found:
                stages.append(stage)
                items.extend(found)
                if len(items) < options.k:  # else no other stage comes
                    held.update([item_id for item_id, _ in found])

        def allowed(item_id: str) -> bool:
            return item_id not in held and self._may_answer(live, model, item_id)

        if visit.near:
            add("neighbours", [entry for entry in visit.near if allowed(entry[0])][: options.k])
        if model and known and len(items) < options.k:
            excluded = {index_of[item_id] for item_id in held if item_id in index_of} if held else ()
            query = Query([index_of[item_id] for item_id in known], options.k - len(items), excluded)
            add("model", await self._ranking.rank(model, query))
        if len(items) < options.k:
            add("trending", self._trending.top(options.k - len(items), allowed))
        if model and len(items) < options.k:
            add("popular", _popular(model, options.k - len(items), held))
        if model is None and not items:
            raise NoModel("no model is published yet, and nothing is trending")

        version = model.version if model else None
        return Recommendation(
            recommendation_id=f"{version or 'none'}{ID_SEPARATOR}{secrets.token_hex(16)}",
            version=version,
            stage=stages[0] if stages else "popular",
            reason=_reason(visit, model, known, stages),
            degraded=visit.degraded,
            ignored=list(dict.fromkeys(item_id for item_id in visit.fed if item_id not in index_of)),
            encoded=known if "model" in stages else [],
            items=items,
        )

    def _may_answer(self, live: Live, model: Model | None, item_id: str) -> bool:
        if item_id in live.hidden:
            return False
        if model is None or item_id in model.bundle.index_of:
            return True
        return self._trending.clicks(item_id) >= self._cold_min_clicks

    async def _near(
        self, model: Model | None, fed: Sequence[str], own: Collection[str] = ()
    ) -> Sequence[Scored]:
        """What other sessions with the newest item clicked, if the model does not know it.

        `own` is what a stored session itself added to that: it is no news to its visitor.
        """
        if not fed or (model is not None and fed[-1] in model.bundle.index_of):
            return ()
        try:
            found = await self._store.co_clicks(fed[-1], MAX_K)
        except StoreUnavailable:
            REDIS_ERRORS.labels("co_clicks").inc()
            return ()
        others = [(item_id, sessions - (item_id in own)) for item_id, sessions in found]
        return sorted((entry for entry in others if entry[1] > 0), key=lambda entry: -entry[1])

    def _arrival(self, session_id: str, click: Click, recommendation_id: str | None) -> Arrival:
        live = self._live.current
        version: str | None = (recommendation_id or "").rpartition(ID_SEPARATOR)[0]
        if version not in live.deployment.needed:
            version = None  # what anybody may send does not name what we count
        is_cold = live.champion is None or click.item_id not in live.champion.bundle.index_of
        return Arrival(session_id, click, recommendation_id, version, is_cold)

    async def _append(self, arrival: Arrival, *, with_session: bool) -> Appended:
        try:
            appended = await self._store.append_arrival(arrival, with_session=with_session)
        except StoreUnavailable as error:
            self._count(arrival, error)
            raise
        self._count(arrival, appended)
        return appended

    def _count(self, arrival: Arrival, outcome: Appended | StoreUnavailable) -> None:
        if isinstance(outcome, StoreUnavailable):
            REDIS_ERRORS.labels("append").inc()
            CLICKS.labels("refused").inc()
        else:
            CLICKS.labels("duplicate" if outcome.duplicate else "accepted").inc()
            self._quality.count(outcome, arrival.version)


def _asked_for(live: Live, options: Options) -> Model | None:
    """The version that a request names. Raises `UnknownModel`."""
    if options.model is None:
        return None
    model = live.version(options.model)
    if model is None:
        raise UnknownModel([each.version for each in live.models.values()])
    return model


def _counted(found: Recommendation) -> Recommendation:
    counter_of(found.stage, found.version or "none").inc()
    return found


def _popular(model: Model, k: int, excluded: Collection[str]) -> list[Scored]:
    # Of the first k + m, at most m are excluded.
    candidates = (model.bundle.items[item] for item in model.visible[: k + len(excluded)].tolist())
    return [(item_id, 0.0) for item_id in candidates if item_id not in excluded][:k]


def _reason(visit: Visit, model: Model | None, known: Sequence[str], stages: Sequence[Stage]) -> str:
    if "neighbours" in stages:
        return "no bundle knows the newest item: answered by what other sessions with it clicked"
    if known:
        told = f"the model saw {len(known)} of the session's {len(visit.seen)} clicks"
        return told if "model" in stages else f"{told}, and found nothing"
    if visit.degraded:
        return "the session could not be read: Redis did not answer"
    if model is None:
        return "no model is published yet"
    if not visit.seen:
        return "the session is empty or unknown"
    if not visit.fed:
        return "the session has no click of a type that feeds the encoder"
    return f"version {model.version} knows none of the session's items"
