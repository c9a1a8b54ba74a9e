"""GET /nextclick.js: what a page of any origin gets, and how seldom it is sent again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from service.http.pages.tag import IN_CHECKOUT
from tests.service.serving import Serving, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
async def service(artifacts: Path, redis_url: str) -> AsyncIterator[Serving]:
    """One that asks for keys, and lets an address ask once a minute."""
    keys = {"api_key": "a-public-key", "rate_limit_per_minute": 1}
    async with serving(artifacts, redis_url, **keys) as each:
        yield each


async def tag(service: Serving, method: str = "GET", **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await service.client.request(method, "/nextclick.js", headers=sent)


async def test_anybody_may_load_it_from_anywhere_as_often_as_they_like(service: Serving) -> None:
    answers = [await tag(service) for _ in range(5)]
    assert {each.status_code for each in answers} == {200}
    headers = answers[0].headers
    assert headers["content-type"] == "text/javascript; charset=utf-8"
    assert headers["access-control-allow-origin"] == "*"
    assert headers["cross-origin-resource-policy"] == "cross-origin"
    assert headers["cache-control"] == "public, max-age=3600"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-request-id"]
    assert answers[0].content == IN_CHECKOUT.read_bytes()


async def test_it_is_packed_for_those_who_unpack(service: Serving) -> None:
    for accepted in ("gzip", "br, gzip;q=0.5", "deflate,GZIP ; q=1.0"):
        answer = await tag(service, accept_encoding=accepted)
        assert answer.headers["content-encoding"] == "gzip", accepted
        assert int(answer.headers["content-length"]) < len(IN_CHECKOUT.read_bytes()) / 2
        assert answer.content == IN_CHECKOUT.read_bytes(), "the client has unpacked it"
    for accepted in ("identity", "br", "gzip;q=0", "gzip; q=0.00", "x-gzip-not"):
        answer = await tag(service, accept_encoding=accepted)
        assert "content-encoding" not in answer.headers, accepted
        assert answer.headers["vary"] == "Accept-Encoding"


async def test_who_has_it_gets_no_body(service: Serving) -> None:
    for accepted in ("gzip", "identity"):
        etag = (await tag(service, accept_encoding=accepted)).headers["etag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            again = await tag(service, accept_encoding=accepted, if_none_match=known)
            assert (again.status_code, again.content) == (304, b""), known
            assert (again.headers["etag"], again.headers["cache-control"]) == (etag, "public, max-age=3600")
        other = await tag(service, accept_encoding=accepted, if_none_match='"other"')
        assert other.status_code == 200
    plain, packed = [
        (await tag(service, accept_encoding=each)).headers["etag"] for each in ("identity", "gzip")
    ]
    assert plain != packed, "they are different bytes"


async def test_other_methods(service: Serving) -> None:
    head = await tag(service, "HEAD", accept_encoding="identity")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(IN_CHECKOUT.read_bytes())
    refused = await tag(service, "POST")
    assert (refused.status_code, refused.headers["content-type"]) == (405, "application/problem+json")
    assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD"}


async def test_all_else_is_not_kept(service: Serving) -> None:
    answer = await service.client.get("/trending", headers={"X-API-Key": "a-public-key"})
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    nowhere = await service.client.get("/nowhere.js")
    assert (nowhere.status_code, nowhere.headers["cache-control"]) == (404, "no-store")
