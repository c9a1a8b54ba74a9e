"""Keys by scope: who holds which, what each may ask and see, and that none is ever told."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, Tracer, TracerProvider
from pydantic import SecretStr
from redis import Redis

from service.http.app import create_app
from service.http.guards.api_keys import hide_query_key
from service.http.guards.keyring import Keyring
from service.live.deployment import publish
from service.process.settings import KeyEntry, Settings
from tests.service.bundles import Shop
from tests.service.serving import ADMIN, PATIENT, Serving, item_ids, serving

pytestmark = pytest.mark.anyio

WEB, OLD_WEB, BOUND, SERVER, OPERATOR = (
    f"{name}-hush-0123456789" for name in ("web", "old-web", "bound", "server", "operator")
)
SHOP_PAGE, OTHER_PAGE = "https://shop.example", "https://evil.example"
KEYS: tuple[dict[str, Any], ...] = (
    {"label": "web-2026", "scope": "public", "key": WEB},
    {"label": "web-2025", "scope": "public", "key": OLD_WEB},
    {"label": "checkout", "scope": "public", "key": BOUND, "origins": [SHOP_PAGE]},
    {"label": "backend", "scope": "server", "key": SERVER},
    {"label": "ana", "scope": "admin", "key": OPERATOR},
)
RANDOM_ID = secrets.token_urlsafe(16)
CALLS = {  # one of each scope, and what a caller who passes gets
    "public": ("GET", "/trending", 200),
    "server": ("GET", "/sessions/nobody", 404),
    "admin": ("GET", "/admin/hidden", 200),
}


@pytest.fixture
def published(artifacts: Path) -> Path:
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    (artifacts / "catalogue.toml").write_text(
        'private = ["margin", "price"]\n[attributes]\nmargin = "number"\n'
    )
    return artifacts


@pytest.fixture
async def service(published: Path, redis_url: str) -> AsyncIterator[Serving]:
    settings = {"catalogue_file": published / "catalogue.toml", "catalogue_poll_seconds": 0.02}
    async with serving(published, redis_url, keys=KEYS, admin_api_key=None, **settings) as service:
        yield service


async def ask(service: Serving, scope: str, key: str | None, **headers: str) -> httpx.Response:
    method, path, _ = CALLS[scope]
    sent = headers | ({"X-API-Key": key} if key is not None else {})
    return await service.client.request(method, path, headers=sent)


def problem(answer: httpx.Response) -> str:
    return str(answer.json()["type"]).removeprefix("urn:nextclick:problem:")


def with_key(key: str) -> dict[str, str]:
    return {"X-API-Key": key}


class TestScopes:
    @pytest.mark.parametrize(
        ("key", "passes"),
        [
            (WEB, ["public"]),
            (OLD_WEB, ["public"]),
            (SERVER, ["public", "server"]),
            (OPERATOR, ["public", "server", "admin"]),
            ("wrong-hush-012345", []),
        ],
    )
    async def test_a_higher_one_passes_for_the_lower_ones(
        self, service: Serving, key: str, passes: list[str]
    ) -> None:
        for scope, (_, _, status) in CALLS.items():
            answer = await ask(service, scope, key)
            assert answer.status_code == (status if scope in passes else 403), scope
            assert (await ask(service, scope, None)).status_code == 401

    async def test_a_key_is_exchanged_without_a_moment_in_which_none_is_valid(
        self, published: Path, redis_url: str
    ) -> None:
        """The old one is in its own variable, the new one beside it; then there is the new one alone."""
        new = {"label": "new", "scope": "public", "key": WEB}
        for settings, valid in (
            ({"api_key": "old"}, ["old"]),
            ({"api_key": "old", "keys": [new]}, ["old", WEB]),
            ({"keys": [new]}, [WEB]),
        ):
            async with serving(published, redis_url, **settings) as service:
                for key in ("old", WEB):
                    answer = await ask(service, "public", key)
                    assert answer.status_code == (200 if key in valid else 403)

    @pytest.mark.parametrize(
        ("settings", "statuses"),  # of a public, a server's and an admin's call without a key
        [
            ({"admin_api_key": None}, [200, 404, 403]),
            ({}, [200, 404, 401]),
            ({"api_key": "k"}, [401, 401, 401]),
            ({"server_api_key": "k"}, [200, 401, 401]),
            ({"keys": KEYS[3:4]}, [200, 401, 401]),
            ({"keys": KEYS[:1]}, [401, 401, 401]),
            ({"keys": KEYS[:1], "admin_api_key": None}, [401, 403, 403]),
        ],
    )
    async def test_who_needs_none(
        self, published: Path, redis_url: str, settings: dict[str, Any], statuses: list[int]
    ) -> None:
        async with serving(published, redis_url, **settings) as service:
            assert [(await ask(service, scope, None)).status_code for scope in CALLS] == statuses

    async def test_a_listed_public_key_does_not_pass_for_the_server(
        self, published: Path, redis_url: str
    ) -> None:
        """That of NEXTCLICK_API_KEY does where the server has none, as it always did."""
        async with serving(published, redis_url, api_key="old", keys=KEYS[:1]) as service:
            assert (await ask(service, "server", "old")).status_code == 404
            assert (await ask(service, "server", WEB)).status_code == 403
        async with serving(published, redis_url, api_key="old", keys=KEYS[3:4]) as service:
            assert (await ask(service, "server", "old")).status_code == 403

    async def test_where_none_is_needed_a_wrong_one_is_none(self, published: Path, redis_url: str) -> None:
        settings = {"server_api_key": "server-key", "wrong_keys_per_minute": 2}
        async with serving(published, redis_url, **settings) as service:
            for _ in range(5):
                assert (await ask(service, "public", "wrong")).status_code == 200


class TestComparison:
    def test_every_key_is_compared_whichever_it_is(self) -> None:
        compared: list[tuple[bytes, bytes]] = []

        def compare(one: bytes, other: bytes) -> bool:
            compared.append((one, other))
            return secrets.compare_digest(one, other)

        ring = Keyring([KeyEntry.model_validate(each) for each in KEYS], compare)
        for sent, label in ((WEB, "web-2026"), (OPERATOR, "ana"), ("x", None), ("", None)):
            compared.clear()
            found = ring.find(sent.encode())
            assert (found.label if found else None) == label
            assert len(compared) == len(KEYS)
            assert {len(digest) for pair in compared for digest in pair} == {32}, "no length tells of a key"

    def test_nothing_shows_a_key(self) -> None:
        entries = [KeyEntry.model_validate(each) for each in KEYS]
        settings = Settings(keys=tuple(entries), api_key=SecretStr("single-hush"))
        shown = f"{entries} {entries[0]} {Keyring(entries).keys} {settings!r} {settings.every_key}"
        assert "hush" not in shown


class TestRates:
    async def test_each_key_counts_by_its_label(
        self, published: Path, redis_url: str, redis_client: Redis
    ) -> None:
        limits = {"key_rate_limit_per_minute": 2, "rate_limit_per_minute": 1000}
        async with serving(published, redis_url, keys=KEYS, **limits) as service:
            for key in (WEB, OLD_WEB, SERVER):
                answers = [(await ask(service, "public", key)).status_code for _ in range(3)]
                assert answers == [200, 200, 429], key
            for key in (WEB, SERVER):
                refused = await ask(service, "public", key)
                assert refused.json()["detail"] == "more than 2 requests per minute with this key"
        buckets = {name.rpartition("}:")[2] for name in redis_client.scan_iter("rate:*")}
        assert {"key:web-2026", "key:web-2025", "key:backend"} <= buckets

    async def test_the_server_is_counted_by_no_address(self, published: Path, redis_url: str) -> None:
        async with serving(published, redis_url, keys=KEYS, rate_limit_per_minute=1) as service:
            for key, last in ((SERVER, 200), (OPERATOR, 200), (WEB, 429)):
                answers = [(await ask(service, "public", key)).status_code for _ in range(3)]
                assert answers == [200, last, last]

    async def test_who_holds_one_key_does_not_guess_another(self, published: Path, redis_url: str) -> None:
        """The mark that a right key leaves is of that key."""
        async with serving(published, redis_url, keys=KEYS, wrong_keys_per_minute=2) as service:
            assert (await ask(service, "public", SERVER)).status_code == 200
            wrong = [(await ask(service, "public", f"guess-{n}")).status_code for n in range(3)]
            assert wrong == [403, 403, 429]
            assert (await ask(service, "public", OPERATOR)).status_code == 429, "as any other guess"
            assert (await ask(service, "public", SERVER)).status_code == 200
            assert (await ask(service, "public", WEB)).status_code == 200, "that one stands in every page"


class TestOrigins:
    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Origin": SHOP_PAGE}, 200),
            ({"Origin": OTHER_PAGE}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": f"{SHOP_PAGE}:8443"}, 403),
            ({"Origin": "http://shop.example"}, 403),
            ({}, 403),
            # A page that asks its own host by GET.
            ({"Sec-Fetch-Site": "same-origin", "Host": "shop.example"}, 200),
            ({"Sec-Fetch-Site": "same-origin", "Host": "evil.example"}, 403),
            ({"Sec-Fetch-Site": "cross-site", "Host": "shop.example"}, 403),
        ],
    )
    async def test_a_bound_key_is_for_the_pages_of_its_origins(
        self, service: Serving, headers: dict[str, str], status: int
    ) -> None:
        answer = await ask(service, "public", BOUND, **headers)
        assert answer.status_code == status
        if status == 403:
            assert problem(answer) == "origin-not-allowed"
        assert (await ask(service, "public", WEB, **headers)).status_code == 200, "this one is not bound"


class TestBeacon:
    """What navigator.sendBeacon sends: no headers of its own, JSON called text, a key in the query."""

    TEXT = {"Content-Type": "text/plain;charset=UTF-8"}  # noqa: RUF012

    async def test_its_click_is_stored(self, service: Serving) -> None:
        for key, session_id in ((WEB, "a"), (OLD_WEB, "b")):
            body = json.dumps({"item_id": "i1", "event_id": "e"})
            for duplicate in (False, True):
                answer = await service.client.post(
                    f"/sessions/{session_id}/click?key={key}", content=body, headers=self.TEXT
                )
                assert (answer.status_code, answer.json()["duplicate"]) == (200, duplicate)
            assert len(await service.store.read(session_id)) == 1

    async def test_it_is_checked_as_any_other(self, service: Serving) -> None:
        url = f"/sessions/a/click?key={WEB}"
        for content, field in ((b"", "body"), (b"i1", "body"), (b'{"item_id": 1}', "body.item_id")):
            answer = await service.client.post(url, content=content, headers=self.TEXT)
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
        other = await service.client.post(url, content=b"{}", headers={"Content-Type": "text/html"})
        assert other.status_code == 422

    async def test_text_is_text_elsewhere(self, service: Serving) -> None:
        for path in ("/recommend", "/clicks"):
            headers = self.TEXT | with_key(SERVER)
            answer = await service.client.post(path, content=b'{"items": []}', headers=headers)
            assert (answer.status_code, "not sent as JSON" in answer.json()["detail"]) == (422, True)

    @pytest.mark.parametrize("key", [SERVER, OPERATOR, "wrong-hush-012345", ""])
    async def test_a_secret_in_a_query_is_refused(self, service: Serving, key: str) -> None:
        answer = await service.client.post(f"/sessions/a/click?key={key}", json={"item_id": "i1"})
        assert (answer.status_code, problem(answer), "hush" in answer.text) == (403, "key-wrong", False)

    async def test_other_calls_do_not_look_there(self, service: Serving) -> None:
        for _, path, _ in CALLS.values():
            assert (await service.client.get(f"{path}?key={WEB}")).status_code == 401
        assert (await service.client.get(f"/recommend?session_id=s&key={WEB}")).status_code == 401

    async def test_a_header_goes_before_it(self, service: Serving) -> None:
        url = f"/sessions/a/click?key={WEB}"
        wrong = await service.client.post(url, json={"item_id": "i1"}, headers=with_key("wrong"))
        assert wrong.status_code == 403

    async def test_the_rest_of_the_query_stays(self, service: Serving) -> None:
        url = f"/sessions/a/click?recommend=3&key={WEB}&fields=title"
        answer = await service.client.post(url, json={"item_id": "i5"})
        assert len(item_ids(answer.json()["recommendations"])) == 3
        assert "fields" in answer.json()["recommendations"]["items"][0]

    def test_only_a_parameter_of_that_name_is_taken(self) -> None:
        for query, left in (
            (b"", b""),
            (b"monkey=1&k=2", b"monkey=1&k=2"),
            (b"key=hush", b""),
            (b"a=1&key=hush&b=%20&key=hush", b"a=1&b=%20"),
        ):
            scope = {"query_string": query}
            assert hide_query_key(scope) is False
            assert scope["query_string"] == left


class TestLogs:
    async def test_a_line_names_the_label(self, published: Path, redis_url: str) -> None:
        with structlog.testing.capture_logs() as logs:
            async with serving(published, redis_url, keys=KEYS, access_log_share=1) as service:
                for key in (WEB, SERVER, OPERATOR, "wrong-hush-012345", None):
                    await ask(service, "public", key)
                await service.client.post(f"/sessions/a/click?key={WEB}", json={"item_id": "i1"})
                await service.client.post(f"/sessions/a/click?key={SERVER}", json={"item_id": "i1"})
                await service.client.get(f"/nowhere?key={WEB}")
        told = [entry.get("key") for entry in logs if entry["event"] == "request"]
        assert told == ["web-2026", "backend", "ana", None, None, "web-2026", None, None]
        assert "hush" not in str(logs)

    async def test_a_change_is_recorded_with_it(
        self, service: Serving, published: Path, redis_url: str
    ) -> None:
        url = "/admin/placements/home"
        assert (await service.client.put(url, json={"k": 5}, headers=with_key(OPERATOR))).status_code == 200
        async with serving(published, redis_url, keys=KEYS) as other:
            assert (await other.client.put(url, json={"k": 6}, headers=ADMIN)).status_code == 200
            rolled_back = await other.client.post(f"{url}/rollback", headers=with_key(OPERATOR))
            assert rolled_back.status_code == 200
            history = (await other.client.get(f"{url}/history", headers=ADMIN)).json()["versions"]
        assert [version["by"] for version in history] == ["ana", "admin", "ana"]

    async def test_no_trace_holds_a_key(self, published: Path, redis_url: str) -> None:
        """FastAPI's spans hold the query, which they are given before any middleware sees it."""
        spans = Spans()
        settings = {"artifacts_dir": published, "redis_url": redis_url, "redis_timeout_seconds": PATIENT}
        app = create_app(Settings.model_validate(settings | {"keys": KEYS}))
        app._telemetry["tracer_provider"] = spans
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as client,
        ):
            for path in ("/sessions/a/click?recommend=3&key=", "/nowhere?key="):
                await client.post(path + WEB, json={"item_id": "i1"})
        assert len(spans.told) == 2
        assert spans.told[0]["url.query"] == "recommend=3"
        assert "hush" not in str(spans.told)


class Spans(TracerProvider, Tracer):
    """Keeps what spans are begun with."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def get_tracer(self, *_: Any, **__: Any) -> Tracer:
        return self

    def start_span(self, name: str, *_: Any, **options: Any) -> Span:
        self.told.append({"name": name, **(options.get("attributes") or {})})
        return NonRecordingSpan(SpanContext(1, 1, is_remote=False))

    def start_as_current_span(self, *_: Any, **__: Any) -> Any:
        return trace.use_span(NonRecordingSpan(SpanContext(1, 1, is_remote=False)))


class TestPrivate:
    """`margin` and `price` are private in the catalogue.toml of these tests."""

    ITEMS = [  # noqa: RUF012
        {"item_id": f"i{n}", "title": f"Item {n}", "price": 10.0 * n, "margin": 0.1 * n} for n in range(1, 6)
    ]

    @pytest.fixture(autouse=True)
    async def stored(self, service: Serving) -> None:
        put = await service.client.put("/items", json=self.ITEMS, headers=with_key(SERVER))
        assert put.status_code == 200

    async def test_it_is_left_out_of_items(self, service: Serving) -> None:
        for key, shown in ((WEB, {"item_id", "title"}), (SERVER, {"item_id", "title", "price", "margin"})):
            one = await service.client.get("/items/i1", headers=with_key(key))
            page = await service.client.get("/items?query=item", headers=with_key(key))
            for item in (one.json(), *page.json()["items"]):
                assert item.keys() == shown
            assert len(page.json()["items"]) == 5

    async def test_pages_cannot_probe_it(self, service: Serving) -> None:
        """It is as if there were no such attribute: what is private is told like what is misspelt."""
        rule = {"attribute": "margin", "gte": 0.3}
        in_query = (
            ("fields", "margin", "query.fields"),
            ("fields", "title,price", "query.fields"),
            ("filter", json.dumps(rule), "query.filter"),
            ("filter", json.dumps({"not": {"any": [{"near": "price", "percent": 5}]}}), "query.filter"),
            ("filter", json.dumps({"all": [{"same": "margin"}]}), "query.filter"),
            ("price_max", "30", "query.price_max"),
        )
        for path in ("/recommend?session_id=s", "/trending?", "/items/i1/similar?"):
            for name, value, place in in_query:
                answer = await service.client.get(
                    f"{path}&{httpx.QueryParams({name: value})}", headers=with_key(WEB)
                )
                assert answer.status_code == 422, (path, name)
                assert answer.json()["errors"][0]["field"].startswith(place)
                misspelt = value.replace("margin", "mxrgin").replace("price", "prxce")
                if name != "price_max":
                    other = await service.client.get(
                        f"{path}&{httpx.QueryParams({name: misspelt})}", headers=with_key(WEB)
                    )
                    assert other.text == answer.text.replace("margin", "mxrgin").replace("price", "prxce")
        for body, place in (
            ({"fields": ["margin"]}, "body.fields"),
            ({"filter": rule}, "body.filter"),
        ):
            answer = await service.client.post(
                "/recommend", json={"items": ["i1"], **body}, headers=with_key(WEB)
            )
            assert (answer.status_code, place in answer.json()["detail"]) == (422, True)
            answer = await service.client.post(
                "/recommend", json={"items": ["i1"], **body}, headers=with_key(SERVER)
            )
            assert answer.status_code == 200
        click = f"/sessions/s/click?recommend=3&{httpx.QueryParams({'filter': json.dumps(rule)})}"
        refused = await service.client.post(click, json={"item_id": "i1"}, headers=with_key(WEB))
        assert refused.status_code == 422
        assert await service.store.read("s") == (), "nothing is stored of what was refused"

    async def test_a_placement_may_go_by_it(self, service: Serving) -> None:
        boosted = {"rule": {"all": [{"attribute": "margin", "gte": 0.3}]}, "factor": 2.0}
        placement = {"k": 3, "fields": ["title", "margin"], "boosts": [boosted]}
        for name, stored in (("deep", placement), ("plain", {"k": 3, "fields": ["price"]})):
            put = await service.client.put(
                f"/admin/placements/{name}", json=stored, headers=with_key(OPERATOR)
            )
            assert put.status_code == 200, put.text
        body: dict[str, Any] = {"items": ["i5"], "placement": "deep"}
        for key, fields in ((WEB, {"title"}), (SERVER, {"title", "margin"})):
            answer = await service.client.post("/recommend", json=body, headers=with_key(key))
            assert [set(item["fields"]) for item in answer.json()["items"]] == [fields] * 3
        plain = await service.client.post(
            "/recommend", json=body | {"placement": "plain", "explain": True}, headers=with_key(WEB)
        )
        assert plain.status_code == 200, "its rules say nothing of what is private"
        assert all("fields" not in item for item in plain.json()["items"])
        query = "session_id=s&placement=deep&explain=true"
        for key, status in ((WEB, 422), (SERVER, 200)):
            asked = await service.client.post(
                "/recommend", json=body | {"explain": True}, headers=with_key(key)
            )
            assert asked.status_code == status
            asked = await service.client.get(f"/recommend?{query}", headers=with_key(key))
            assert asked.status_code == status
            if status == 422:
                assert asked.json()["errors"][0]["field"] == "query.explain"

    async def test_nobody_without_a_key_of_the_servers_sees_it(self, published: Path, redis_url: str) -> None:
        """Also where none is asked for; and who sends one there all the same is known by it."""
        for settings, key, shows in (
            ({}, None, False),
            ({"api_key": "page"}, "page", False),
            ({"server_api_key": "server-key"}, None, False),
            ({"server_api_key": "server-key"}, "wrong", False),
            ({"server_api_key": "server-key"}, "server-key", True),
        ):
            toml = published / "catalogue.toml"
            async with serving(published, redis_url, catalogue_file=toml, **settings) as service:
                headers = with_key(key) if key is not None else {}
                item = (await service.client.get("/items/i1", headers=headers)).json()
            assert ("margin" in item) is shows


class TestSessionIds:
    async def test_those_of_pages_may_have_to_be_random(self, published: Path, redis_url: str) -> None:
        async with serving(published, redis_url, keys=KEYS, public_session_ids="random") as service:
            for session_id, key, status in (
                ("visitor-7", WEB, 422),
                ("x" * 21, WEB, 422),
                (RANDOM_ID[:-1] + ".", WEB, 422),
                (RANDOM_ID, WEB, 200),
                ("visitor-7", SERVER, 200),
            ):
                clicked = await service.client.post(
                    f"/sessions/{session_id}/click", json={"item_id": "i1"}, headers=with_key(key)
                )
                asked = await service.client.get(
                    "/recommend", params={"session_id": session_id}, headers=with_key(key)
                )
                assert (clicked.status_code, asked.status_code) == (status, status), session_id
                if status == 422:
                    assert clicked.json()["errors"][0]["field"] == "path.session_id"
                    assert asked.json()["errors"][0]["field"] == "query.session_id"
            batch = [{"session_id": "visitor-8", "item_id": "i1"}]
            stored = await service.client.post("/clicks", json=batch, headers=with_key(SERVER))
            assert stored.json()["events"][0]["status"] == 200

    async def test_any_will_do_by_default(self, service: Serving) -> None:
        assert (await ask(service, "public", WEB)).status_code == 200
        clicked = await service.client.post(
            "/sessions/7/click", json={"item_id": "i1"}, headers=with_key(WEB)
        )
        assert clicked.status_code == 200
