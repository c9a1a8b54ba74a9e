"""What stands in the first line: paths and queries with any letter in them, and every route there is."""

from __future__ import annotations

import json
import re
from urllib.parse import quote, quote_plus

import pytest

from tests.service.serving import ADMIN
from tests.web.conftest import SHOP
from tests.web.wire import Wire

IDS = [
    "plain",
    "a b",
    "a+b",
    "50%",
    "100%25",
    "a/b",
    "/",
    "a/click",
    "?&=#;",
    "Zoë",
    "ключ",
    "🛒",
    "日本語",
    "..",
]


@pytest.mark.parametrize("id_", IDS)
def test_any_id_comes_back_as_it_was_sent(wire: Wire, session: str, id_: str) -> None:
    """In a path, in a query (both ways to write a blank), and in JSON (with and without escapes)."""
    name = f"{session} {id_}"
    for escaped, length in ((False, 1), (True, 2)):
        body = json.dumps({"item_id": id_, "event_id": f"{length}"}, ensure_ascii=escaped).encode()
        answer = wire.ask("POST", f"/sessions/{quote(name, safe='')}/click", body)
        assert (answer.status, answer.json()["session_id"], answer.json()["length"]) == (200, name, length)
    export = wire.ask("GET", f"/sessions/{quote(name, safe='')}").json()
    assert export["session_id"] == name
    assert [click["item_id"] for click in export["clicks"]] == [id_, id_]
    for way in (quote, quote_plus):
        answer = wire.ask("GET", f"/recommend?session_id={way(name, safe='')}")
        assert (answer.status, answer.json()["session_id"]) == (200, name)
        assert answer.json()["ignored"] == ([] if id_ in SHOP.items else [id_])
    assert wire.ask("DELETE", f"/sessions/{quote(name, safe='')}").status == 204
    assert wire.ask("GET", f"/sessions/{quote(name, safe='')}").status == 404


@pytest.mark.parametrize("item_id", SHOP.items[:6])
def test_any_item_of_the_shop_can_be_asked_for(wire: Wire, session: str, item_id: str) -> None:
    similar = wire.ask("GET", f"/items/{quote(item_id, safe='')}/similar?k=5").json()
    assert similar["item_id"] == item_id
    assert [item["item_id"] for item in similar["items"]] == SHOP.nearest([item_id], 5, without=[item_id])
    wire.click(session, item_id=item_id)
    answer = wire.ask("GET", f"/recommend?session_id={session}").json()
    assert (answer["stage"], answer["ignored"]) == ("model", [])
    assert [item["item_id"] for item in answer["items"]] == SHOP.nearest([item_id])


def test_a_query_says_what_it_says(wire: Wire, session: str) -> None:
    wire.click(session, item_id="i9")
    recommend = f"/recommend?session_id={session}"
    left_out = SHOP.nearest(["i9"])[:2]
    exclude = "".join(f"&exclude={quote(item_id, safe='')}" for item_id in left_out)
    answer = wire.ask("GET", f"{recommend}&k=3{exclude}&explain=true&exclude_seen=false").json()
    assert [item["item_id"] for item in answer["items"]] == SHOP.nearest(["i9"], 3, without=left_out)
    assert answer["explanation"]["encoded"] == ["i9"]
    shuffled = wire.ask("GET", f"/recommend?k=3{exclude}&session_id={session}").json()
    assert shuffled["items"] == answer["items"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "query.session_id"),
        ("session_id=", "query.session_id"),
        ("session_id=s&k=0", "query.k"),
        ("session_id=s&k=101", "query.k"),
        ("session_id=s&k=", "query.k"),
        ("session_id=s&k=many", "query.k"),
        ("session_id=s&exclude_seen=perhaps", "query.exclude_seen"),
        ("session_id=a%00b", "query.session_id"),
    ],
)
def test_a_bad_query_names_the_field(wire: Wire, query: str, field: str) -> None:
    answer = wire.ask("GET", f"/recommend?{query}")
    assert (answer.status, answer.problem) == (422, "invalid-input")
    assert [error["field"] for error in answer.json()["errors"]] == [field]


NO_TEXT = ["%FF", "%FE", "x%C3", "%C3%28", "%ED%A0%80", "%F5%80%80%80", "%C0%AF"]  # not one of them is UTF-8
LINES = ["x%0A", "%0Ax", "x%0Ay", "%0A", "x%0D%0A", "%0a"]


@pytest.mark.parametrize("id_", [*NO_TEXT, *LINES])
@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/sessions/{}"),
        ("DELETE", "/sessions/{}"),
        ("POST", "/sessions/{}/click"),
        ("POST", "/sessions/x/click{}"),
        ("GET", "/items/{}/similar"),
        ("GET", "/trending{}"),
        ("GET", "/health/live{}"),
        ("PUT", "/admin/hidden/{}"),
        ("DELETE", "/admin/hidden/{}"),
    ],
)
def test_a_path_that_is_no_text_is_no_path(wire: Wire, method: str, target: str, id_: str) -> None:
    """Not even nearly: `x` and a line feed is not `x`, and what is no UTF-8 is not all the same."""
    body = b'{"item_id": "i9"}' if method in ("POST", "PUT") else None
    key = ("X-API-Key", ADMIN["X-API-Key"])
    answer = wire.ask(method, target.format(id_), body, key)
    assert (answer.status, answer.problem) == (422, "invalid-input")
    assert answer.json()["errors"][0]["field"] == "path"
    assert wire.ask("GET", "/admin/hidden", None, key).json() == {"hidden": []}
    assert wire.ask("GET", "/sessions/x").problem == "unknown-session"


@pytest.mark.parametrize("id_", [*NO_TEXT, *LINES])
def test_a_query_that_is_no_text_is_no_query(wire: Wire, id_: str) -> None:
    for query in (f"session_id={id_}", f"session_id=x&exclude={id_}", f"session_id=x&model={id_}"):
        answer = wire.ask("GET", f"/recommend?{query}")
        assert (answer.status, answer.problem) == (422, "invalid-input")
        assert answer.json()["errors"][0]["field"].startswith("query")


def test_the_letter_for_what_is_no_letter_is_one(wire: Wire, session: str) -> None:
    id_ = f"{session}%EF%BF%BD"
    assert wire.click(id_, item_id="i9").json()["session_id"] == f"{session}\ufffd"
    assert wire.ask("GET", f"/recommend?session_id={id_}").json()["session_id"] == f"{session}\ufffd"


def test_a_target_with_its_host_as_proxies_send_it(wire: Wire) -> None:
    assert wire.ask("GET", "http://shop.example/health/live").json() == {"status": "live"}


def test_the_name_of_a_header_is_its_name_in_any_case(wire: Wire) -> None:
    assert wire.ask("GET", "/admin/hidden").problem == "key-missing"
    assert wire.ask("GET", "/admin/hidden", None, ("X-API-Key", "wrong")).problem == "key-wrong"
    for name in ("X-API-Key", "x-api-key", "X-API-KEY"):
        assert wire.ask("GET", "/admin/hidden", None, (name, ADMIN["X-API-Key"])).json() == {"hidden": []}


def test_every_route_that_is_told_of_is_there(wire: Wire) -> None:
    """Without a key, a body, or an item that there is: whatever is wrong with that, the route is right."""
    told = wire.ask("GET", "/openapi.json").json()["paths"]
    routes = [(method.upper(), path) for path, methods in told.items() for method in methods]
    assert len(routes) > 15
    for method, path in routes:
        body = b"{}" if method in ("POST", "PUT") else None
        answer = wire.ask(method, re.sub(r"\{.*?\}", "nobody", path), body)
        assert answer.status in (200, 401, 404, 422), (method, path, answer)
        if answer.status == 404:
            assert answer.problem.startswith("unknown-"), (method, path)
