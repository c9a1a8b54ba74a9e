"""What operators call: what is live, and what is hidden."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Security
from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from service.http.admin_schemas import (
    ActivateBody,
    HiddenAnswer,
    HiddenBody,
    HiddenCountAnswer,
    ItemId,
    ModelsAnswer,
)
from service.http.api_keys import ADMIN_KEY, SHOPPER_KEY
from service.http.operations import read_body
from service.http.problems import NOT_JSON, described, invalid_input
from service.live.follower import DeploymentFollower
from service.process.settings import Settings
from service.state.link import StoreUnavailable
from service.state.store import Quality, SessionStore


async def shopper(request: Request, _: Annotated[str | None, Security(SHOPPER_KEY)]) -> None:
    """The same guards as of the shop's calls."""
    await request.app.state.guards["shopper"](request)


async def admin(request: Request, _: Annotated[str | None, Security(ADMIN_KEY)]) -> None:
    """The admin's key."""
    await request.app.state.guards["admin"](request)


public = APIRouter(tags=["operations"], dependencies=[Depends(shopper)], responses=described(401, 403, 429))
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


def _follower(request: Request) -> DeploymentFollower:
    follower: DeploymentFollower = request.app.state.follower
    return follower


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
    deployed = now.deployment.model_dump(exclude={"hidden"})
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
