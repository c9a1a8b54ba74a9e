"""The service as the console sees it: HTTP, with the admin's key. Whatever goes wrong is a `ServiceError`."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx

KEY_HEADER = "X-API-Key"
TIMEOUT_SECONDS = 10.0
Json = dict[str, Any]
Query = Mapping[str, str | int | float | bool | list[str]]


class ServiceError(RuntimeError):
    """A call that did not do what it should; `status` is None where the service did not answer at all."""

    def __init__(
        self,
        status: int | None,
        detail: str,
        *,
        kind: str = "",
        retry_after: int | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.kind = kind  # of the problem document, like "key-wrong"
        self.retry_after = retry_after  # seconds, where the service said so
        self.fields = fields or {}  # that are wrong, by their path, like body.k, and what is wrong


def segment(text: str) -> str:
    """An id as a part of a path: `f"/items/{segment(item_id)}"`."""
    return quote(text, safe="")


def connection(transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """What all who are logged in share: it asks the service itself, no proxy, and is sent nowhere else."""
    return httpx.AsyncClient(
        timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=False, transport=transport
    )


class Service:
    """Calls with one key."""

    def __init__(self, http: httpx.AsyncClient, url: str, key: str | None = None) -> None:
        self._http = http
        self.url = url.rstrip("/")
        self._headers = {} if key is None else {KEY_HEADER: key}

    def __repr__(self) -> str:
        return f"Service({self.url!r})"  # without the key

    async def get(self, path: str, query: Query | None = None) -> Json:
        """Raises `ServiceError`, as do all of these."""
        return await self._ask("GET", path, query=query)

    async def post(self, path: str, body: object = None, query: Query | None = None) -> Json:
        return await self._ask("POST", path, body, query)

    async def put(self, path: str, body: object = None, query: Query | None = None) -> Json:
        return await self._ask("PUT", path, body, query)

    async def patch(self, path: str, body: object = None, query: Query | None = None) -> Json:
        return await self._ask("PATCH", path, body, query)

    async def delete(self, path: str, query: Query | None = None) -> Json:
        return await self._ask("DELETE", path, query=query)

    async def check_key(self) -> None:
        """Whether it is the admin's. Raises `ServiceError` with the service's own words when it is not."""
        await self.get("/admin/hidden")

    async def not_ready(self) -> str | None:
        """Why it cannot answer, in its words; None when it can. Raises `ServiceError` if nobody answers."""
        try:
            await self.get("/health/ready")
        except ServiceError as error:
            if error.status != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            return error.detail
        return None

    async def _ask(self, method: str, path: str, body: object = None, query: Query | None = None) -> Json:
        try:
            answer = await self._http.request(
                method, self.url + path, headers=self._headers, params=query, json=body
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServiceError(None, f"the service at {self.url} does not answer: {_said(error)}") from error
        except UnicodeEncodeError as error:
            raise ServiceError(None, "the key holds characters that no key has") from error
        if answer.is_success:
            return _document(answer) if answer.content else {}
        problem = _document(answer)
        waits = answer.headers.get("Retry-After", "")
        raise ServiceError(
            answer.status_code,
            str(problem.get("detail") or f"{method} {path} was answered by {answer.status_code}"),
            kind=str(problem.get("type", "")).rpartition(":")[2],
            retry_after=int(waits) if waits.isdecimal() else None,
            fields={str(each["field"]): str(each["message"]) for each in problem.get("errors", [])},
        )


def _document(answer: httpx.Response) -> Json:
    """Raises `ServiceError` for a good answer that is none of Nextclick's."""
    try:
        found = answer.json()
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    if answer.is_success:
        raise ServiceError(answer.status_code, f"what answers at {answer.url} is no Nextclick service")
    return {}


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
