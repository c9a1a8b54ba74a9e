"""Who may call what: the shoppers' key, that of the shop's own server, and the admin's."""

from __future__ import annotations

import secrets
from http import HTTPStatus

from fastapi import Request
from fastapi.security import APIKeyHeader
from pydantic import SecretStr

from service.http.problems import Problem
from service.process.metrics import REFUSED

HEADER = "X-API-Key"
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


class ShopKey:
    """A guard of what a shop calls, its pages or its server."""

    def __init__(self, key: SecretStr) -> None:
        self._key = key

    async def __call__(self, request: Request) -> None:
        require(self._key, request)


class AdminKey:
    """A guard of what changes how the service answers; without a key configured, of all of it."""

    def __init__(self, key: SecretStr | None) -> None:
        self._key = key

    async def __call__(self, request: Request) -> None:
        if self._key is None:
            raise Problem(
                HTTPStatus.FORBIDDEN,
                "admin-disabled",
                "no admin key is configured: set NEXTCLICK_ADMIN_API_KEY to use /admin",
            )
        require(self._key, request)


def require(expected: SecretStr, request: Request) -> None:
    """Refuses a request that does not carry the key. Raises `Problem`."""
    key = request.headers.get(HEADER)
    if key is None:
        REFUSED.labels("key").inc()
        raise Problem(
            HTTPStatus.UNAUTHORIZED,
            "key-missing",
            f"send your key in the header {HEADER}",
            {"WWW-Authenticate": "ApiKey"},
        )
    if not secrets.compare_digest(expected.get_secret_value().encode(), key.encode()):
        REFUSED.labels("key").inc()
        raise Problem(HTTPStatus.FORBIDDEN, "key-wrong", f"the key in the header {HEADER} is not valid here")
