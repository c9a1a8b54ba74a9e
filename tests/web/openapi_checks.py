"""What `test_openapi_cases` has schemathesis check beside its own checks; it loads this file by its path."""

from __future__ import annotations

import time
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, Response

# What there is to say of a rule, and the names of attributes, the document says in words.
IN_WORDS = tuple(f"{place}.{name}" for place in ("query", "body") for name in ("filter", "fields"))
IN_WORDS += ("query.available", "query.price_max")
# Rules and attributes within a placement, and what may not be in it twice.
IN_WORDS += tuple(f"body.{part}" for part in ("boosts", "bury", "promotions", "caps", "placement"))
IN_WORDS += ("body: pins", "body: caps", "body: needs either session_id or items")
FUTURE_SECONDS = 300  # NEXTCLICK_FUTURE_TOLERANCE_SECONDS
# HTTP's own, and those that every answer may have.
OF_ANY_ANSWER = {"cache-control", "connection", "content-length", "content-type", "date", "traceparent"}
OF_ANY_ANSWER |= {"transfer-encoding", "x-request-id"}


@schemathesis.check
def headers_are_described(_: CheckContext, response: Response, case: Case[Any]) -> None:
    """The other way round than schemathesis does it: what is there is in the document."""
    described = case.operation.responses.find_by_status_code(response.status_code)
    if described is None:
        return
    known = {name.lower() for name, _ in described.headers.items()}
    unknown = response.headers.keys() - known - OF_ANY_ANSWER
    assert not unknown, f"{response.status_code} has headers that the document does not know: {unknown}"


@schemathesis.check
def right_input_is_accepted(_: CheckContext, response: Response, case: Case[Any]) -> None:
    """Except for what the document can say in words only: a rule, a time that has not come yet.

    And OpenAPI's integers have no fraction, not even the .0 that JSON Schema would take for none.
    """
    if case.meta is None or case.meta.generation.mode.is_negative:
        return
    future = time.time() + FUTURE_SECONDS
    for place, body in _bodies(case):
        detail = _refusals(response).get(place, "")
        if detail.startswith(f"{place}.timestamp: lies more than") and body["timestamp"] > future:
            continue
        if detail.endswith((": Expected int, got float", ": Input should be a valid integer")):
            assert _has_float(body), detail
            continue
        assert not detail or detail.startswith(IN_WORDS), detail


@schemathesis.check
def wrong_clicks_of_a_batch_are_refused(_: CheckContext, response: Response, case: Case[Any]) -> None:
    """Each by itself: the batch is 200, and says 422 of at least one."""
    wrong = case.meta is not None and case.meta.generation.mode.is_negative
    if wrong and case.operation.path == "/clicks" and response.status_code == 200:
        assert 422 in {event["status"] for event in response.json()["events"]}, response.text


def _has_float(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return any(map(_has_float, value))
    return isinstance(value, float)


def _bodies(case: Case[Any]) -> list[tuple[str, Any]]:
    """What was sent, and where: a click of a batch has a place of its own."""
    if isinstance(case.body, list):
        clicks = [(f"body.{position}", each) for position, each in enumerate(case.body)]
        return [("body", {}), *clicks]
    return [("body", case.body)]


def _refusals(response: Response) -> dict[str, str]:
    """What was found wrong, by what it was found in."""
    if response.status_code == 422:
        return {"body": response.json()["detail"]}
    events = response.json()["events"] if b'"events"' in response.content else []
    return {
        f"body.{position}": event["detail"] for position, event in enumerate(events) if event["status"] == 422
    }
