"""An operation: one call of the API, a method whose annotations say what it reads and what it answers.

    @operation("GET", "/recommend", tag="recommendations", problems=(404, 503))
    async def recommend(self, query: RecommendQuery) -> RecommendationAnswer: ...

`path`, `query` and `body` are msgspec structs (a body may be a list): decoding checks them, and OpenAPI is
made of the same types (`service.http.openapi`), so that it cannot drift. A method that has a `caller` is told
whose key it was. Each is an ordinary Starlette route.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple, get_type_hints
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.catalogue.places import located
from service.http.guards.api_keys import offer_query_key
from service.http.guards.keyring import KEY
from service.http.guards.rate_limit import InFlight
from service.http.problems import NOT_JSON, Problem, invalid_input
from service.http.request_log import ANSWER, ASKED
from service.http.schemas import PATTERN_MEANINGS
from service.process.metrics import REFUSED
from service.process.settings import Caller

Guard = Callable[[Request], Awaitable[None]]  # raises `Problem`, or lets the request pass
Limit = Callable[[Request, int], Awaitable[None]]  # so does this, and counts it for so many requests
Handler = Callable[..., Awaitable[Any]]

_JSON = b"application/json"
_LINES = b"application/x-ndjson"
_TEXT = b"text/plain"  # what a page may send to another site without asking first
_JSON_HEADER = (b"content-type", _JSON)
_DECLARED = "__operation__"


class Guards(NamedTuple):
    """Who is let in, and how often; None where that is no question."""

    key: Guard | None
    limit: Limit | None

    async def __call__(self, request: Request) -> None:
        """Let one request pass. Raises `Problem`."""
        if self.key is not None:
            await self.key(request)
        if self.limit is not None:
            await self.limit(request, 1)


@dataclass(frozen=True)
class Declared:
    """What the decorator says of a handler."""

    method: str
    path: str
    tag: str
    problems: tuple[int, ...]
    status: int
    scope: Caller
    is_batch: bool
    batch_share: int
    max_lines: int
    is_beacon: bool

    @property
    def path_format(self) -> str:
        """The path as OpenAPI writes it."""
        return self.path.replace(":path}", "}")


def operation(
    method: str,
    path: str,
    *,
    tag: str,
    problems: tuple[int, ...] = (),
    status: int = HTTPStatus.OK,
    scope: Caller = "public",
    is_batch: bool = False,
    batch_share: int = 1,
    max_lines: int = 0,
    is_beacon: bool = False,
) -> Callable[[Handler], Handler]:
    """Declare a method as the answer to a call; `problems` are the statuses of its own problem documents.

    `is_batch`: its body is a list, which counts for as many requests as it holds, or, with a
    `batch_share`, for one request of so many. `max_lines`: that list may come as so many lines of JSON too,
    and may be as large as a batch. `is_beacon`: browsers send it with navigator.sendBeacon, too, which sets
    no headers: its JSON may be called text, and a public key stand in the query.
    """

    def declare(handler: Handler) -> Handler:
        setattr(
            handler,
            _DECLARED,
            Declared(method, path, tag, problems, status, scope, is_batch, batch_share, max_lines, is_beacon),
        )
        return handler

    return declare


class Operation:
    """One call of the API, as an ASGI application: guard, read, decode, handle, encode."""

    def __init__(self, handler: Handler, guards: Guards, in_flight: InFlight, max_body_bytes: int) -> None:
        self.declared: Declared = getattr(handler, _DECLARED)
        self.name = handler.__name__
        self.description = inspect.getdoc(handler) or ""
        hints = get_type_hints(handler, include_extras=True)
        self.answer = hints.pop("return")
        self.path, self.query, self.body = (hints.pop(place, None) for place in ("path", "query", "body"))
        self._tells_caller = hints.pop("caller", None) is not None
        assert not hints, f"{self.name}: {sorted(hints)} is neither path, query, body nor caller"
        self.route = Route(self.declared.path, self, methods=[self.declared.method], name=self.name)
        self._handler = handler
        self._key, self._limit = guards
        self._in_flight = in_flight
        self._max_body_bytes = max_body_bytes
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(self.body).decode if self.body is not None else None
        self._lists = _list_fields(self.query) if self.query is not None else frozenset()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self.route  # as FastAPI's own routes do: who measures or traces looks for it
        if self._key is not None:
            if self.declared.is_beacon:
                offer_query_key(scope)
            await self._key(Request(scope))
        is_batch = self.declared.is_batch
        if self._limit is not None and not is_batch:
            await self._limit(Request(scope), 1)
        asked: dict[str, Any] = {}
        scope[ASKED] = asked
        if self.path is not None:
            asked["path"] = _convert(scope["path_params"], self.path, "path")
        if self.query is not None:
            asked["query"] = _convert(self._query_values(scope["query_string"]), self.query, "query")
        if self._decode is not None:
            cost = 1
            try:
                content = await read_body(scope, receive, self._max_body_bytes)
                if self.declared.max_lines and _is_lines(scope):
                    asked["body"] = _lines(content, self.declared.max_lines)
                elif not _is_json(scope, or_text=self.declared.is_beacon):
                    raise invalid_input("body", NOT_JSON if content else "Field required")
                else:
                    asked["body"] = decode(self._decode, content, "body")
                if is_batch:
                    cost = -(-len(asked["body"]) // self.declared.batch_share)
            finally:
                if self._limit is not None and is_batch:  # only now is known what it costs
                    await self._limit(Request(scope), cost)
        if self._tells_caller:  # nobody is trusted for what no key is asked for
            asked["caller"] = scope[KEY].scope if KEY in scope else "public"
        with self._in_flight:  # only now: who is slow to send would hold a place that others need
            scope[ANSWER] = answer = await self._handler(**asked)
        if isinstance(answer, Response):  # one that needs headers of its own
            await answer(scope, receive, send)
        elif answer is None:
            await Response(status_code=self.declared.status)(scope, receive, send)
        else:
            content = self._encode(answer)
            headers = [(b"content-length", b"%d" % len(content)), _JSON_HEADER]
            await send({"type": "http.response.start", "status": self.declared.status, "headers": headers})
            await send({"type": "http.response.body", "body": content})

    def _query_values(self, query: bytes) -> dict[str, Any]:
        values: dict[str, Any] = {}
        if not query:
            return values
        try:
            pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="strict")
        except UnicodeDecodeError:  # else whatever is no UTF-8 would be the same U+FFFD
            raise invalid_input("query", "not UTF-8") from None
        for name, text in pairs:
            if name in self._lists:
                values.setdefault(name, []).append(text)
            else:
                values[name] = text
        return values


def operations_of(
    api: object,
    guards: Mapping[Caller, Guards],
    in_flight: InFlight,
    max_body_bytes: int,
    max_lines_bytes: int = 0,
) -> list[Operation]:
    """Every operation that an object's methods declare, in their order, behind the guards of its scope.

    `max_lines_bytes`: of a body that may come as lines.
    """
    operations = []
    for name, member in vars(type(api)).items():
        declared: Declared | None = getattr(member, _DECLARED, None)
        if declared is not None:
            most = max_lines_bytes if declared.max_lines else max_body_bytes
            operations.append(Operation(getattr(api, name), guards[declared.scope], in_flight, most))
    return operations


def decode(decoder: Callable[[bytes], Any], content: bytes, place: str) -> Any:
    """What JSON text holds. Raises `Problem` naming the field of `place` that is wrong."""
    try:
        return decoder(content)
    except msgspec.ValidationError as error:
        raise _invalid(error, place) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"not JSON: {_what_is_wrong(error)}" if content else "Field required"
        raise invalid_input(place, message) from None


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """A request's whole body. Raises `Problem` for a larger one, `ClientDisconnect` for one cut short.

    How long it may take is the connection's business (`service.process.protocol`), which answers 408 itself.
    """
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if int(declared) > max_bytes:  # the server checked the number
        raise _too_large(max_bytes)
    body: bytes = b""
    rest: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        if body:  # most bodies are one piece
            rest.append(message["body"])
        else:
            body = message["body"]
        size += len(message["body"])
        if size > max_bytes:
            raise _too_large(max_bytes)
        if not message["more_body"]:
            return b"".join([body, *rest]) if rest else body


def _too_large(max_bytes: int) -> Problem:
    REFUSED.labels("body").inc()
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "body-too-large",
        f"the body is larger than {max_bytes} bytes",
        {"Connection": "close"},
    )


def _convert(values: dict[str, Any], kind: type[msgspec.Struct], place: str) -> Any:
    try:
        return msgspec.convert(values, kind, strict=False)  # what comes as text may be a number
    except msgspec.ValidationError as error:
        raise _invalid(error, place) from None


def _invalid(error: msgspec.ValidationError, place: str) -> Problem:
    """msgspec's error, which tells of the first wrong field, with that field's path as clients write it."""
    return invalid_input(*located(error, place, PATTERN_MEANINGS))


def _what_is_wrong(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"a string is not UTF-8: {error.reason}"
    if str(error) == "Input data was truncated":  # msgspec's word for half a surrogate pair, too
        return "it ends in the middle, or a string holds half a surrogate pair"
    return str(error)


def _list_fields(kind: type[msgspec.Struct]) -> frozenset[str]:
    """The parameters that may be given more than once."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)

    def bare(each: msgspec.inspect.Type) -> msgspec.inspect.Type:
        return bare(each.type) if isinstance(each, msgspec.inspect.Metadata) else each

    return frozenset(f.name for f in info.fields if isinstance(bare(f.type), msgspec.inspect.ListType))


def _is_json(scope: Scope, *, or_text: bool) -> bool:
    """Whether the request says that its body is JSON, or, as a beacon, text."""
    declared = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    if declared == _JSON:
        return True
    kind = declared.partition(b";")[0].strip().lower()
    return (
        kind == _JSON
        or (or_text and kind == _TEXT)
        or (kind.startswith(b"application/") and kind.endswith(b"+json"))
    )


def _is_lines(scope: Scope) -> bool:
    """Whether the request says that its body is lines of JSON."""
    declared = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    return bool(declared.partition(b";")[0].strip().lower() in (_LINES, b"application/jsonl"))


def _lines(content: bytes, most: int) -> list[msgspec.Raw]:
    """The lines that hold something. Raises `Problem` when there are too few or too many."""
    lines = [msgspec.Raw(line) for line in content.split(b"\n") if line.strip()]
    if not lines:
        raise invalid_input("body", "Expected array of length >= 1")
    if len(lines) > most:
        raise invalid_input("body", f"Expected array of length <= {most}")
    return lines
