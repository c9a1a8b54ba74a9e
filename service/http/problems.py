"""Errors as HTTP answers: every one is an RFC 9457 problem document.

None echoes what was sent, but for the ids of the items of a batch that are wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match, Route

from service.catalogue.placements import PlacementError
from service.catalogue.rules import RuleError
from service.live.deployment import DeploymentError, UnknownPlacement
from service.live.history import HistoryError
from service.live.object_store import ObjectStoreError
from service.process import request_ids
from service.process.origins import Origins
from service.ranking.bundle import BundleError
from service.recommender import NoModel, UnknownItem, UnknownModel
from service.state.link import ClickLogFull, SessionFull, StoreUnavailable
from service.state.refusals import NO_ANSWER

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:nextclick:problem:"
MAX_NAME_LENGTH = 64
MAX_FIELD_LENGTH = 256
CLIENT_CLOSED_REQUEST = 499  # not of the standard, but what every proxy writes
RETRY_AFTER = {"Retry-After": "1"}
OF_ANY_CALL = (408, 431, 503)  # what a connection may answer before there is a call
NOT_JSON = "the body was not sent as JSON: set the header Content-Type: application/json"


class Problem(HTTPException):
    """Raised by whatever has to refuse a request; `kind` becomes the problem's type."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        headers: Mapping[str, str] | None = None,
        **extensions: object,
    ) -> None:
        super().__init__(status, detail, headers)
        self.kind = kind
        self.extensions = extensions


def invalid_input(field: str, message: str) -> Problem:
    """422: the field that is wrong, cut to a sane size: its path may hold a key that the client made up."""
    field = ".".join(part[:MAX_NAME_LENGTH] for part in field.split("."))[:MAX_FIELD_LENGTH]
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid-input",
        f"{field}: {message}",
        errors=[{"field": field, "message": message}],
    )


def render(problem: HTTPException) -> Response:
    """The problem document of an HTTP exception, raised by us or by the framework."""
    title = HTTPStatus(problem.status_code).phrase
    kind, extensions = title.lower().replace(" ", "-"), {}
    if isinstance(problem, Problem):
        kind, extensions = problem.kind, problem.extensions
    document = {
        "type": TYPE_PREFIX + kind,
        "title": title,
        "status": problem.status_code,
        "detail": problem.detail,
        **extensions,
    }
    # Not starlette's JSONResponse: a message may hold what UTF-8 cannot, which json escapes.
    return Response(json.dumps(document).encode(), problem.status_code, problem.headers, MEDIA_TYPE)


def add_problem_handlers(app: FastAPI, routes: Sequence[Route], origins: Origins) -> None:
    """Answer every exception with a problem document.

    `routes` are those that a 405 tells of; `origins` those whose pages may read of an error of ours.
    """

    @app.exception_handler(HTTPException)
    async def http_problem(request: Request, error: HTTPException) -> Response:
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            error.headers = _allow(routes, request, error)
        # FastAPI's, for what is not even text, or nested too deep.
        if error.status_code == HTTPStatus.BAD_REQUEST:
            return render(invalid_input("body", "not JSON"))
        return render(error)

    @app.exception_handler(ClientDisconnect)
    async def nobody_is_there(_: Request, __: ClientDisconnect) -> Response:
        """Who left in mid-body reads no answer; its status is for the metrics."""
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    @app.exception_handler(StoreUnavailable)
    async def store_problem(_: Request, error: StoreUnavailable) -> Response:
        if isinstance(error, SessionFull):
            return render(Problem(HTTPStatus.TOO_MANY_REQUESTS, "session-full", outcome(error)))
        return render(
            Problem(HTTPStatus.SERVICE_UNAVAILABLE, "store-unavailable", outcome(error), RETRY_AFTER)
        )

    @app.exception_handler(RuleError)
    async def rule_problem(_: Request, error: RuleError) -> Response:
        return render(invalid_input(error.place, error.message))

    @app.exception_handler(NoModel)
    async def no_model_problem(_: Request, error: NoModel) -> Response:
        return render(Problem(HTTPStatus.SERVICE_UNAVAILABLE, "no-model", str(error), RETRY_AFTER))

    @app.exception_handler(UnknownModel)
    async def unknown_model_problem(_: Request, error: UnknownModel) -> Response:
        return render(Problem(HTTPStatus.NOT_FOUND, "unknown-model", str(error), loaded=error.loaded))

    @app.exception_handler(UnknownItem)
    async def unknown_item_problem(_: Request, error: UnknownItem) -> Response:
        return render(Problem(HTTPStatus.NOT_FOUND, "unknown-item", str(error)))

    @app.exception_handler(UnknownPlacement)
    async def unknown_placement_problem(_: Request, error: UnknownPlacement) -> Response:
        return render(Problem(HTTPStatus.NOT_FOUND, "unknown-placement", str(error), known=error.known))

    @app.exception_handler(PlacementError)
    async def placement_problem(_: Request, error: PlacementError) -> Response:
        return render(invalid_input(error.field, error.message))

    @app.exception_handler(BundleError)
    @app.exception_handler(DeploymentError)
    @app.exception_handler(HistoryError)
    async def deployment_problem(_: Request, error: BundleError | DeploymentError | HistoryError) -> Response:
        return render(Problem(HTTPStatus.CONFLICT, "not-deployed", str(error)))

    @app.exception_handler(ObjectStoreError)
    async def object_store_problem(_: Request, error: ObjectStoreError) -> Response:
        return render(Problem(HTTPStatus.SERVICE_UNAVAILABLE, "not-ready", str(error), RETRY_AFTER))

    @app.exception_handler(RequestValidationError)
    async def validation_problem(request: Request, error: RequestValidationError) -> Response:
        """What FastAPI found wrong with an operator's call."""
        first = error.errors()[0]
        if first["loc"] == ("body",) and "json" not in request.headers.get("content-type", ""):
            return render(invalid_input("body", NOT_JSON))
        if first["type"] == "json_invalid":
            message = f"not JSON: {first['ctx']['error']} at character {first['loc'][1]}"
            return render(invalid_input("body", message))
        return render(invalid_input(".".join(map(str, first["loc"])), first["msg"]))

    @app.exception_handler(Exception)
    async def internal_problem(request: Request, __: Exception) -> Response:
        # Starlette raises it again after this answer, so that the server logs it with its traceback. It
        # answers outside of all middleware, which adds to all others what is told here.
        known = request.scope.get(request_ids.SCOPE_KEY) or request_ids.request_id(request.scope["headers"])
        told = [(request_ids.HEADER, known), *origins.told_to(request.scope["headers"])]
        headers = {name.decode(): value.decode("latin-1") for name, value in told}
        headers["Cache-Control"] = "no-store"
        detail = "an unexpected error, which was logged"
        return render(Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", detail, headers))


def outcome(error: StoreUnavailable) -> str:
    """What a client should know, and do, about a call to the store that failed."""
    if isinstance(error, ClickLogFull):
        return "the click log is full, and the click was not stored: send it again later"
    if isinstance(error, SessionFull):
        return (
            "this session has sent as many clicks as one may: the click was not stored, and none will be"
            " until the session ends"
        )
    again = "send it again; a click with the same event_id is stored once, and so is an item"
    if error.reason != NO_ANSWER:
        return f"{error.reason}: {again}"
    return f"Redis did not answer, and whether it was done is unknown: {again}"


def _allow(routes: Sequence[Route], request: Request, error: HTTPException) -> dict[str, str]:
    """Every method of a path, which two routes may share: the framework's own error names those of one."""
    here = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in here if route.path == here[0].path for method in route.methods or ()}
    # The framework says nothing of a folder of files, which can be read alone.
    methods = methods or set((error.headers or {}).get("Allow", "GET, HEAD").split(", "))
    return {"Allow": ", ".join(sorted(methods))}


def _header(name: str, *, always: bool = True, **schema: object) -> dict[str, Any]:
    return {name: {"required": always, "schema": schema}}


SOMETIMES_RETRY_AFTER = _header("Retry-After", always=False, type="integer", minimum=1)
HEADERS = {
    401: _header("WWW-Authenticate", type="string"),
    429: SOMETIMES_RETRY_AFTER,  # not for a session that is full: that has to end
    503: _header("Retry-After", type="integer", minimum=1),
}


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of problem documents, by status."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    problems: dict[int | str, dict[str, Any]] = {}
    for status in sorted({*statuses, *OF_ANY_CALL}):
        problems[status] = {"description": HTTPStatus(status).phrase, "content": content}
        if status in HEADERS:
            problems[status]["headers"] = HEADERS[status]
    return problems
