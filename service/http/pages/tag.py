"""GET /nextclick.js: the tag, which pages of any origin may load."""

from __future__ import annotations

from pathlib import Path

from starlette.routing import Route

from service.http.pages.file import File

PATH = "/nextclick.js"
IN_CHECKOUT = Path(__file__).parents[3] / "clients" / "js" / "src" / "nextclick.js"
IN_WHEEL = Path(__file__).parent / "static" / "nextclick.js"  # setup.py puts it there
FOR_ANY_ORIGIN = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}


def tag() -> list[Route]:
    """The tag's route, which answers with the file as written in a checkout; none where it was left out."""
    files = [file for file in (IN_CHECKOUT, IN_WHEEL) if file.exists()][:1]
    return [
        File(PATH, file.read_bytes(), "text/javascript; charset=utf-8", FOR_ANY_ORIGIN).route
        for file in files
    ]
