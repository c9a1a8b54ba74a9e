"""Growth, rates and quantiles against what Prometheus documents for the same numbers."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from console.watching.rates import (
    LONG_STEP_SECONDS,
    SHORT_SECONDS,
    History,
    Labels,
    Values,
    by,
    labelled,
    parse,
    quantile,
)

CLICKS = "nextclick_clicks_total"
LOST = "nextclick_click_log_lost_total"


def told(**outcomes: float) -> Values:
    return {CLICKS: {(("outcome", outcome),): value for outcome, value in outcomes.items()}}


def looked(*looks: tuple[float, Values]) -> History:
    history = History()
    for at, values in looks:
        history.add(values, at)
    return history


def test_what_a_page_of_metrics_says() -> None:
    registry = CollectorRegistry()
    Counter("nextclick_clicks", "", ["outcome"], registry=registry).labels("accepted").inc(3)
    Counter("python_gc", "", registry=registry).inc()
    seconds = Histogram("nextclick_request_seconds", "", ["route"], registry=registry, buckets=(0.1, 1.0))
    seconds.labels("/recommend").observe(0.5)
    seconds.labels("/models").observe(0.5)
    found = parse(generate_latest(registry).decode())
    assert found[CLICKS] == {(("outcome", "accepted"),): 3.0}
    assert set(found) == {CLICKS, "nextclick_request_seconds_count", "nextclick_request_seconds_bucket"}
    buckets = found["nextclick_request_seconds_bucket"]
    assert {dict(labels)["route"] for labels in buckets} == {"/recommend"}, (
        "half an hour of all would be a lot"
    )
    assert by("le", buckets) == {"0.1": 0.0, "1.0": 1.0, "+Inf": 1.0}


@pytest.mark.parametrize("page", ["", "# HELP python_gc x\npython_gc 1\n", "<html>\n"])
def test_another_page_is_none_of_ours(page: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the parser has its own words
        parse(page)


def test_growth_is_that_between_the_looks() -> None:
    history = looked((0, told(accepted=100)), (30, told(accepted=130)), (60, told(accepted=190)))
    assert history.increase(CLICKS, 60) == 90
    assert history.increase(CLICKS, 30) == 60
    assert history.rate(CLICKS, 30) == 2.0


def test_the_first_look_says_no_growth() -> None:
    assert History().increase(CLICKS, 60) is None
    assert looked((0, told(accepted=100))).increase(CLICKS, 60) is None, "nobody knows since when"


def test_a_restart_counts_from_nothing() -> None:
    history = looked((0, told(accepted=100)), (5, told(accepted=110)), (10, told(accepted=4)))
    assert history.increase(CLICKS, 60) == 14


def test_a_series_that_goes_and_comes_back_loses_nothing() -> None:
    history = looked((0, told(refused=7)), (5, told(refused=9)), (10, {}), (15, told(refused=2)))
    assert history.increase(CLICKS, 60) == 4
    assert history.increase(CLICKS, 10) == 2


def test_a_series_that_is_new_has_grown_from_nothing() -> None:
    history = looked((0, told(accepted=5)), (5, told(accepted=5, refused=3)))
    assert history.increase(CLICKS, 60, labelled(outcome="refused")) == 3
    assert history.increase(CLICKS, 60, labelled(outcome="accepted")) == 0


def test_what_is_kept_is_bounded() -> None:
    history = History()
    for step in range(2000):
        history.add({**told(accepted=step), LOST: {(): 1.0 * step}}, 5.0 * step)
    assert history.looks[0].at >= 5.0 * 1999 - SHORT_SECONDS
    assert len(history.looks) == SHORT_SECONDS / 5 + 1
    assert history.increase(CLICKS, 3600) == SHORT_SECONDS / 5, "no more of it is kept"
    lost = history.increase(LOST, 3600)
    assert lost is not None
    assert 720 <= lost <= 720 + LONG_STEP_SECONDS / 5, "of this one an hour is kept, and more"


def test_an_offset_wants_looks_from_then() -> None:
    days: list[tuple[float, Values]] = [(day * 86_400.0, {LOST: {(): 10.0 * day}}) for day in range(9)]
    history = looked(*days)
    assert history.increase(LOST, 86_400, offset=7 * 86_400) == 10
    assert looked((0, told()), (86_400, told())).increase(LOST, 86_400, offset=7 * 86_400) is None


@pytest.mark.parametrize(
    ("q", "expected"),
    [(0.5, 0.15), (0.25, 0.1), (0.1, 0.04), (0.99, 0.2), (0.75, 0.2)],
)
def test_quantiles_lie_on_straight_lines_within_a_bucket(q: float, expected: float) -> None:
    buckets: dict[Labels, float] = {
        (("le", bound),): count for bound, count in (("0.1", 25.0), ("0.2", 75.0), ("+Inf", 100.0))
    }
    assert quantile(q, buckets) == pytest.approx(expected)


def test_nothing_counted_has_no_quantile() -> None:
    assert quantile(0.5, {}) is None
    assert quantile(0.5, {(("le", "+Inf"),): 0.0}) is None
