"""What operators call: what is live, what is hidden, and what each placement is answered."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Security
from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from service.catalogue.placements import Placement
from service.http.admin_schemas import (
    ActivateBody,
    HiddenAnswer,
    HiddenBody,
    HiddenCountAnswer,
    ItemId,
    ModelsAnswer,
    PlacementAnswer,
    PlacementHistoryAnswer,
    PlacementName,
    PlacementsAnswer,
    PreviewAnswer,
    PreviewBody,
)
from service.http.guards.api_keys import ADMIN_KEY, PUBLIC_KEY
from service.http.guards.keyring import KEY, Key
from service.http.operations import read_body
from service.http.problems import NOT_JSON, described, invalid_input
from service.live.deployment import history_of
from service.live.follower import DeploymentFollower
from service.process.settings import Settings
from service.recommender import Recommendation, Recommender
from service.state.link import StoreUnavailable
from service.state.store import Quality, SessionStore, of_placement


async def anyone(request: Request, _: Annotated[str | None, Security(PUBLIC_KEY)]) -> None:
    """The same guards as of the shop's calls."""
    await request.app.state.guards["public"](request)


async def admin(request: Request, _: Annotated[str | None, Security(ADMIN_KEY)]) -> None:
    """An admin's key."""
    await request.app.state.guards["admin"](request)


public = APIRouter(tags=["operations"], dependencies=[Depends(anyone)], responses=described(401, 403, 429))
router = APIRouter(
    prefix="/admin",
    tags=["admin"],
    dependencies=[Depends(admin)],
    responses=described(401, 403, 409, 422, 429),
)


@public.get("/models", response_model=ModelsAnswer)
async def models(request: Request) -> Response:
    """What this worker serves, what was deployed, and how it does."""
    return await _models(request)


@router.post("/activate", response_model=ModelsAnswer, responses=described(413))
async def activate(request: Request, body: ActivateBody) -> Response:
    """Make a version live in every worker; a bad bundle is refused with 409 and changes nothing."""
    await _follower(request).activate(body.version)
    return await _models(request)


@router.post("/rollback", response_model=ModelsAnswer)
async def rollback(request: Request) -> Response:
    """Swap the live version and the one before it, in every worker."""
    await _follower(request).rollback()
    return await _models(request)


@router.post("/reload", response_model=ModelsAnswer)
async def reload(request: Request) -> Response:
    """Read deployment.json again, and try again a bundle that this worker refused."""
    await _follower(request).reload()
    return await _models(request)


@router.get("/hidden", response_model=HiddenAnswer)
async def hidden(request: Request) -> Response:
    """The items that are never answered."""
    return await _hidden(_follower(request))


@router.post(
    "/hidden",
    response_model=HiddenCountAnswer,
    responses=described(413),
    max_body_size=sys.maxsize,  # `read_body` looks at it, and says so in a problem document
    openapi_extra={
        "requestBody": {
            "content": {"application/json": {"schema": HiddenBody.model_json_schema()}},
            "required": True,
        }
    },
)
async def change_hidden(request: Request) -> Response:
    """Hide many items, unhide others, or both, in any worker, and in one step."""
    if "json" not in request.headers.get("content-type", ""):
        raise invalid_input("body", NOT_JSON)
    settings: Settings = request.app.state.settings
    content = await read_body(request.scope, request.receive, settings.max_body_bytes)
    # Not left to FastAPI, which would look at each id on the event loop.
    changes = await asyncio.to_thread(_decoded, content)
    await _follower(request).change_hidden(changes.hide, changes.unhide)
    return JSONResponse({"hidden": len(_follower(request).current.hidden)})


@router.put("/hidden/{item_id:path}", response_model=HiddenAnswer)
async def hide(request: Request, item_id: Annotated[ItemId, Path()]) -> Response:
    """Never answer an item again, in any worker; it need not be known yet."""
    await _follower(request).change_hidden(hide=[item_id])
    return await _hidden(_follower(request))


@router.delete("/hidden/{item_id:path}", response_model=HiddenAnswer)
async def unhide(request: Request, item_id: Annotated[ItemId, Path()]) -> Response:
    """Let an item be answered again."""
    await _follower(request).change_hidden(unhide=[item_id])
    return await _hidden(_follower(request))


@router.get("/placements", response_model=PlacementsAnswer)
async def placements(request: Request) -> Response:
    """Every placement, how it is now and how it does."""
    names = list(_follower(request).current.deployment.placements)
    return JSONResponse({"placements": await _placements(request, names)})


# Before those with a name in their path.
@router.post("/placements/preview", response_model=PreviewAnswer, responses=described(404, 413, 503))
async def preview(request: Request, body: PreviewBody) -> Response:
    """Answer a session under a draft beside what is live; nothing is stored, counted or remembered."""
    recommender: Recommender = request.app.state.recommender
    draft = _follower(request).prepared("draft", body.placement, "body.placement.")
    found = await recommender.preview(
        draft, body.beside, session_id=body.session_id, item_ids=body.items or ()
    )
    told = zip(("draft", "live"), found, strict=True)
    return JSONResponse({name: _previewed(answer) for name, answer in told})


@router.get("/placements/{name}", response_model=PlacementAnswer, responses=described(404))
async def placement(request: Request, name: Annotated[PlacementName, Path()]) -> Response:
    """One placement."""
    return await _placement(request, name)


@router.put("/placements/{name}", response_model=PlacementAnswer, responses=described(413))
async def set_placement(
    request: Request, name: Annotated[PlacementName, Path()], body: Placement
) -> Response:
    """Make a placement, or let it be another, in every worker; one that is so already gets no new version."""
    await _follower(request).set_placement(name, body, _by(request), "body.")
    return await _placement(request, name)


@router.delete("/placements/{name}", response_model=PlacementsAnswer, responses=described(404))
async def delete_placement(request: Request, name: Annotated[PlacementName, Path()]) -> Response:
    """Forget a placement, its history and its figures; answers those that are left."""
    follower = _follower(request)
    await follower.delete_placement(name)
    with suppress(StoreUnavailable):  # they end by themselves, too
        await _store(request).forget_quality([of_placement(name)])
    names = list(follower.current.deployment.placements)
    return JSONResponse({"placements": await _placements(request, names)})


@router.get("/placements/{name}/history", response_model=PlacementHistoryAnswer, responses=described(404))
async def placement_history(request: Request, name: Annotated[PlacementName, Path()]) -> Response:
    """The versions of a placement that are kept, the newest first."""
    history = history_of(_follower(request).current.deployment, name)
    versions = [version.model_dump(mode="json") for version in reversed(history)]
    return JSONResponse({"name": name, "versions": versions})


@router.post("/placements/{name}/rollback", response_model=PlacementAnswer, responses=described(404))
async def rollback_placement(
    request: Request,
    name: Annotated[PlacementName, Path()],
    version: Annotated[int | None, Query(ge=1, description="of its history; default: the one before")] = None,
) -> Response:
    """Let a placement be what it was, in every worker; that is a new version."""
    await _follower(request).rollback_placement(name, _by(request), version)
    return await _placement(request, name)


def _follower(request: Request) -> DeploymentFollower:
    follower: DeploymentFollower = request.app.state.follower
    return follower


def _by(request: Request) -> str:
    """Whose change it is."""
    key: Key = request.scope[KEY]
    return key.label


def _store(request: Request) -> SessionStore:
    store: SessionStore = request.app.state.store
    return store


async def _hidden(follower: DeploymentFollower) -> Response:
    return await asyncio.to_thread(_told, follower.current.hidden)


def _told(hidden: frozenset[str]) -> Response:
    return JSONResponse({"hidden": sorted(hidden)})


def _decoded(content: bytes) -> HiddenBody:
    try:
        return HiddenBody.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        message = first["msg"]
        if first["type"] == "json_invalid":
            message = f"not JSON: {first['ctx']['error']}"
        raise invalid_input(".".join(map(str, ("body", *first["loc"]))), message) from None


async def _placement(request: Request, name: str) -> Response:
    history_of(_follower(request).current.deployment, name)
    (told,) = await _placements(request, [name])
    return JSONResponse(told)


async def _placements(request: Request, names: Sequence[str]) -> list[dict[str, object]]:
    now = _follower(request).current  # of one moment: Redis takes another
    try:
        quality = await _store(request).quality([of_placement(name) for name in names])
    except StoreUnavailable:
        quality = {}
    told: list[dict[str, object]] = []
    for name in names:
        found = _quality(quality[of_placement(name)]) if quality else None
        if found is not None:
            del found["feedback"]  # a click names an answer, not where it was shown
        version = now.deployment.placements[name][-1].model_dump(mode="json")
        problem = now.placements[name].problem
        told.append({"name": name, **version, "problem": problem, "live_quality": found})
    return told


def _previewed(found: Recommendation) -> dict[str, object]:
    return {
        "version": found.version,
        "stage": found.stage,
        "reason": found.reason,
        "ignored": found.ignored,
        "items": [each._asdict() for each in found.told],
    }


async def _models(request: Request) -> Response:
    follower = _follower(request)
    # Of one moment: Redis takes another.
    now, error, refused = follower.current, follower.error, dict(follower.refused)
    try:
        quality = await _store(request).quality([served.version for served in now.bundles.values()])
    except StoreUnavailable:
        quality = {}
    shown = {"version", "kind", "model", "head", "created_at", "n_items", "dim", "index", "metrics"}
    loaded = [
        {
            "role": role,
            **served.bundle.manifest.model_dump(mode="json", include=shown),
            "live_quality": _quality(quality[served.version]) if quality else None,
        }
        for role, served in now.bundles.items()
    ]
    deployed = now.deployment.model_dump(exclude={"hidden", "placements"})
    return JSONResponse(
        {"loaded": loaded, **deployed, "hidden": len(now.hidden), "error": error, "refused": refused}
    )


def _quality(found: Quality) -> dict[str, float | int | None]:
    return {
        "judged": found.judged,
        "hit_rate@20": found.hits / found.judged if found.judged else None,
        "mrr@20": found.reciprocal_ranks / found.judged if found.judged else None,
        "feedback": found.feedback,
    }
