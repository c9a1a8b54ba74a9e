"""The page that asks for the admin's key: plain HTML, so that nothing else is open without a login."""

from __future__ import annotations

from html import escape
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs

import httpx
from fastapi import APIRouter, Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from console.door.gate import COOKIE, LIFETIME_SECONDS, LOGIN_KEY, Logins, token_of
from console.service import Service, ServiceError

MOST_BYTES = 4096  # of the form
STYLE = Path(__file__).parents[1] / "console.css"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Log in · Nextclick</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/console.css">
</head>
<body class="login">
<main>
<h1>Nextclick console</h1>
<p>For the service at <span class="address">{url}</span></p>
{notice}
<form method="post" action="/login">
<label for="key">Admin key</label>
<input id="key" name="key" type="password" autocomplete="current-password" required autofocus{described}>
<p class="caption">The value of NEXTCLICK_ADMIN_API_KEY. It stays in the console's process.</p>
<button type="submit">Log in</button>
</form>
</main>
</body>
</html>
"""


def login_routes(http: httpx.AsyncClient, url: str, logins: Logins) -> APIRouter:
    """The routes that are open to everybody, and the way out."""
    router = APIRouter(include_in_schema=False)

    @router.head("/login")
    @router.get("/login")
    async def ask(request: Request) -> Response:
        if request.scope[LOGIN_KEY] is not None:
            return RedirectResponse("/", HTTPStatus.SEE_OTHER)
        return _page(url)

    @router.post("/login")
    async def log_in(request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                return _page(url, "no key is as long as that", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        key = parse_qs(body.decode(errors="replace")).get("key", [""])[0].strip()
        service = Service(http, url, key)
        try:
            await service.check_key()
        except ServiceError as error:
            return _refused(url, error)
        logins.end(token_of(request.headers))  # not the same token as before
        response = RedirectResponse("/", HTTPStatus.SEE_OTHER)
        response.set_cookie(
            COOKIE,
            logins.begin(service),
            max_age=LIFETIME_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    @router.post("/logout")
    async def log_out(request: Request) -> Response:
        logins.end(token_of(request.headers))
        response = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    @router.head("/console.css")
    @router.get("/console.css")
    async def style() -> Response:
        return FileResponse(STYLE, media_type="text/css", headers={"Cache-Control": "no-cache"})

    return router


def _refused(url: str, error: ServiceError) -> Response:
    """The service's own answer, passed on: who guesses keys is held off by its limit, not by one of ours."""
    status, said = HTTPStatus.FORBIDDEN, error.detail
    headers: dict[str, str] = {}
    if error.status is None:
        status = HTTPStatus.BAD_GATEWAY
    elif error.status == HTTPStatus.TOO_MANY_REQUESTS:
        status = HTTPStatus.TOO_MANY_REQUESTS
        if error.retry_after is not None:
            headers = {"Retry-After": str(error.retry_after)}
            said += f" (try again in {error.retry_after} s)"
    elif error.status not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        status = HTTPStatus.BAD_GATEWAY
    elif error.kind == "key-wrong":
        said = "This is not the service's admin key."
    return _page(url, said, status, headers)


def _page(
    url: str, problem: str = "", status: int = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    notice = f'<p class="notice bad" id="problem" role="alert">{escape(problem)}</p>' if problem else ""
    described = ' aria-describedby="problem" aria-invalid="true"' if problem else ""
    content = PAGE.format(url=escape(url), notice=notice, described=described)
    return HTMLResponse(content, status, {"Cache-Control": "no-store", **(headers or {})})
