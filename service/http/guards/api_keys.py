"""Who may call what: the key of a shop's pages, those of its own servers, and those of its operators."""

from __future__ import annotations

import time
from collections.abc import Collection, MutableMapping
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import Request
from fastapi.security import APIKeyHeader, APIKeyQuery

from service.http.guards.keyring import KEY, Key, Keyring
from service.http.guards.rate_limit import address_of, too_many
from service.http.problems import Problem
from service.process.metrics import REDIS_ERRORS, REFUSED
from service.process.settings import Caller
from service.state.link import StoreUnavailable
from service.state.store import SessionStore

HEADER = "X-API-Key"
QUERY = "key"
KNOWN_SECONDS = 60  # so long a worker need not ask Redis again about an address that has sent the right key
MOST_KNOWN = 10_000  # such addresses
PUBLIC_KEY = APIKeyHeader(
    name=HEADER,
    scheme_name="PublicKey",
    description="a key of scope public, or of a higher one; needed where there is a public key",
    auto_error=False,
)
PUBLIC_KEY_IN_QUERY = APIKeyQuery(
    name=QUERY,
    scheme_name="PublicKeyInQuery",
    description="a public key, for navigator.sendBeacon, which sets no headers",
    auto_error=False,
)
SERVER_KEY = APIKeyHeader(
    name=HEADER,
    scheme_name="ServerKey",
    description="a key of scope server or admin; where there is none, NEXTCLICK_API_KEY",
    auto_error=False,
)
ADMIN_KEY = APIKeyHeader(
    name=HEADER, scheme_name="AdminKey", description="a key of scope admin", auto_error=False
)

_HEADER = HEADER.lower().encode()
_IN_QUERY = QUERY.encode() + b"="
_HIDDEN = "nextclick.key_of_query"
_FROM_QUERY = "nextclick.sent_key"

Scope = MutableMapping[str, Any]


def hide_query_key(scope: Scope) -> bool:
    """Take a key out of the query before anybody traces or tells that; it is kept for who may look.

    FastAPI asks this whether to leave a request out of its traces (False), before it begins with one.
    """
    if _IN_QUERY in scope.get("query_string", b""):
        parts = scope["query_string"].split(b"&")
        sent = [part for part in parts if part.startswith(_IN_QUERY)]
        if sent:
            scope[_HIDDEN] = unquote_to_bytes(sent[0][len(_IN_QUERY) :])
            scope["query_string"] = b"&".join(part for part in parts if not part.startswith(_IN_QUERY))
    return False


def offer_query_key(scope: Scope) -> None:
    """Let the guard look at the key in the query, too: what a beacon calls does so before."""
    hide_query_key(scope)
    scope[_FROM_QUERY] = scope.get(_HIDDEN)


class WrongKeys:
    """How many wrong keys one address may send to each kind of call in a minute, over all workers; 0: any.

    Beyond that it is no longer told whether a key is right, or it would only have to go on until one is. An
    address that has sent a right key within a day still passes with it. While Redis is down, nobody is
    limited.
    """

    def __init__(self, store: SessionStore, per_minute: int) -> None:
        self._store = store
        self._per_minute = per_minute
        self._right: dict[tuple[str, str], float] = {}  # whose key from where, and how long we need not ask

    async def look(self, caller: Caller, request: Request, right: Key | None) -> None:
        """Count a key that came. Raises `Problem` when it may not be told whether it is one that passes."""
        if not self._per_minute:
            return
        address, label = address_of(request), right.label if right is not None else caller
        now, is_right = time.monotonic(), right is not None
        if is_right and self._right.get((label, address), 0.0) > now:
            return
        try:
            wait_seconds = await self._store.try_key(
                caller, address, self._per_minute, is_right=is_right, label=label
            )
        except StoreUnavailable:
            REDIS_ERRORS.labels("try_key").inc()
            return
        if wait_seconds > 0:
            REFUSED.labels("wrong_keys").inc()
            detail = (
                f"more than {self._per_minute} wrong keys per minute from this address: none is tried now"
            )
            raise too_many("wrong-keys", detail, wait_seconds)
        if is_right:
            if len(self._right) >= MOST_KNOWN:
                self._right.clear()
            self._right[label, address] = now + KNOWN_SECONDS


class KeyGuard:
    """A guard that asks for a key, and leaves in the scope whose it was."""

    def __init__(
        self,
        caller: Caller,
        keys: Keyring,
        passing: Collection[str],
        wrong_keys: WrongKeys,
        *,
        asks: bool = True,
    ) -> None:
        """`passing`: the labels of the keys that pass here. Unless it `asks`, it lets everyone pass, and
        only looks whether they hold one.
        """
        self._caller = caller
        self._keys = keys
        self._passing = frozenset(passing)
        self._wrong_keys = wrong_keys
        self._asks = asks

    async def __call__(self, request: Request) -> None:
        """Refuse a request that does not carry a key that passes. Raises `Problem`."""
        scope = request.scope
        sent: bytes | None = None
        for name, value in scope["headers"]:
            if name == _HEADER:
                sent = value.decode("latin-1").encode()
                break
        is_of_query = sent is None
        if sent is None:
            sent = scope.get(_FROM_QUERY)
        if sent is None:
            if self._asks:
                raise _missing()
            return
        key = self._keys.find(sent)
        # What is secret has no place in a URL, and is of no use there.
        if key is not None and (key.label not in self._passing or (is_of_query and key.scope != "public")):
            key = None
        # The key that stands in a shop's pages is no secret: who sends it passes always.
        if key is None or key.scope != "public" or self._caller != "public":
            try:
                await self._wrong_keys.look(self._caller, request, key)
            except Problem:
                if self._asks:
                    raise
                return
        if key is None:
            if self._asks:
                raise _wrong()
            return
        if key.origins and not _is_of(scope, key.origins):
            REFUSED.labels("key").inc()
            raise Problem(
                HTTPStatus.FORBIDDEN, "origin-not-allowed", "this key is for pages of other origins"
            )
        scope[KEY] = key


async def no_admin_key(_: Request) -> None:
    """A guard of what changes how the service answers, without a key configured: nobody passes."""
    raise Problem(
        HTTPStatus.FORBIDDEN,
        "admin-disabled",
        "no admin key is configured: set NEXTCLICK_ADMIN_API_KEY to use /admin",
    )


async def no_server_key(_: Request) -> None:
    """A guard of what is not for pages, where pages alone have keys: nobody passes."""
    raise Problem(
        HTTPStatus.FORBIDDEN,
        "server-disabled",
        "no key of scope server is configured: set NEXTCLICK_SERVER_API_KEY, or add one to NEXTCLICK_KEYS",
    )


def _missing() -> Problem:
    REFUSED.labels("key").inc()
    return Problem(
        HTTPStatus.UNAUTHORIZED,
        "key-missing",
        f"send your key in the header {HEADER}",
        {"WWW-Authenticate": "ApiKey"},
    )


def _wrong() -> Problem:
    REFUSED.labels("key").inc()
    return Problem(HTTPStatus.FORBIDDEN, "key-wrong", f"the key in the header {HEADER} is not valid here")


def _is_of(scope: Scope, origins: frozenset[bytes]) -> bool:
    """Whether a page of these origins asks, as far as browsers tell: other programs can say anything.

    A page that asks its own host by GET sends no `Origin`.
    """
    headers = dict(scope["headers"])
    origin = headers.get(b"origin")
    if origin is None and headers.get(b"sec-fetch-site") == b"same-origin":
        return any(each.partition(b"://")[2] == headers.get(b"host") for each in origins)
    return origin in origins
