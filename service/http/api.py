"""What a shop calls: clicks, recommendations, sessions. Only translates between HTTP and the recommender."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, get_args

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType
from starlette.responses import Response

from service.catalogue.asked import Asked
from service.catalogue.attributes import Schema
from service.catalogue.rules import Rule
from service.http.operations import decode, operation
from service.http.problems import RETRY_AFTER, Problem, invalid_input, outcome
from service.http.schemas import (
    MAX_BATCH,
    BatchAnswer,
    BatchClickBody,
    CatalogueQuery,
    ClickAnswer,
    ClickBody,
    ClickQuery,
    EventStatus,
    ExplainedItem,
    Explanation,
    ItemPath,
    ItemsAnswer,
    KQuery,
    RecommendationAnswer,
    RecommendBody,
    RecommendQuery,
    ScoredItem,
    SessionAnswer,
    SessionPath,
    SimilarAnswer,
    StoredClick,
)
from service.process.settings import Caller, Settings
from service.ranking.served import Scored
from service.recommender import DEFAULT_K, Options, Recommendation, Recommender, placed
from service.state.link import SessionFull, StoreUnavailable
from service.state.store import Click, SessionStore

# Each is decoded by itself, so that one that is refused does not hold up the others.
BatchClick = Annotated[Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/BatchClickBody"})]

_is_random = re.compile(r"[A-Za-z0-9_-]{22,}").fullmatch  # 128 bits, as base64url writes them
_batch_click = msgspec.json.Decoder(BatchClickBody).decode
_encode = msgspec.json.Encoder().encode


class ShopApi:
    """The shop's calls; those that are made most stand first, which is the order they are looked up in."""

    def __init__(
        self, recommender: Recommender, store: SessionStore, schema: Schema, settings: Settings
    ) -> None:
        self._recommender = recommender
        self._store = store
        self._private = schema.private
        # For pages what is private is not there: nothing tells it from what is misspelt.
        self._asked = {caller: Asked(schema.kinds_for(caller)) for caller in get_args(Caller)}
        self._future_tolerance_seconds = settings.future_tolerance_seconds
        self._random_ids = settings.public_session_ids == "random"

    @operation("GET", "/recommend", tag="recommendations", problems=(404, 503))
    async def recommend(self, query: RecommendQuery, caller: Caller) -> RecommendationAnswer:
        """Answer a stored session with the items most likely to be clicked next."""
        if self._random_ids and caller == "public":
            _check_random(query.session_id, "query.session_id")
        options = self._options(
            *(caller, query.k, query.exclude, query.exclude_seen, query.model),
            *(self._fields(query, caller), self._filter(query, caller), query.placement),
            explain="query.explain" if query.explain else None,
        )
        found = await self._recommender.recommend(query.session_id, options)
        return _recommendation(found, query.session_id, explain=query.explain)

    @operation("POST", "/sessions/{session_id:path}/click", tag="clicks", problems=(404, 503), is_beacon=True)
    async def click(
        self, path: SessionPath, query: ClickQuery, body: ClickBody, caller: Caller
    ) -> ClickAnswer:
        """Store a click; with ?recommend=20 also answer the session, in the same round trip."""
        session_id, clicked, named = path.session_id, self._click(body), body.recommendation_id
        if self._random_ids and caller == "public":
            _check_random(session_id, "path.session_id")
        # No click is stored if they are wrong.
        fields, rule = self._fields(query, caller), self._filter(query, caller)
        if query.recommend is None and query.placement is None:
            appended = await self._recommender.click(session_id, clicked, named)
            return ClickAnswer(session_id, appended.length, appended.duplicate)
        options = self._options(caller, query.recommend, fields=fields, rule=rule, placement=query.placement)
        appended, found = await self._recommender.click_and_recommend(session_id, clicked, options, named)
        answer = _recommendation(found, session_id) if found is not None else None
        return ClickAnswer(session_id, appended.length, appended.duplicate, answer)

    @operation("POST", "/recommend", tag="recommendations", problems=(404, 503))
    async def recommend_items(self, body: RecommendBody, caller: Caller) -> RecommendationAnswer:
        """Answer a session that is in the request, and is not stored."""
        asked = self._asked[caller]
        fields = asked.named(body.fields, "body.fields") if body.fields else ()
        rule = asked.body(body.filter, "body.filter") if body.filter is not UNSET else None
        options = self._options(
            *(caller, body.k, body.exclude, body.exclude_seen, body.model, fields, rule, body.placement),
            explain="body.explain" if body.explain else None,
        )
        found = await self._recommender.recommend_items(body.items, options)
        return _recommendation(found, explain=body.explain)

    @operation("POST", "/clicks", tag="clicks", scope="server", is_batch=True)
    async def clicks(
        self,
        body: Annotated[list[BatchClick], Meta(min_length=1, max_length=MAX_BATCH)],
    ) -> BatchAnswer | Response:
        """Store up to 100 clicks in order; one that is refused does not hold up the others."""
        events: list[EventStatus] = []
        valid: list[tuple[str, Click, str | None]] = []
        for position, event in enumerate(body):
            place = f"body.{position}"
            try:
                checked: BatchClickBody = decode(_batch_click, event, place)
                valid.append((checked.session_id, self._click(checked, place), checked.recommendation_id))
            except Problem as problem:
                events.append(EventStatus(422, detail=problem.detail))
            else:
                events.append(EventStatus(200, checked.session_id))
        stored = [event for event in events if event.status == 200]
        results = await self._recommender.click_many(valid) if valid else []
        for status, result in zip(stored, results, strict=True):
            if isinstance(result, StoreUnavailable):
                status.status = 429 if isinstance(result, SessionFull) else 503
                status.detail = outcome(result)
            else:
                status.length, status.duplicate = result.length, result.duplicate
        answer = BatchAnswer(events)
        if any(status.status == 503 for status in stored):
            return Response(_encode(answer), headers=RETRY_AFTER, media_type="application/json")
        return answer

    @operation("GET", "/trending", tag="recommendations")
    async def trending(self, query: KQuery, caller: Caller) -> ItemsAnswer:
        """What everyone clicks now: how many sessions did, fading with time."""
        options = Options(query.k, fields=self._fields(query, caller), filter=self._filter(query, caller))
        return ItemsAnswer(_items(*self._recommender.trending(options)))

    @operation("GET", "/items/{item_id:path}/similar", tag="recommendations", problems=(404, 503))
    async def similar(self, path: ItemPath, query: KQuery, caller: Caller) -> SimilarAnswer:
        """The items nearest to one item."""
        options = Options(query.k, fields=self._fields(query, caller), filter=self._filter(query, caller))
        version, items, fields = self._recommender.similar(path.item_id, options)
        return SimilarAnswer(path.item_id, version, _items(items, fields))

    @operation("GET", "/sessions/{session_id:path}", tag="sessions", problems=(404, 503), scope="server")
    async def export_session(self, path: SessionPath) -> SessionAnswer:
        """All that is stored of a session, oldest click first."""
        clicks = await self._store.read(path.session_id)
        if not clicks:
            raise _unknown_session()
        return SessionAnswer(path.session_id, [StoredClick(*click) for click in clicks])

    @operation(
        "DELETE",
        "/sessions/{session_id:path}",
        tag="sessions",
        problems=(404, 503),
        status=204,
        scope="server",
    )
    async def erase_session(self, path: SessionPath) -> None:
        """Erase a session; what the click log still holds of it is left out when the log is collected."""
        if not await self._store.erase(path.session_id):
            raise _unknown_session()

    def _options(
        self,
        caller: Caller,
        k: int | UnsetType | None,
        exclude: Sequence[str] = (),
        exclude_seen: bool | None = None,
        model: str | None = None,
        fields: tuple[str, ...] = (),
        rule: Rule | None = None,
        placement: str | None = None,
        explain: str | None = None,
    ) -> Options:
        """What is wanted by a request, and by its placement. Raises `UnknownPlacement`.

        `explain`: where it is asked for an explanation. A placement goes by what is private, too, but does
        not show it to a page, nor which of its rules match.
        """
        if placement is None:
            return Options(k or DEFAULT_K, exclude, exclude_seen, model, fields, rule)
        prepared = self._recommender.placement(placement)
        options = placed(Options(k or 0, exclude, exclude_seen, model, fields, rule), prepared)
        if self._private and caller == "public":
            if explain is not None and self._private & prepared.attributes:
                raise invalid_input(explain, "this placement is explained with a key of the server's only")
            options = options._replace(
                fields=tuple([name for name in options.fields if name not in self._private])
            )
        return options

    def _fields(self, query: CatalogueQuery, caller: Caller) -> tuple[str, ...]:
        return self._asked[caller].fields(query.fields, "query.fields") if query.fields else ()

    def _filter(self, query: CatalogueQuery, caller: Caller) -> Rule | None:
        if (
            query.filter is None
            and not query.category
            and query.available is None
            and query.price_max is None
        ):
            return None
        return self._asked[caller].query(query.filter, query.category, query.available, query.price_max)

    def _click(self, body: ClickBody, place: str = "body") -> Click:
        """Raises `Problem` for a timestamp too far ahead, and for an item that is not to be clicked."""
        now = time.time()
        timestamp = now if body.timestamp is None else body.timestamp
        if timestamp > now + self._future_tolerance_seconds:
            message = f"lies more than {self._future_tolerance_seconds:g} seconds ahead of the server's clock"
            raise invalid_input(f"{place}.timestamp", message)
        if self._recommender.refuses(body.item_id):
            raise invalid_input(f"{place}.item_id", "no deployed bundle knows this item")
        return Click(body.item_id, timestamp, body.type, body.event_id)


def _recommendation(
    found: Recommendation, session_id: str | UnsetType = UNSET, *, explain: bool = False
) -> RecommendationAnswer:
    return RecommendationAnswer(
        session_id=session_id,
        recommendation_id=found.recommendation_id,
        version=found.version,
        stage=found.stage,
        degraded=found.degraded,
        ignored=found.ignored,
        items=_items(found.items, found.fields),
        explanation=_explanation(found) if explain else UNSET,
    )


def _explanation(found: Recommendation) -> Explanation:
    items = [ExplainedItem(each.item_id, each.stage, each.score, list(each.moved_by)) for each in found.told]
    return Explanation(found.reason, found.encoded, items)


def _items(scored: Sequence[Scored], fields: Sequence[Raw] = ()) -> list[ScoredItem]:
    if fields:
        return [ScoredItem(*item, shown) for item, shown in zip(scored, fields, strict=True)]
    return [ScoredItem(item_id, score) for item_id, score in scored]


def _check_random(session_id: str, place: str) -> None:
    if not _is_random(session_id):
        message = "an id from a page must be random: 22 or more letters, digits, '_' and '-' (128 bits)"
        raise invalid_input(place, message)


def _unknown_session() -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "unknown-session", "there is no such session, or it has expired")
