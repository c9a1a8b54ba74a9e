"""The recommender: clicks in, the next click out. Plain Python; knows nothing of HTTP.

An answer comes from the first of four stages that has one, and is filled up to k by the stages after it:

    neighbours  when no bundle knows the newest item: what other sessions with it clicked, live
    model       what the session's bundle makes of its known items
    trending    what is clicked most by everyone now
    popular     what was clicked most in training

Every stage answers only what a filter and the catalogue let through (`service.catalogue.filters`).

A click may name anything, a recommendation may not: with a bundle loaded, an item that it does not know is
answered only when enough live sessions clicked it, and only where `unknown_items` allows such items at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import NamedTuple, get_args

import numpy as np
from msgspec import Raw

from service.catalogue.placements import Placement, Prepared, StageName
from service.catalogue.rules import Rule, Session
from service.catalogue.steering import POOL, POOL_PER_K, Found, Pool, Steered, steer
from service.live.follower import DeploymentFollower
from service.live.quality import TOP, QualityMonitor
from service.live.recommendation_ids import NO_VERSION, SEPARATOR, UNREAD, new_id
from service.live.snapshot import Snapshot
from service.live.trending import Trending
from service.process.metrics import CLICKS, PLACEMENT_RECOMMENDATIONS, RECOMMENDATIONS, REDIS_ERRORS
from service.process.settings import Settings
from service.ranking.batcher import Batcher
from service.ranking.served import Query, Scored, ServedBundle
from service.state.link import SessionFull, StoreUnavailable
from service.state.store import Appended, Arrival, Click, SessionStore

DEFAULT_K = 20
MAX_K = 100

STAGES: tuple[StageName, ...] = get_args(StageName)
PLAIN = Placement()

counter_of = cache(RECOMMENDATIONS.labels)
placed_counter_of = cache(PLACEMENT_RECOMMENDATIONS.labels)


class UnknownModel(LookupError):  # noqa: N818
    """The version asked for is not loaded here; `loaded` lists those that are."""

    def __init__(self, loaded: list[str]) -> None:
        super().__init__(f"no such version is loaded; loaded: {', '.join(loaded) or 'none'}")
        self.loaded = loaded


class UnknownItem(LookupError):  # noqa: N818
    """The live bundle neither knows the item nor has made itself a picture of it."""


class NoModel(LookupError):  # noqa: N818
    """No bundle is loaded, and nothing is trending either."""


class Options(NamedTuple):
    """How a recommendation is wanted."""

    k: int = DEFAULT_K
    exclude: Sequence[str] = ()
    exclude_seen: bool | None = None  # None: as deployed
    model: str | None = None  # a version; None: the live one
    fields: tuple[str, ...] = ()  # attributes to answer with each item
    filter: Rule | None = None  # only what it lets through
    placement: Prepared | None = (
        None  # whose filter, fields and k are in these options: see `placed`, `steered`
    )


class Recommendation(NamedTuple):
    """An answer: its items, best first, and how it came about."""

    recommendation_id: str
    version: str | None
    stage: StageName
    reason: str
    degraded: bool  # Redis did not answer: made without the session
    ignored: list[str]  # the session's items that the bundle does not know
    encoded: list[str]  # the items that the model saw, oldest first
    items: list[Scored]
    parts: Sequence[tuple[StageName, int]]  # which stage gave how many of them, unless they are steered
    steered: list[Steered] | None = None  # by a placement: the items again, and what moved them
    placement: str | None = None
    fields: Sequence[Raw] = ()  # of each item a JSON object, if any were asked for

    @property
    def told(self) -> list[Steered]:
        """Each item with its stage, its score there, and what moved it."""
        if self.steered is not None:
            return self.steered
        stages = [stage for stage, count in self.parts for _ in range(count)]
        # Whoever watches the session's quality finds more items than are answered.
        return [Steered(*item, stage, ()) for item, stage in zip(self.items, stages, strict=False)]


class Visit(NamedTuple):
    """What is known of the session that is to be answered; item ids, oldest click first."""

    encoder_items: Sequence[str]  # may go into the encoder
    seen: Sequence[str]  # all that the session holds
    co_clicks: Sequence[Scored] = ()  # live co-clicks of the newest item, if no bundle knows that
    degraded: bool = False
    session_id: str = ""  # '' if it is not stored


class _Pooled(NamedTuple):
    """What the stages found for a placement to choose from, and what it may bring in besides."""

    found: Sequence[Found]
    visit: Visit
    served: ServedBundle | None  # before any rule
    known: Sequence[str]  # the session's items that the model sees
    excluded: Collection[str]
    allows: Callable[[str], bool]  # by the rule, and by what is hidden


class Recommender:
    """Answers from the session store, the live bundles and what is trending."""

    def __init__(
        self,
        store: SessionStore,
        follower: DeploymentFollower,
        trending: Trending,
        quality: QualityMonitor,
        settings: Settings,
    ) -> None:
        self._store = store
        self._follower = follower
        self._trending = trending
        self._quality = quality
        self._filters = follower.filters
        self._batcher = Batcher()
        self._encoder_click_types = frozenset(settings.encoder_click_types)
        self._cold_min_sessions = settings.cold_min_sessions
        self._unknown_items = settings.unknown_items

    def refuses(self, item_id: str) -> bool:
        """Whether a click on the item is to be refused: no bundle knows it, and such are not wanted."""
        return self._unknown_items == "refuse" and self._is_unknown(self._follower.current, item_id)

    async def click(self, session_id: str, click: Click, recommendation_id: str | None = None) -> Appended:
        """Store a click, and the answer that it came from. Raises `StoreUnavailable`."""
        return await self._append(self._arrival(session_id, click, recommendation_id), with_session=False)

    async def click_and_recommend(
        self, session_id: str, click: Click, options: Options, recommendation_id: str | None = None
    ) -> tuple[Appended, Recommendation | None]:
        """Store a click and answer its session; None when nothing can be answered.

        Raises `StoreUnavailable`.
        """
        arrival = self._arrival(session_id, click, recommendation_id)
        appended = await self._batcher.after(self._append(arrival, with_session=True))
        try:
            return appended, await self._answer_session(session_id, appended.clicks, options)
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
            clicks = await self._batcher.after(self._store.read(session_id))
        except StoreUnavailable:
            REDIS_ERRORS.labels("read").inc()
            snapshot = self._follower.current
            served = _asked_for(snapshot, options) or snapshot.answering(session_id)
            visit = Visit((), (), degraded=True, session_id=session_id)
            return self._finished(await self._answer(snapshot, served, visit, options), options)
        return await self._answer_session(session_id, clicks, options)

    async def recommend_items(self, item_ids: Sequence[str], options: Options) -> Recommendation:
        """Answer a session that is not stored, oldest click first. Raises `UnknownModel`, `NoModel`."""
        snapshot = self._follower.current
        served = _asked_for(snapshot, options) or snapshot.answering(None)
        visit = Visit(item_ids, item_ids, await self._co_clicks(served, item_ids))
        return self._finished(await self._answer(snapshot, served, visit, options), options)

    def placement(self, name: str) -> Prepared:
        """What answers are made from, by its name. Raises `UnknownPlacement`."""
        return self._follower.current.placement(name)

    async def preview(
        self,
        draft: Prepared,
        beside: str | None,
        *,
        session_id: str | None = None,
        item_ids: Sequence[str] = (),
    ) -> tuple[Recommendation, Recommendation]:
        """A session's answer under a draft, and that in a placement, or in none; nobody is told of them.

        Raises `UnknownPlacement`, `StoreUnavailable`, `NoModel`.
        """
        under = [placed(Options(k=0), draft)]
        under.append(placed(Options(k=0), self.placement(beside)) if beside is not None else Options())
        clicks = await self._store.read(session_id) if session_id is not None else ()
        snapshot = self._follower.current
        found: list[Recommendation] = []
        for options in under:
            served = _asked_for(snapshot, options) or snapshot.answering(session_id)
            if session_id is None:
                visit = Visit(item_ids, item_ids, await self._co_clicks(served, item_ids))
            else:
                visit = await self._visit(served, session_id, clicks)
            found.append(await self._answer(snapshot, served, visit, options))
        return found[0], found[1]

    def similar(self, item_id: str, options: Options) -> tuple[str, list[Scored], Sequence[Raw]]:
        """The champion's version, and the items nearest to one item, with their fields.

        Only `k`, `fields` and `filter` are read. Raises `NoModel`, `UnknownItem`.
        """
        served = self._follower.current.champion
        if served is None:
            raise NoModel("no model is published yet")
        if not served.knows(item_id):
            raise UnknownItem(f"not an item of version {served.version}")
        filtered = self._filters.asked(options.filter, (item_id,))
        if filtered is not None:
            served = filtered.served(served)
        found = served.similar(item_id, options.k)
        return served.version, found, self._fields(found, options)

    def trending(self, options: Options) -> tuple[list[Scored], Sequence[Raw]]:
        """What everyone clicks now, highest score first, with its fields, without what may not be answered.

        Only `k`, `fields` and `filter` are read.
        """
        snapshot = self._follower.current
        filtered = self._filters.asked(options.filter)

        def allowed(item_id: str) -> bool:
            if filtered is not None and not filtered.allows(item_id):
                return False
            return self._may_answer(snapshot, snapshot.champion, item_id)

        found = self._trending.top(options.k, allowed)
        return found, self._fields(found, options)

    async def _answer_session(
        self, session_id: str, clicks: Sequence[Click], options: Options
    ) -> Recommendation:
        snapshot = self._follower.current
        served = _asked_for(snapshot, options) or snapshot.answering(session_id)
        visit = await self._visit(served, session_id, clicks)
        if served is None or options.model is not None or not self._quality.watches(snapshot, session_id):
            return self._finished(await self._answer(snapshot, served, visit, options), options)

        # A placement is judged by what it shows, be that little: steering another k would show other items.
        full = options if options.placement is not None else options._replace(k=max(options.k, TOP))
        found = await self._answer(snapshot, served, visit, full, told=options.k)

        async def answer_by(other: ServedBundle) -> list[str]:
            return [item_id for item_id, _ in (await self._answer(snapshot, other, visit, full)).items]

        item_ids = [item_id for item_id, _ in found.items]
        given_on = visit.encoder_items[-1] if visit.encoder_items else ""
        await self._quality.shown(
            snapshot,
            session_id,
            found.recommendation_id,
            served.version,
            item_ids,
            given_on,
            answer_by,
            found.placement or "",
        )
        return self._finished(found._replace(items=found.items[: options.k]), options)

    async def _visit(self, served: ServedBundle | None, session_id: str, clicks: Sequence[Click]) -> Visit:
        encoder_items = [click.item_id for click in clicks if click.type in self._encoder_click_types]
        seen = [click.item_id for click in clicks]
        co_clicks = await self._co_clicks(served, encoder_items, set(encoder_items))
        return Visit(encoder_items, seen, co_clicks, session_id=session_id)

    async def _answer(
        self,
        snapshot: Snapshot,
        served: ServedBundle | None,
        visit: Visit,
        options: Options,
        *,
        told: int | None = None,
    ) -> Recommendation:
        """Fill an answer stage by stage, and let a placement steer it. Raises `NoModel`.

        It names the first stage that gave something. `told`: so many of the items are sent, if not all.
        """
        prepared = options.placement
        placement = prepared.placement if prepared is not None else PLAIN
        steers = prepared is not None and prepared.steers
        size = max(POOL, POOL_PER_K * options.k) if steers else options.k
        filtered = self._filters.asked(options.filter, visit.encoder_items)
        whole = served
        if filtered is not None and served is not None:
            served = filtered.served(served)
        exclude_seen = options.exclude_seen
        if exclude_seen is None:
            exclude_seen = placement.exclude_seen
        if exclude_seen is None:
            exclude_seen = snapshot.deployment.exclude_seen
        excluded = {*options.exclude, *visit.seen} if exclude_seen else {*options.exclude}
        refused = frozenset(excluded) if steers else ()
        clicked = visit.encoder_items
        indices = served.bundle.index_of.of(clicked) if served else [0] * len(clicked)
        known = [item_id for item_id, item in zip(clicked, indices, strict=True) if item]
        known = known[-served.ranker.max_length :] if served else []

        def allowed(item_id: str) -> bool:
            if item_id in excluded or (filtered is not None and not filtered.allows(item_id)):
                return False
            return self._may_answer(snapshot, served, item_id)

        read = [item for item in indices if item][-len(known) :] if known else []
        stages = placement.stages or STAGES
        items, parts = await self._filled(stages, size, served, visit, read, excluded, allowed)
        if served is None and not items:
            raise NoModel("no model is published yet, and nothing is trending")

        steered = None
        if prepared is not None and steers:

            def allows(item_id: str) -> bool:
                return item_id not in snapshot.hidden and (filtered is None or filtered.allows(item_id))

            found_by = _found(items, parts, is_cosine=served is not None and served.bundle.is_cosine)
            pool = _Pooled(found_by, visit, whole, known, refused, allows)
            steered = await self._steered(pool, options, prepared)
            items = [(each.item_id, each.score) for each in steered]
        version = served.version if served else None
        gave = [stage for stage, _ in parts]
        k = told or options.k
        item_ids = [item_id for item_id, _ in items[:k]]
        return Recommendation(
            recommendation_id=new_id(
                version or NO_VERSION,
                visit.session_id,
                UNREAD if visit.degraded else visit.seen,
                k,
                exclude_seen,
                item_ids,
            ),
            version=version,
            stage=gave[0] if gave else "popular",
            reason=_reason(visit, served, known, gave),
            degraded=visit.degraded,
            ignored=list(
                dict.fromkeys(item_id for item_id, item in zip(clicked, indices, strict=True) if not item)
            ),
            encoded=known if "model" in gave else [],
            items=items,
            parts=parts,
            steered=steered,
            placement=(prepared.name or None) if prepared is not None else None,
        )

    async def _filled(
        self,
        stages: Sequence[StageName],
        size: int,
        served: ServedBundle | None,
        visit: Visit,
        read: Sequence[int],
        excluded: set[str],
        allowed: Callable[[str], bool],
    ) -> tuple[list[Scored], list[tuple[StageName, int]]]:
        """Up to `size` items of the stages, in their order, and how many each gave that gave any.

        `read` are the clicks that the bundle knows. Items are `excluded`, too, once they are found.
        """
        items: list[Scored] = []
        parts: list[tuple[StageName, int]] = []
        for stage in stages:
            room = size - len(items)
            if not room:
                break
            found: Sequence[Scored] = ()
            if stage == "neighbours":
                if visit.co_clicks:
                    found = [entry for entry in visit.co_clicks if allowed(entry[0])][:room]
            elif stage == "model":
                if served and read:
                    left_out = served.indices(excluded) if excluded else ()
                    found = await self._batcher.rank(served, Query(read, room, left_out))
            elif stage == "trending":
                found = self._trending.top(room, allowed)
            elif served:
                found = served.popular(room, excluded)
            if found:
                parts.append((stage, len(found)))
                items.extend(found)
                if len(found) < room:  # else no other stage comes
                    excluded.update([item_id for item_id, _ in found])
        return items, parts

    async def _steered(self, pool: _Pooled, options: Options, prepared: Prepared) -> list[Steered]:
        """The answer that a placement makes of a pool, and of what it brings in from beside it."""
        columns = self._filters.columns
        session = Session.of(pool.visit.encoder_items, columns) if prepared.is_relative else Session()
        steering = prepared.steering(session, columns)
        beside: list[Found] = []
        present = {item_id for part in pool.found for item_id, _ in part.items}
        if steering.pins:
            # Not asked whether enough sessions clicked it: who pins an item means it.
            pins = [
                pin.item_id
                for pin in steering.pins
                if pin.item_id not in present
                and pin.item_id not in pool.excluded
                and pool.allows(pin.item_id)
            ]
            beside.append(Found("pinned", [(item_id, 0.0) for item_id in pins]))
            present.update(pins)
        if steering.promotions:
            in_pool = [item_id for part in pool.found for item_id, _ in part.items]
            rows = np.array(columns.rows(in_pool), dtype=np.int64)
            for number, promotion in enumerate(steering.promotions):
                missing = promotion.needed(options.k) - int(promotion.matches(rows).sum())
                if missing > 0:
                    rule = prepared.both(options.filter, prepared.promotions[number].rule)
                    for part in await self._more(pool, rule, missing, present):
                        beside.append(part)
                        present.update(item_id for item_id, _ in part.items)
        whole = Pool(pool.found, beside)
        rows = np.array(columns.rows(whole.item_ids), dtype=np.int64)
        vectors = None
        if steering.mmr is not None and pool.served is not None:
            vectors = pool.served.vectors_of(whole.item_ids)
        return steer(whole, steering, options.k, rows, vectors)

    async def _more(self, pool: _Pooled, rule: Rule, k: int, present: Collection[str]) -> list[Found]:
        """The k best items of a bundle that a rule lets through, beside those that are there."""
        if pool.served is None:
            return []
        filtered = self._filters.asked(rule, pool.visit.encoder_items)
        served = filtered.served(pool.served) if filtered is not None else pool.served
        excluded = {*pool.excluded, *present}
        more: list[Found] = []
        if pool.known:
            items = served.bundle.index_of.of(pool.known)
            query = Query(items, k, served.indices(excluded))
            found = await self._batcher.rank(served, query)
            more.append(Found("model", found))
            excluded.update(item_id for item_id, _ in found)
            k -= len(found)
        if k > 0:
            more.append(Found("popular", served.popular(k, excluded)))
        return more

    def _finished(self, found: Recommendation, options: Options) -> Recommendation:
        counter_of(found.stage, found.version or "none").inc()
        if found.placement is not None:
            placed_counter_of(found.placement, found.stage).inc()
        return found._replace(fields=self._fields(found.items, options)) if options.fields else found

    def _fields(self, found: Sequence[Scored], options: Options) -> Sequence[Raw]:
        if not options.fields:
            return ()
        return self._filters.values([item_id for item_id, _ in found], options.fields)

    def _may_answer(self, snapshot: Snapshot, served: ServedBundle | None, item_id: str) -> bool:
        if item_id in snapshot.hidden:
            return False
        if served is None or item_id in served.bundle.index_of:
            return True
        if self._unknown_items != "allow" and self._is_unknown(snapshot, item_id):
            return False
        return self._trending.sessions(item_id) >= self._cold_min_sessions

    async def _co_clicks(
        self, served: ServedBundle | None, encoder_items: Sequence[str], own: Collection[str] = ()
    ) -> Sequence[Scored]:
        """What other sessions with the newest item clicked, if the model does not know it.

        `own` is what a stored session itself added to that: it is no news to its visitor.
        """
        if not encoder_items or (served is not None and encoder_items[-1] in served.bundle.index_of):
            return ()
        try:
            found = await self._store.co_clicks(encoder_items[-1], MAX_K)
        except StoreUnavailable:
            REDIS_ERRORS.labels("co_clicks").inc()
            return ()
        others = [(item_id, sessions - (item_id in own)) for item_id, sessions in found]
        return sorted((entry for entry in others if entry[1] > 0), key=lambda entry: -entry[1])

    def _arrival(self, session_id: str, click: Click, recommendation_id: str | None) -> Arrival:
        snapshot = self._follower.current
        version: str | None = (recommendation_id or "").rpartition(SEPARATOR)[0]
        if version not in snapshot.deployment.needed:
            version = None  # what anybody may send does not name what we count
        is_cold = snapshot.champion is None or click.item_id not in snapshot.champion.bundle.index_of
        is_ignored = is_cold and self._unknown_items != "allow" and self._is_unknown(snapshot, click.item_id)
        return Arrival(session_id, click, recommendation_id, version, is_cold, is_ignored)

    def _is_unknown(self, snapshot: Snapshot, item_id: str) -> bool:
        """Whether there are bundles, and none of them knows the item."""
        bundles = snapshot.bundles.values()
        return bool(bundles) and not any(served.knows(item_id) for served in bundles)

    async def _append(self, arrival: Arrival, *, with_session: bool) -> Appended:
        try:
            appended = await self._store.append_arrival(arrival, with_session=with_session)
        except StoreUnavailable as error:
            self._count(arrival, error)
            raise
        self._count(arrival, appended)
        return appended

    def _count(self, arrival: Arrival, outcome: Appended | StoreUnavailable) -> None:
        if isinstance(outcome, SessionFull):
            CLICKS.labels("limited").inc()
        elif isinstance(outcome, StoreUnavailable):
            REDIS_ERRORS.labels("append").inc()
            CLICKS.labels("refused").inc()
        else:
            CLICKS.labels("duplicate" if outcome.duplicate else "accepted").inc()
            self._quality.count(outcome, arrival.version)


def _asked_for(snapshot: Snapshot, options: Options) -> ServedBundle | None:
    """The version that a request names, or its placement. Raises `UnknownModel`.

    A placement's is no longer there, or not yet: then whoever answers without it.
    """
    if options.model is None:
        wanted = options.placement.placement.model if options.placement is not None else None
        return snapshot.version(wanted) if wanted is not None else None
    served = snapshot.version(options.model)
    if served is None:
        raise UnknownModel([each.version for each in snapshot.bundles.values()])
    return served


def placed(options: Options, prepared: Prepared) -> Options:
    """What a placement says where the request says nothing (`k` 0); both of their filters hold."""
    placement, own = prepared.placement, prepared.filter
    return options._replace(
        k=options.k or placement.k or DEFAULT_K,
        fields=options.fields or placement.fields or (),
        filter=options.filter if own is None else prepared.both(options.filter, own),
        placement=prepared,
    )


def steered(options: Options, own: Prepared) -> Options:
    """What a request itself says of steering goes before what its placement says of the same."""
    placement = options.placement
    return options._replace(placement=own if placement is None else placement.steered_by(own))


def _found(
    items: Sequence[Scored], parts: Sequence[tuple[StageName, int]], *, is_cosine: bool
) -> list[Found]:
    """The items again, by the stage that found them."""
    found, start = [], 0
    for stage, count in parts:
        found.append(Found(stage, items[start : start + count], is_cosine and stage == "model"))
        start += count
    return found


def _reason(
    visit: Visit, served: ServedBundle | None, known: Sequence[str], stages: Sequence[StageName]
) -> str:
    if "neighbours" in stages:
        return "no bundle knows the newest item: answered by what other sessions with it clicked"
    if known:
        reason = f"the model saw {len(known)} of the session's {len(visit.seen)} clicks"
        return reason if "model" in stages else f"{reason}, and found nothing"
    if visit.degraded:
        return "the session could not be read: Redis did not answer"
    if served is None:
        return "no model is published yet"
    if not visit.seen:
        return "the session is empty or unknown"
    if not visit.encoder_items:
        return "the session has no click of a type that feeds the encoder"
    return f"version {served.version} knows none of the session's items"
