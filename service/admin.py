"""What operators call: what is live and what is hidden, health, metrics."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from service.live import LiveBundle
from service.metrics import exposition
from service.problems import RETRY_AFTER, Problem, answers
from service.redis_link import StoreUnavailable
from service.schemas import ActivateBody, HiddenAnswer, ItemId, ModelsAnswer
from service.security import admin, shopper
from service.store import SessionStore

probes = APIRouter(tags=["operations"])
router = APIRouter(
    prefix="/admin",
    tags=["admin"],
    dependencies=[Depends(admin)],
    responses=answers(None, 401, 403, 409, 422),
)


@probes.get("/models", dependencies=[Depends(shopper)], responses=answers(ModelsAnswer, 401, 403, 429))
async def models(request: Request) -> Response:
    """What this worker serves, and what was deployed."""
    return _models(_live(request))


@probes.get("/health/live")
async def health_live() -> Response:
    """200 while the process answers at all."""
    return JSONResponse({"status": "live"})


@probes.get("/health/ready", responses=answers(None, 503))
async def health_ready(request: Request) -> Response:
    """200 when a bundle is loaded and Redis answers."""
    store: SessionStore = request.app.state.store
    if _live(request).current.model is None:
        detail = _live(request).error or "no model is published yet"
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "not-ready", detail, RETRY_AFTER)
    try:
        await store.ping()
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
    await _live(request).activate(body.version)
    return _models(_live(request))


@router.post("/rollback", responses=answers(ModelsAnswer))
async def rollback(request: Request) -> Response:
    """Swap the live version and the one before it, in every worker."""
    await _live(request).rollback()
    return _models(_live(request))


@router.post("/reload", responses=answers(ModelsAnswer))
async def reload(request: Request) -> Response:
    """Read deployment.json again, and try again a bundle that this worker refused."""
    await _live(request).reload()
    return _models(_live(request))


@router.get("/hidden", responses=answers(HiddenAnswer))
async def hidden(request: Request) -> Response:
    """The items that are never answered."""
    return _hidden(_live(request))


@router.put("/hidden/{item_id:path}", responses=answers(HiddenAnswer))
async def hide(request: Request, item_id: Annotated[ItemId, Path()]) -> Response:
    """Never answer an item again, in any worker; it need not be known yet."""
    await _live(request).hide(item_id)
    return _hidden(_live(request))


@router.delete("/hidden/{item_id:path}", responses=answers(HiddenAnswer))
async def unhide(request: Request, item_id: Annotated[ItemId, Path()]) -> Response:
    """Let an item be answered again."""
    await _live(request).unhide(item_id)
    return _hidden(_live(request))


def _live(request: Request) -> LiveBundle:
    live: LiveBundle = request.app.state.live
    return live


def _hidden(live: LiveBundle) -> Response:
    return JSONResponse({"hidden": sorted(live.current.hidden)})


def _models(live: LiveBundle) -> Response:
    deployment, model = live.current.deployment, live.current.model
    shown = {"version", "kind", "model", "head", "created_at", "n_items", "dim", "index", "metrics"}
    return JSONResponse(
        {
            "loaded": [model.bundle.manifest.model_dump(mode="json", include=shown)] if model else [],
            "champion": deployment.champion,
            "previous": deployment.previous,
            "exclude_seen": deployment.exclude_seen,
            "hidden": len(live.current.hidden),
            "error": live.error,
        }
    )
