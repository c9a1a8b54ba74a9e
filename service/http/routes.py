"""FastAPI's routes, read once: the same declarations and the same errors for a fraction of the work.

FastAPI looks at the signature of an endpoint again with every request, which costs more than everything else
that a recommendation needs of Python. Here it is compiled, when the route is made, into one validator for the
query, one for the path and one for the body. OpenAPI is still FastAPI's. `service.http.front` calls them.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, get_args, get_origin
from urllib.parse import parse_qsl

from fastapi import Request, params
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, create_model
from starlette.responses import Response

from service.http.problems import invalid_input

KEY_HEADER = b"x-api-key"

Guard = Callable[[Request, str | None], Awaitable[None]]
Endpoint = Callable[..., Awaitable[Response]]
Answer = Callable[[Request], Awaitable[Response]]
Errors = list[dict[str, Any]]


class CompiledRoute(APIRoute):
    """A route whose endpoint takes the request, path and query parameters, and at most one JSON body.

    Its dependencies are guards: each is called with the request and the API key, and raises or does not.
    """

    def __init__(self, path: str, endpoint: Endpoint, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        guards: list[Guard] = [depends.dependency for depends in self.dependencies]  # type: ignore[misc]
        self.answer, self.has_body = _compiled(endpoint, guards)


class _Values:
    """Validates the named values of a path or of a query, as text."""

    def __init__(self, place: str, parameters: Mapping[str, inspect.Parameter]) -> None:
        self._place = place
        self._lists = {name for name, p in parameters.items() if _bare(p.annotation) is list}
        fields: dict[str, Any] = {name: (p.annotation, _default(p)) for name, p in parameters.items()}
        self._validate = create_model(place, **fields).__pydantic_validator__.validate_python

    def read(self, texts: list[tuple[str, str]], values: dict[str, Any], errors: Errors) -> None:
        """Put what is valid into `values`, and what is not into `errors`."""
        given: dict[str, Any] = {}
        for name, text in texts:
            if name in self._lists:
                given.setdefault(name, []).append(text)
            else:
                given[name] = text
        try:
            values.update(vars(self._validate(given)))
        except ValidationError as error:
            errors += _at(self._place, error)


class _Body:
    """Validates a JSON body."""

    def __init__(self, parameter: inspect.Parameter) -> None:
        self._name = parameter.name
        self._adapter: TypeAdapter[Any] = TypeAdapter(parameter.annotation)

    async def read(self, request: Request, values: dict[str, Any], errors: Errors) -> None:
        """See `_Values`. Raises `Problem` for what is no JSON at all."""
        content: Any = await request.body()
        if content and _is_json(request.headers.get("content-type", "")):
            try:
                content = json.loads(content)
            except (ValueError, RecursionError) as error:
                message = f"not JSON: {_json_problem(error)}"
                raise invalid_input([{"field": "body", "message": message}]) from error
        elif not content:
            errors.append({"type": "missing", "loc": ("body",), "msg": "Field required", "input": None})
            return
        try:
            values[self._name] = self._adapter.validate_python(content)
        except ValidationError as error:
            errors += _at("body", error)


def _compiled(endpoint: Endpoint, guards: list[Guard]) -> tuple[Answer, bool]:
    """What answers a request, and whether it reads a body."""
    parameters = inspect.signature(endpoint, eval_str=True).parameters
    kinds = {name: _kind(parameter) for name, parameter in parameters.items()}
    path, query = (
        _Values(kind, {name: parameters[name] for name in parameters if kinds[name] == kind})
        for kind in ("path", "query")
    )
    has_path, has_query = "path" in kinds.values(), "query" in kinds.values()
    bodies = [_Body(parameters[name]) for name in parameters if kinds[name] == "body"]

    async def answer(request: Request) -> Response:
        scope = request.scope
        if guards:
            key = next(
                (value.decode("latin-1") for name, value in scope["headers"] if name == KEY_HEADER), None
            )
            for guard in guards:
                await guard(request, key)
        values: dict[str, Any] = {}
        errors: Errors = []
        if has_path:
            path.read(list(scope["path_params"].items()), values, errors)
        if has_query:
            texts = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            query.read(texts, values, errors)
        for body in bodies:
            await body.read(request, values, errors)
        if errors:
            raise RequestValidationError(errors)
        return await endpoint(request, **values)

    return answer, bool(bodies)


def _kind(parameter: inspect.Parameter) -> str:
    """What a parameter of an endpoint is read from."""
    if parameter.annotation is Request:
        return "request"
    for metadata in getattr(parameter.annotation, "__metadata__", ()):
        for kind, declared in (("path", params.Path), ("query", params.Query), ("body", params.Body)):
            if isinstance(metadata, declared):
                return kind
    assert issubclass(parameter.annotation, BaseModel), f"{parameter}: say Path(), Query() or Body()"
    return "body"


def _default(parameter: inspect.Parameter) -> Any:
    """What pydantic takes for the default; a list it would copy in depth with every request."""
    if isinstance(parameter.default, list):
        return Field(default_factory=parameter.default.copy)
    return ... if parameter.default is parameter.empty else parameter.default


def _bare(annotation: Any) -> Any:
    """list for a list of something, however it is annotated."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return get_origin(annotation)


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _json_problem(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    if isinstance(error, UnicodeDecodeError):
        return f"{error.reason} at byte {error.start}"
    return "nested too deep" if isinstance(error, RecursionError) else str(error)


def _at(place: str, error: ValidationError) -> Errors:
    return [{**detail, "loc": (place, *detail["loc"])} for detail in error.errors(include_url=False)]
