"""The shop at `/`: a page that is nothing but the tag and the public calls, to try a model by clicking.

What it may load, and from where, is its policy's to say: nothing inline, and no host but this one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.http.pages.file import File

FILES = Path(__file__).parent / "static" / "shop"
PAGE = "index.html"
# What it shows of an item, as far as pages may see that.
FIELDS = ("title", "price", "currency", "brand", "image_url", "categories", "url", "available")
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: https: http:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "Referrer-Policy": "no-referrer",
}


def shop(key: str | None, private: Collection[str], placements: Callable[[], Sequence[str]]) -> list[Route]:
    """The routes of the page and its files.

    `key` is the public one, with which the page asks; `private` are attributes that it may not ask for;
    `placements` names those that it may.
    """
    fields = [name for name in FIELDS if name not in private]

    async def config(_: Request) -> Response:
        """What the page needs before it can ask the API anything."""
        told = json.dumps({"key": key, "fields": fields, "placements": list(placements())})
        return Response(told, headers=HEADERS, media_type="application/json")

    routes = [Route("/shop/config.json", config, include_in_schema=False)]
    for file in sorted(FILES.iterdir()):
        path = "/" if file.name == PAGE else f"/shop/{file.name}"
        # Asked for again each time, so that a page never runs with another version's script.
        routes.append(File(path, file.read_bytes(), KINDS[file.suffix], HEADERS, max_age_seconds=0).route)
    return routes
