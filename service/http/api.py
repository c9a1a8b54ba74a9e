"""What a shop calls: clicks, recommendations, sessions. Only translates between HTTP and the recommender."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Query, Request
from pydantic import SkipValidation, ValidationError
from starlette.responses import JSONResponse, Response

from service.http.problems import RETRY_AFTER, Problem, answers, field_errors, invalid_input, outcome
from service.http.routes import CompiledRoute
from service.http.schemas import (
    MAX_BATCH,
    BatchAnswer,
    BatchClickBody,
    ClickAnswer,
    ClickBody,
    Exclude,
    ExcludeSeen,
    Explain,
    ItemId,
    ItemsAnswer,
    K,
    RecommendationAnswer,
    RecommendBody,
    SessionAnswer,
    SessionId,
    SimilarAnswer,
    Version,
)
from service.http.security import shopper
from service.ranking.served import Scored
from service.recommender import DEFAULT_K, Options, Recommendation, Recommender
from service.state.link import StoreUnavailable
from service.state.store import Click, SessionStore

_quoted = json.encoder.encode_basestring  # a JSON string, in C

router = APIRouter(
    route_class=CompiledRoute,
    dependencies=[Depends(shopper)],
    responses=answers(None, 401, 403, 413, 422, 429),
)


@router.post("/sessions/{session_id:path}/click", tags=["clicks"], responses=answers(ClickAnswer, 503))
async def click(
    request: Request,
    session_id: Annotated[SessionId, Path()],
    body: ClickBody,
    recommend: Annotated[K | None, Query(description="also answer this many items")] = None,
) -> Response:
    """Store a click; with ?recommend=20 also answer the session, in the same round trip."""
    clicked = _click(request, body, "body")
    named = body.recommendation_id
    if recommend is None:
        appended = await _recommender(request).click(session_id, clicked, named)
        recommendations = ""
    else:
        appended, found = await _recommender(request).click_and_recommend(
            session_id, clicked, recommend, named
        )
        recommendations = f',"recommendations":{_document(found, session_id) if found else "null"}'
    duplicate = "true" if appended.duplicate else "false"
    return _json(
        f'{{"session_id":{_quoted(session_id)},"length":{appended.length},"duplicate":{duplicate}'
        f"{recommendations}}}"
    )


@router.post("/clicks", tags=["clicks"], responses=answers(BatchAnswer))
async def clicks(
    request: Request,
    body: Annotated[list[SkipValidation[BatchClickBody]], Body(min_length=1, max_length=MAX_BATCH)],
) -> Response:
    """Store up to 100 clicks in order; one that is refused does not hold up the others."""
    statuses: list[dict[str, Any]] = []
    valid: list[tuple[str, Click, str | None]] = []
    for position, event in enumerate(body):
        location = f"body.{position}"
        try:
            checked = BatchClickBody.model_validate(event)
            clicked = _click(request, checked, location)
            valid.append((checked.session_id, clicked, checked.recommendation_id))
        except ValidationError as error:
            detail = invalid_input(field_errors(error.errors(), location)).detail
            statuses.append({"status": 422, "detail": detail})
        except Problem as problem:
            statuses.append({"status": 422, "detail": problem.detail})
        else:
            statuses.append({"status": 200, "session_id": checked.session_id})
    stored = [status for status in statuses if status["status"] == 200]
    results = await _recommender(request).click_many(valid) if valid else []
    for status, result in zip(stored, results, strict=True):
        if isinstance(result, StoreUnavailable):
            status |= {"status": 503, "detail": outcome(result)}
        else:
            status |= {"length": result.length, "duplicate": result.duplicate}
    unavailable = any(isinstance(result, StoreUnavailable) for result in results)
    return JSONResponse({"events": statuses}, headers=RETRY_AFTER if unavailable else None)


@router.get("/recommend", tags=["recommendations"], responses=answers(RecommendationAnswer, 404, 503))
async def recommend(
    request: Request,
    session_id: Annotated[SessionId, Query()],
    k: Annotated[K, Query()] = DEFAULT_K,
    exclude: Annotated[Exclude, Query()] = [],  # noqa: B006 (FastAPI copies it)
    exclude_seen: Annotated[ExcludeSeen, Query()] = None,
    model: Annotated[Version | None, Query(description="a loaded version; default: the live one")] = None,
    explain: Annotated[Explain, Query()] = False,
) -> Response:
    """Answer a stored session with the items most likely to be clicked next."""
    found = await _recommender(request).recommend(session_id, Options(k, exclude, exclude_seen, model))
    return _json(_document(found, session_id, explain=explain))


@router.post("/recommend", tags=["recommendations"], responses=answers(RecommendationAnswer, 404, 503))
async def recommend_items(request: Request, body: RecommendBody) -> Response:
    """Answer a session that is in the request, and is not stored."""
    options = Options(body.k, body.exclude, body.exclude_seen, body.model)
    found = await _recommender(request).recommend_items(body.items, options)
    return _json(_document(found, explain=body.explain))


@router.get("/sessions/{session_id:path}", tags=["sessions"], responses=answers(SessionAnswer, 404, 503))
async def export_session(request: Request, session_id: Annotated[SessionId, Path()]) -> Response:
    """All that is stored of a session, oldest click first."""
    stored = await _store(request).read(session_id)
    if not stored:
        raise _unknown_session()
    return JSONResponse({"session_id": session_id, "clicks": [click._asdict() for click in stored]})


@router.delete(
    "/sessions/{session_id:path}", tags=["sessions"], status_code=204, responses=answers(None, 404, 503)
)
async def erase_session(request: Request, session_id: Annotated[SessionId, Path()]) -> Response:
    """Erase a session; what the click log still holds of it is left out when the log is collected."""
    if not await _store(request).erase(session_id):
        raise _unknown_session()
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.get(
    "/items/{item_id:path}/similar", tags=["recommendations"], responses=answers(SimilarAnswer, 404, 503)
)
async def similar(
    request: Request, item_id: Annotated[ItemId, Path()], k: Annotated[K, Query()] = DEFAULT_K
) -> Response:
    """The items nearest to one item."""
    version, items = _recommender(request).similar(item_id, k)
    return JSONResponse({"item_id": item_id, "version": version, "items": _items(items)})


@router.get("/trending", tags=["recommendations"], responses=answers(ItemsAnswer))
async def trending(request: Request, k: Annotated[K, Query()] = DEFAULT_K) -> Response:
    """What everyone clicks now: click counts that fade with time."""
    return JSONResponse({"items": _items(_recommender(request).trending(k))})


def _recommender(request: Request) -> Recommender:
    recommender: Recommender = request.app.state.recommender
    return recommender


def _store(request: Request) -> SessionStore:
    store: SessionStore = request.app.state.store
    return store


def _click(request: Request, body: ClickBody, location: str) -> Click:
    """Raises `Problem` for a timestamp too far ahead."""
    now = time.time()
    tolerance_seconds: float = request.app.state.settings.future_tolerance_seconds
    timestamp = now if body.timestamp is None else body.timestamp
    if timestamp > now + tolerance_seconds:
        message = f"lies more than {tolerance_seconds:g} seconds ahead of the server's clock"
        raise invalid_input([{"field": f"{location}.timestamp", "message": message}])
    return Click(body.item_id, timestamp, body.type, body.event_id)


def _document(found: Recommendation, session_id: str | None = None, *, explain: bool = False) -> str:
    """`RecommendationAnswer` as JSON, put together by hand: it is most of what goes out."""
    session = "" if session_id is None else f'"session_id":{_quoted(session_id)},'
    version = "null" if found.version is None else _quoted(found.version)
    degraded = "true" if found.degraded else "false"
    ignored = ",".join(map(_quoted, found.ignored))
    items = ",".join(
        [f'{{"item_id":{_quoted(item_id)},"score":{score!r}}}' for item_id, score in found.items]
    )
    explanation = ""
    if explain:
        told = {"reason": found.reason, "encoded": found.encoded}
        explanation = f',"explanation":{json.dumps(told, ensure_ascii=False)}'
    return (
        f'{{{session}"recommendation_id":{_quoted(found.recommendation_id)},"version":{version},'
        f'"stage":"{found.stage}","degraded":{degraded},"ignored":[{ignored}],"items":[{items}]{explanation}}}'
    )


def _json(text: str) -> Response:
    return Response(text.encode(), media_type="application/json")


def _items(scored: Sequence[Scored]) -> list[dict[str, str | float]]:
    return [{"item_id": item_id, "score": score} for item_id, score in scored]


def _unknown_session() -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "unknown-session", "there is no such session, or it has expired")
