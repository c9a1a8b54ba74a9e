"""FastAPI's routes, read once: the same declarations and the same errors for a fraction of the work.

FastAPI looks at the signature of an endpoint again with every request, which costs more than everything else
that a recommendation needs of Python. Here it is compiled, when the route is made, into one validator for the
query, one for the path and one for the body. OpenAPI is still FastAPI's.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, get_args, get_origin
from urllib.parse import parse_qsl

from fastapi import FastAPI, Request, params
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter, ValidationError, create_model
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.problems import invalid_input

KEY_HEADER = b"x-api-key"

Guard = Callable[[Request, str | None], Awaitable[None]]
Endpoint = Callable[..., Awaitable[Response]]
Errors = list[dict[str, Any]]


class CompiledRoute(APIRoute):
    """A route whose endpoint takes the request, path and query parameters, and at most one JSON body.

    Its dependencies are guards: each is called with the request and the API key, and raises or does not.
    """

    def __init__(self, path: str, endpoint: Endpoint, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        guards: list[Guard] = [depends.dependency for depends in self.dependencies]  # type: ignore[misc]
        self.app = _compiled(endpoint, guards)


class _Values:
    """Validates the named values of a path or of a query, as text."""

    def __init__(self, place: str, parameters: Mapping[str, inspect.Parameter]) -> None:
        self._place = place
        self._lists = {name for name, p in parameters.items() if _bare(p.annotation) is list}
        fields: dict[str, Any] = {
            name: (p.annotation, ... if p.default is p.empty else p.default) for name, p in parameters.items()
        }
        self._model = create_model(place, **fields)
        self._names = tuple(fields)

    def read(self, texts: list[tuple[str, str]], values: dict[str, Any], errors: Errors) -> None:
        """Put what is valid into `values`, and what is not into `errors`."""
        given: dict[str, Any] = {}
        for name, text in texts:
            if name in self._lists:
                given.setdefault(name, []).append(text)
            else:
                given[name] = text
        try:
            found = self._model.model_validate(given)
        except ValidationError as error:
            errors += _at(self._place, error)
        else:
            values.update((name, getattr(found, name)) for name in self._names)


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


def _compiled(endpoint: Endpoint, guards: list[Guard]) -> ASGIApp:
    parameters = inspect.signature(endpoint, eval_str=True).parameters
    kinds = {name: _kind(parameter) for name, parameter in parameters.items()}
    path, query = (
        _Values(kind, {name: parameters[name] for name in parameters if kinds[name] == kind})
        for kind in ("path", "query")
    )
    has_path, has_query = "path" in kinds.values(), "query" in kinds.values()
    bodies = [_Body(parameters[name]) for name in parameters if kinds[name] == "body"]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
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
        response = await endpoint(request, **values)
        await response(scope, receive, send)

    return app


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


class ShortCut:
    """Middleware that takes requests of compiled routes past FastAPI's own, which has nothing to do there.

    What an endpoint raises is answered by the app's exception handlers, as it would be there. A request that
    no compiled route takes goes on to FastAPI.
    """

    def __init__(self, app: ASGIApp, owner: FastAPI) -> None:
        self._app = app
        self._handlers = owner.exception_handlers
        self._exact: dict[tuple[str, str], CompiledRoute] = {}
        self._others: list[CompiledRoute] = []
        for route in owner.router.routes:
            if isinstance(route, CompiledRoute):
                if route.param_convertors:
                    self._others.append(route)
                else:
                    self._exact.update(((method, route.path), route) for method in route.methods or ())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._route(scope) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        try:
            await route.app(scope, receive, send)
        except Exception as error:
            handler = next((h for c in type(error).__mro__ if (h := self._handlers.get(c))), None)
            if handler is None or type(error) is Exception or handler is self._handlers.get(Exception):
                raise  # what nobody expected: the outermost middleware answers, and the server logs it
            response = await handler(Request(scope, receive, send), error)  # type: ignore[misc]
            await response(scope, receive, send)

    def _route(self, scope: Scope) -> CompiledRoute | None:
        """The route of a request, its parameters put into the scope."""
        method, path = scope["method"], scope["path"]
        if (route := self._exact.get((method, path))) is not None:
            scope["path_params"] = {}
            return route
        for route in self._others:
            if method in route.methods and (match := route.path_regex.match(path)):  # type: ignore[operator]
                scope["path_params"] = match.groupdict()
                return route
        return None
