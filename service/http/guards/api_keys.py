"""Who may call what: the shoppers' key, that of the shop's own server, and the admin's."""

from __future__ import annotations

import secrets
import time
from http import HTTPStatus

from fastapi import Request
from fastapi.security import APIKeyHeader
from pydantic import SecretStr

from service.http.guards.rate_limit import address_of, too_many
from service.http.problems import Problem
from service.process.metrics import REDIS_ERRORS, REFUSED
from service.state.link import StoreUnavailable
from service.state.store import SessionStore

HEADER = "X-API-Key"
KNOWN_SECONDS = 60  # so long a worker need not ask Redis again about an address that has sent the right key
MOST_KNOWN = 10_000  # such addresses
SHOPPER_KEY = APIKeyHeader(
    name=HEADER,
    scheme_name="ShopperKey",
    description="NEXTCLICK_API_KEY; needed where one is set",
    auto_error=False,
)
SERVER_KEY = APIKeyHeader(
    name=HEADER,
    scheme_name="ServerKey",
    description="NEXTCLICK_SERVER_API_KEY; where none is set, NEXTCLICK_API_KEY",
    auto_error=False,
)
ADMIN_KEY = APIKeyHeader(
    name=HEADER, scheme_name="AdminKey", description="NEXTCLICK_ADMIN_API_KEY", auto_error=False
)


class WrongKeys:
    """How many wrong keys of each kind one address may send in a minute, over all workers; 0 is no limit.

    Beyond that it is no longer told whether a key is right, or it would only have to go on until one is. An
    address that has sent the right key within a day still passes with it. While Redis is down, nobody is
    limited.
    """

    def __init__(self, store: SessionStore, per_minute: int) -> None:
        self._store = store
        self._per_minute = per_minute
        self._right: dict[tuple[str, str], float] = {}  # whose key from where, and how long we need not ask

    async def look(self, caller: str, request: Request, *, is_right: bool) -> None:
        """Count a key that came. Raises `Problem` when it may not be told whether that is right."""
        if not self._per_minute:
            return
        address = address_of(request)
        now = time.monotonic()
        if is_right and self._right.get((caller, address), 0.0) > now:
            return
        try:
            wait_seconds = await self._store.try_key(caller, address, self._per_minute, is_right=is_right)
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
            self._right[caller, address] = now + KNOWN_SECONDS


class Key:
    """A guard that asks for a key."""

    def __init__(
        self, caller: str, key: SecretStr, wrong_keys: WrongKeys, *, is_public: bool = False
    ) -> None:
        """`is_public`: it stands in the shop's pages, and is no secret; who sends it passes always."""
        self._caller = caller
        self._key = key.get_secret_value().encode()
        self._wrong_keys = wrong_keys
        self._is_public = is_public

    async def __call__(self, request: Request) -> None:
        """Refuse a request that does not carry the key. Raises `Problem`."""
        sent = request.headers.get(HEADER)
        if sent is None:
            REFUSED.labels("key").inc()
            raise Problem(
                HTTPStatus.UNAUTHORIZED,
                "key-missing",
                f"send your key in the header {HEADER}",
                {"WWW-Authenticate": "ApiKey"},
            )
        is_right = secrets.compare_digest(self._key, sent.encode())
        if not (is_right and self._is_public):
            await self._wrong_keys.look(self._caller, request, is_right=is_right)
        if not is_right:
            REFUSED.labels("key").inc()
            raise Problem(
                HTTPStatus.FORBIDDEN, "key-wrong", f"the key in the header {HEADER} is not valid here"
            )


async def no_admin_key(_: Request) -> None:
    """A guard of what changes how the service answers, without a key configured: nobody passes."""
    raise Problem(
        HTTPStatus.FORBIDDEN,
        "admin-disabled",
        "no admin key is configured: set NEXTCLICK_ADMIN_API_KEY to use /admin",
    )
