"""What operators call: what is live and what is hidden, health, metrics."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from service.http.problems import RETRY_AFTER, Problem, answers
from service.http.schemas import ActivateBody, HiddenAnswer, ItemId, ModelsAnswer
from service.http.security import admin, shopper
from service.live.follower import DeploymentFollower
from service.process.metrics import exposition
from service.state.link import StoreUnavailable
from service.state.store import Quality, SessionStore

probes = APIRouter(tags=["operations"])
router = APIRouter(
    prefix="/admin",
    tags=["admin"],
    dependencies=[Depends(admin)],
    responses=answers(None, 401, 403, 409, 422),
)


@probes.get("/models", dependencies=[Depends(shopper)], responses=answers(ModelsAnswer, 401, 403, 429))
async def models(request: Request) -> Response:
    """What this worker serves, what was deployed, and how it does."""
    return await _models(request)


@probes.get("/health/live")
async def health_live() -> Response:
    """200 while the process answers at all."""
    return JSONResponse({"status": "live"})


@probes.get("/health/ready", responses=answers(None, 503))
async def health_ready(request: Request) -> Response:
    """200 when a bundle is loaded and Redis answers."""
    if _follower(request).current.champion is None:
        detail = _follower(request).error or "no model is published yet"
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "not-ready", detail, RETRY_AFTER)
    try:
        await _store(request).ping()
    except StoreUnavailable:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE, "not-ready", "Redis does not answer", RETRY_AFTER
        ) from None
    return JSONResponse({"status": "ready"})


@probes.get("/metrics")
async def metrics() -> Response:
    """Prometheus metrics, over all workers."""
    return Response(exposition(), media_type=CONTENT_TYPE_LATEST)


@router.post("/activate", responses=answers(ModelsAnswer))
async def activate(request: Request, body: ActivateBody) -> Response:
    """Make a version live in every worker; a bad bundle is refused with 409 and changes nothing."""
    await _follower(request).activate(body.version)
    return await _models(request)


@router.post("/rollback", responses=answers(ModelsAnswer))
async def rollback(request: Request) -> Response:
    """Swap the live version and the one before it, in every worker."""
    await _follower(request).rollback()
    return await _models(request)


@router.post("/reload", responses=answers(ModelsAnswer))
async def reload(request: Request) -> Response:
    """Read deployment.json again, and try again a bundle that this worker refused."""
    await _follower(request).reload()
    return await _models(request)


@router.get("/hidden", responses=answers(HiddenAnswer))
async def hidden(request: Request) -> Response:
    """The items that are never answered."""
    return _hidden(_follower(request))


@router.put("/hidden/{item_id:path}", responses=answers(HiddenAnswer))
async def hide(request: Request, item_id: Annotated[ItemId, Path()]) -> Response:
    """Never answer an item again, in any worker; it need not be known yet."""
    await _follower(request).hide(item_id)
    return _hidden(_follower(request))


@router.delete("/hidden/{item_id:path}", responses=answers(HiddenAnswer))
async def unhide(request: Request, item_id: Annotated[ItemId, Path()]) -> Response:
    """Let an item be answered again."""
    await _follower(request).unhide(item_id)
    return _hidden(_follower(request))


def _follower(request: Request) -> DeploymentFollower:
    follower: DeploymentFollower = request.app.state.follower
    return follower


def _store(request: Request) -> SessionStore:
    store: SessionStore = request.app.state.store
    return store


def _hidden(follower: DeploymentFollower) -> Response:
    return JSONResponse({"hidden": sorted(follower.current.hidden)})


async def _models(request: Request) -> Response:
    follower = _follower(request)
    now, error, refused = (
        follower.current,
        follower.error,
        dict(follower.refused),
    )  # of one moment: Redis takes another
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
