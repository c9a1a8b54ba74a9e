"""What balancers ask: is it alive, is it ready."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from service.catalogue.follower import CatalogueFollower
from service.http.admin_schemas import ProbeAnswer
from service.http.problems import RETRY_AFTER, Problem, described
from service.live.follower import DeploymentFollower
from service.live.mirror import outage
from service.process.append_only import damaged
from service.process.embedded_redis import data_directory
from service.process.settings import Settings
from service.state.link import StoreUnavailable
from service.state.store import SessionStore

router = APIRouter(tags=["operations"])


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", response_model=ProbeAnswer, responses=described())
async def health_live() -> Response:
    """200 while the process answers at all."""
    return JSONResponse({"status": "live"})


@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready", response_model=ProbeAnswer, responses=described())
async def health_ready(request: Request) -> Response:
    """200 when a bundle is loaded, and Redis answers and would store a click."""
    follower: DeploymentFollower = request.app.state.follower
    store: SessionStore = request.app.state.store
    if follower.current.champion is None:
        raise _not_ready(follower.error or "no model is published yet")
    try:
        await store.check_writable()
    except StoreUnavailable as error:
        raise _not_ready(error.reason) from None
    answer: dict[str, object] = {"status": "ready"}
    warnings = [
        f"redis/{each.name}: the private Redis's data was damaged there and cut off, so clicks were lost"
        for each in damaged(data_directory(request.app.state.settings))
    ]
    catalogue: CatalogueFollower = request.app.state.catalogue
    if catalogue.error is not None:
        warnings.append(
            f"the catalogue cannot be read ({catalogue.error}): items are as they were "
            f"{catalogue.behind_seconds:.0f} seconds ago"
        )
    settings: Settings = request.app.state.settings
    if settings.artifacts_url is not None and (told := outage(settings.artifacts_dir)) is not None:
        warnings.append(told)
    if warnings:
        answer["warnings"] = warnings
    return JSONResponse(answer)


def _not_ready(detail: str) -> Problem:
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "not-ready", detail, RETRY_AFTER)
