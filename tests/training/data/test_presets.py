"""Logs as Google Analytics, Snowplow and Segment write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from tests.training.data.test_lines import Click, clicks_of, rejected_of, shop
from training.data.formats import (
    GA4,
    SEGMENT,
    SNOWPLOW,
    LogFormat,
    detect_format,
    read_any,
)
from training.data.reading import sql
from training.data.reading.presets import SNOWPLOW_COLUMNS

# name of the format, what it is, how its files are written
ECOMMERCE = "iglu:com.snowplowanalytics.snowplow.ecommerce"


def ga4_rows() -> list[dict[str, object]]:
    """As BigQuery writes them: whole numbers of 64 bits as text."""
    return [
        {
            "event_date": "20251124",
            "event_timestamp": str(time * 1_000_000 + 5),
            "event_name": "view_item",
            "event_params": [
                {"key": "page_title", "value": {"string_value": "Lamp"}},
                {"key": "ga_session_id", "value": {"int_value": str(1_764_000_000 + len(session))}},
            ],
            "user_pseudo_id": session,
            "items": [{"item_id": item, "item_name": f"Lamp {item}", "quantity": None}],
        }
        for session, item, time in shop()
    ]


def read(file: Path, format_: LogFormat) -> tuple[list[Click], list[tuple[int, str]], int]:
    log = read_any(sql.connect(), [file], format_)
    return clicks_of(log), rejected_of(log), sum(log.other_events.values())


GA4_CLICKS = [(f"{session}.{1_764_000_000 + len(session)}", item, time) for session, item, time in shop()]


def test_ga4_takes_the_items_that_were_viewed_in_a_visitors_session(tmp_path: Path) -> None:
    rows = ga4_rows()
    view, nobody = rows[0], dict(rows[0], user_pseudo_id=None)
    others = [dict(view, event_name="page_view", items=[]), dict(view, event_name="add_to_cart")]
    no_item, no_session = dict(view, items=[]), dict(view, event_params=[])
    two = dict(view, items=[{"item_id": "Y"}, {"item_id": "Z"}])
    lines = [others[0], *rows, others[1], no_item, no_session, nobody, two]
    file = tmp_path / "events.json"
    file.write_text("\n".join(map(json.dumps, lines)))
    assert detect_format(file) == "ga4"
    kept, rejected, other_events = read(file, GA4)
    session, _, time = GA4_CLICKS[0]
    assert kept == [*GA4_CLICKS, (session, "Y", time), (session, "Z", time)]
    n = len(rows)
    assert (rejected, other_events) == (
        [(n + 3, "no_events"), (n + 4, "no_session"), (n + 5, "no_session")],
        2,
    )
    kept, _, _ = read(file, replace(GA4, events=("add_to_cart",)))
    assert kept == GA4_CLICKS[:1]


def test_ga4_makes_no_visitor_of_those_who_are_nobody(tmp_path: Path) -> None:
    """Nor a session of a number that may have been another: joined by a dot, both would look like one."""
    view = ga4_rows()[0]
    session = {"key": "ga_session_id", "value": {"int_value": 1e17}}
    odd = [dict(view, user_pseudo_id=nobody) for nobody in ("", " ", "(not set)")]
    odd += [dict(view, event_params=[session]), dict(view, user_pseudo_id=[7])]
    file = tmp_path / "events.json"
    file.write_text("\n".join(map(json.dumps, [view, *odd])))
    reasons = ["no_session"] * 3 + ["inexact_id", "malformed_id"]
    assert read(file, GA4) == (GA4_CLICKS[:1], list(enumerate(reasons, 2)), 0)


def test_ga4_may_be_parquet(tmp_path: Path) -> None:
    rows = [dict(row, event_timestamp=int(str(row["event_timestamp"]))) for row in ga4_rows()]
    for row in rows:
        row["event_params"] = [
            {
                "key": "ga_session_id",
                "value": {"string_value": None, "int_value": 1_764_000_000 + len(str(row["user_pseudo_id"]))},
            }
        ]
    rows.append(dict(rows[0], event_name="page_view", items=[]))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "events-000000000000")
    assert detect_format(tmp_path / "events-000000000000") == "ga4"
    assert read(tmp_path / "events-000000000000", GA4) == (GA4_CLICKS, [], 1)


def test_segment_takes_the_products_that_a_visitor_viewed_or_clicked(tmp_path: Path) -> None:
    calls: list[dict[str, object]] = [
        {
            "anonymousId": session,
            "messageId": f"ajs-{n}",
            "type": "track",
            "event": "Product Clicked" if n % 2 else "Product Viewed",
            "timestamp": datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds"),
            "properties": {"product_id": item, "price": 18.99},
        }
        for n, (session, item, time) in enumerate(shop())
    ]
    page = {"anonymousId": "a", "messageId": "p", "type": "page", "timestamp": calls[0]["timestamp"]}
    ordered = dict(calls[0], event="Order Completed", properties={"order_id": "7"})
    file = tmp_path / "calls.jsonl"
    file.write_text("\n".join(map(json.dumps, [page, ordered, *calls, dict(calls[0], properties={})])))
    assert detect_format(file) == "segment"
    assert SEGMENT.by_visitor
    assert read(file, SEGMENT) == (shop(), [(len(calls) + 3, "missing_item")], 2)
    kept, _, others = read(file, replace(SEGMENT, events=("Product Viewed",)))
    assert (kept, others) == (shop()[::2], 2 + len(calls) // 2)


def snowplow_line(**fields: object) -> str:
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    return "\t".join(texts.get(name, "") for name in SNOWPLOW_COLUMNS)


def snowplow_event(session: str, items: Sequence[str], time: int, action: str) -> str:
    when = datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S.000")
    page = {"schema": "iglu:com.snowplowanalytics.snowplow/web_page/jsonschema/1-0-0", "data": {"id": "page"}}
    products = [
        {"schema": f"{ECOMMERCE}/product/jsonschema/1-0-0", "data": {"id": item, "currency": "EUR"}}
        for item in items
    ]
    event = {"schema": f"{ECOMMERCE}/snowplow_ecommerce_action/jsonschema/1-0-2", "data": {"type": action}}
    return snowplow_line(
        app_id='shop "1"',
        event="unstruct",
        domain_sessionid=session,
        collector_tstamp=when,
        derived_tstamp=when if items != ["A"] else "",  # then the collector's time stands for it
        contexts={"schema": "contexts", "data": [page, *products]},
        unstruct_event={"schema": "unstruct_event", "data": event},
    )


def test_snowplows_enriched_events_have_their_products_in_their_contexts(tmp_path: Path) -> None:
    lines = [snowplow_event(session, [item], time, "product_view") for session, item, time in shop()]
    listed = snowplow_event("s", ["A", "B", "C"], shop()[0][2], "list_view")
    ping = snowplow_line(event="page_ping", domain_sessionid="s", collector_tstamp="2025-11-24 16:00:00.000")
    broken = snowplow_line(event="page_ping", contexts="{", unstruct_event="[")
    file = tmp_path / "enriched.tsv"
    file.write_text("\n".join([ping, *lines, listed, broken, lines[0][:-9]]))
    assert detect_format(file) == "snowplow"
    assert read(file, SNOWPLOW) == (shop(), [(len(lines) + 4, "malformed_row")], 3)


def test_snowplows_sdks_make_json_of_them(tmp_path: Path) -> None:
    lines = [
        {
            "app_id": "shop",
            "event_vendor": "com.snowplowanalytics.snowplow",
            "collector_tstamp": "2025-11-24T16:00:00.000Z",
            "derived_tstamp": datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "domain_sessionid": session,
            SNOWPLOW.nested: [{"id": item, "currency": "EUR"}],
            str(SNOWPLOW.event).removesuffix(".type"): {"type": "product_view"},
        }
        for session, item, time in shop()
    ]
    ping = {name: lines[0][name] for name in list(lines[0])[:5]}
    file = tmp_path / "enriched.json"
    file.write_text("\n".join(map(json.dumps, [ping, *lines])))
    assert detect_format(file) == "snowplow"
    assert read(file, SNOWPLOW) == (shop(), [], 1)
