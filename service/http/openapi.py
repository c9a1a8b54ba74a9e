"""OpenAPI: FastAPI's description of the operators' calls, and that of the shop's, made of their own types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import msgspec
from fastapi import FastAPI
from fastapi.security import APIKeyHeader
from starlette.responses import Response

from service.http.guards.api_keys import PUBLIC_KEY, PUBLIC_KEY_IN_QUERY, SERVER_KEY
from service.http.operations import Operation
from service.http.problems import SOMETIMES_RETRY_AFTER, described
from service.http.schemas import BatchClickBody, ProblemDocument
from service.process.settings import Caller

LINES = "application/x-ndjson"
REFERENCE = "#/components/schemas/{name}"
ALWAYS_POSSIBLE = (401, 403, 422, 429)  # key, fields, rate

KEYS: dict[Caller, APIKeyHeader] = {"public": PUBLIC_KEY, "server": SERVER_KEY}

Schema = dict[str, Any]


def describe(
    app: FastAPI, operations: list[Operation], referred: Sequence[type], unlocked: Sequence[Caller]
) -> None:
    """Have the application's OpenAPI document hold these operations too.

    `referred`: what their types name and do not hold; `unlocked`: who needs no key.
    """
    generate = app.openapi

    def openapi() -> Schema:
        document = generate()
        if not any(each.declared.path_format in document["paths"] for each in operations):
            _add(document, operations, referred)
            _unlock(document, [KEYS[caller].scheme_name for caller in unlocked])
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _add(document: Schema, operations: list[Operation], referred: Sequence[type]) -> None:
    kinds = [BatchClickBody, ProblemDocument, *referred]
    for each in operations:
        kinds += [kind for kind in (each.path, each.query, each.body, _answer(each)) if kind is not None]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=REFERENCE)
    schema_of = dict(zip(kinds, schemas, strict=True))
    schemes = document["components"].setdefault("securitySchemes", {})
    for key in (*KEYS.values(), PUBLIC_KEY_IN_QUERY):
        schemes[key.scheme_name] = key.model.model_dump(by_alias=True, exclude_none=True, mode="json")
    parameters_only = {kind.__name__ for each in operations for kind in (each.path, each.query) if kind}
    for name, schema in components.items():
        if name not in parameters_only:
            document["components"]["schemas"][name] = schema

    def parameters(kind: Any, place: str) -> list[Schema]:
        if kind is None:
            return []
        fields = components[kind.__name__]
        return [_parameter(name, place, schema, fields) for name, schema in fields["properties"].items()]

    for each in operations:
        declared, answer = each.declared, _answer(each)
        success: Schema = {"description": "Successful Response"}
        if answer is not None:
            success["content"] = {"application/json": {"schema": schema_of[answer]}}
        if Response in get_args(each.answer):  # to be sent again in part
            success["headers"] = SOMETIMES_RETRY_AFTER
        problems = {*declared.problems, *ALWAYS_POSSIBLE, *((413,) if each.body is not None else ())}
        operation: Schema = {
            "tags": [declared.tag],
            "summary": each.name.replace("_", " ").capitalize(),
            "description": each.description,
            "operationId": each.name,
            "security": [{scheme: []} for scheme in _schemes(each)],
            "parameters": [*parameters(each.path, "path"), *parameters(each.query, "query")],
            "responses": {
                str(int(declared.status)): success,
                **{str(status): problem for status, problem in described(*problems).items()},
            },
        }
        if each.body is not None:
            content = {"application/json": {"schema": schema_of[each.body]}}
            if declared.max_lines:
                content[LINES] = {"schema": {"type": "string", "description": "one item a line"}}
            if declared.is_beacon:
                content["text/plain"] = {"schema": schema_of[each.body]}
            operation["requestBody"] = {"required": True, "content": content}
        path = document["paths"].setdefault(declared.path_format, {})
        path[declared.method.lower()] = operation


def _unlock(document: Schema, schemes: Sequence[str]) -> None:
    """Where no key is set, one may be sent, and none is needed."""
    for path in document["paths"].values():
        for operation in path.values():
            security = operation.get("security", [])
            if any(scheme in each for each in security for scheme in schemes):
                operation["security"] = [*security, {}]


def _schemes(operation: Operation) -> list[str]:
    """Any of which passes."""
    asked = KEYS[operation.declared.scope].scheme_name
    return [asked, PUBLIC_KEY_IN_QUERY.scheme_name] if operation.declared.is_beacon else [asked]


def _parameter(name: str, place: str, schema: Schema, fields: Schema) -> Schema:
    parameter = {"name": name, "in": place, "required": name in fields.get("required", []), "schema": schema}
    if "description" in schema:
        parameter["description"] = schema["description"]
    return parameter


def _answer(operation: Operation) -> Any:
    """The type of the answer; None where there is no content."""
    kinds = [kind for kind in get_args(operation.answer) or (operation.answer,) if kind is not Response]
    return kinds[0] if kinds[0] is not type(None) else None
