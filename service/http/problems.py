"""Errors as HTTP answers: every one is an RFC 9457 problem document, and none echoes what was sent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.live.deployment import DeploymentError
from service.ranking.bundle import BundleError
from service.recommender import NoModel, UnknownItem, UnknownModel
from service.state.link import ClickLogFull, StoreUnavailable

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:nextclick:problem:"
MAX_FIELD_ERRORS = 20
MAX_NAME_LENGTH = 64
RETRY_AFTER = {"Retry-After": "1"}
NOT_AN_OBJECT = ("model_type", "model_attributes_type")  # whose messages name our classes
NOT_JSON = "the body was not sent as JSON: set the header Content-Type: application/json"


class FieldError(BaseModel):
    """One field that is wrong; `field` is its path, as in body.item_id or query.k."""

    field: str
    message: str


class ProblemDocument(BaseModel):
    """RFC 9457; `type` names the kind of problem for programs, `detail` is for people."""

    type: str = Field(examples=[f"{TYPE_PREFIX}invalid-input"])
    title: str = Field(examples=["Unprocessable Entity"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["body.item_id: Field required"])
    errors: list[FieldError] | None = Field(None, description="on 422: the fields that are wrong")
    loaded: list[str] | None = Field(None, description="on unknown-model: the versions that can be asked for")


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


def invalid_input(errors: list[dict[str, str]]) -> Problem:
    """422: the fields that are wrong."""
    first = f"{errors[0]['field']}: {errors[0]['message']}"
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-input", first, errors=errors)


def field_errors(errors: Sequence[Mapping[str, Any]], *prefix: str | int) -> list[dict[str, str]]:
    """pydantic's errors as field and message, cut to a sane number and size."""
    return [
        {
            "field": _field((*prefix, *error["loc"])),
            "message": "Input should be an object" if error["type"] in NOT_AN_OBJECT else error["msg"],
        }
        for error in errors[:MAX_FIELD_ERRORS]
    ]


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


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every exception with a problem document."""

    @app.exception_handler(HTTPException)
    async def http_problem(_: Request, error: HTTPException) -> Response:
        if (
            error.status_code == HTTPStatus.BAD_REQUEST
        ):  # FastAPI's, for what is not even text, or nested too deep
            return render(invalid_input([{"field": "body", "message": "not JSON"}]))
        return render(error)

    @app.exception_handler(StoreUnavailable)
    async def store_problem(_: Request, error: StoreUnavailable) -> Response:
        return render(
            Problem(HTTPStatus.SERVICE_UNAVAILABLE, "store-unavailable", outcome(error), RETRY_AFTER)
        )

    @app.exception_handler(NoModel)
    async def no_model_problem(_: Request, error: NoModel) -> Response:
        return render(Problem(HTTPStatus.SERVICE_UNAVAILABLE, "no-model", str(error), RETRY_AFTER))

    @app.exception_handler(UnknownModel)
    async def unknown_model_problem(_: Request, error: UnknownModel) -> Response:
        return render(Problem(HTTPStatus.NOT_FOUND, "unknown-model", str(error), loaded=error.loaded))

    @app.exception_handler(UnknownItem)
    async def unknown_item_problem(_: Request, error: UnknownItem) -> Response:
        return render(Problem(HTTPStatus.NOT_FOUND, "unknown-item", str(error)))

    @app.exception_handler(BundleError)
    @app.exception_handler(DeploymentError)
    async def deployment_problem(_: Request, error: BundleError | DeploymentError) -> Response:
        return render(Problem(HTTPStatus.CONFLICT, "not-deployed", str(error)))

    @app.exception_handler(RequestValidationError)
    async def validation_problem(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["loc"] == ("body",) and "json" not in request.headers.get("content-type", ""):
            return render(invalid_input([{"field": "body", "message": NOT_JSON}]))
        if first["type"] == "json_invalid":
            message = f"not JSON: {first['ctx']['error']} at character {first['loc'][1]}"
            return render(invalid_input([{"field": "body", "message": message}]))
        return render(invalid_input(field_errors(error.errors())))

    @app.exception_handler(Exception)
    async def internal_problem(_: Request, __: Exception) -> Response:
        # Starlette raises it again after this answer, so that the server logs it with its traceback.
        return render(
            Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "an unexpected error, which was logged")
        )


def outcome(error: StoreUnavailable) -> str:
    """What a client should know, and do, about a call to the store that failed."""
    if isinstance(error, ClickLogFull):
        return "the click log is full, and the click was not stored: send it again later"
    return (
        "Redis did not answer, and whether it was done is unknown: send it again;"
        " a click with the same event_id is stored once"
    )


def answers(model: type[BaseModel] | None, *problems: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of what a route answers: 200 with `model`, and these problems."""
    reference = {"$ref": "#/components/schemas/ProblemDocument"}
    described: dict[int | str, dict[str, Any]] = {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": reference}}}
        for status in problems
    }
    return {200: {"model": model}, **described} if model else described


def schemas() -> dict[str, Any]:
    """What `answers` refers to, for OpenAPI's components."""
    document = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**document.pop("$defs"), "ProblemDocument": document}


def _field(location: Iterable[str | int]) -> str:
    # A path may hold a key that the client made up.
    return ".".join(str(part)[:MAX_NAME_LENGTH] for part in location)
