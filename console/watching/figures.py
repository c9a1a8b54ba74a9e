"""What the overview shows, computed from what the console has seen; without NiceGUI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from console.watching.charts import Line
from console.watching.rates import History, Look, between, by, everything, labelled, quantile

MINUTE = 60.0
WINDOW_SECONDS = 5 * MINUTE  # of the figures: what Prometheus's alarms look at, too
POINTS = 60  # of a chart
PERCENT, SECONDS, PER_SECOND = "%", "s", "/s"
RECOMMEND = labelled(route="/recommend")


@dataclass(frozen=True)
class Card:
    """One figure with its unit, what it is about, and where it can be had as well."""

    title: str
    figure: str
    of: str  # what the figure counts: its unit in words, or what it is
    notes: Sequence[str]
    source: str
    lines: Sequence[Line] = ()
    unit: str = ""  # of the lines


@dataclass(frozen=True)
class VersionRow:
    """A version that answers, or would, as it does live."""

    version: str
    role: str
    judged: str
    hit_rate: str
    mrr: str
    feedback: str


def cards(history: History) -> list[Card]:
    """In the order of the page."""
    return [
        _requests(history),
        _latency(history),
        _stages(history),
        _clicks(history),
        _click_log(history),
        _catalogue(history),
        _cold(history),
    ]


def versions(models: Mapping[str, Any]) -> list[VersionRow]:
    """What GET /models says of live quality, the champion first."""
    rows = []
    for each in models["loaded"]:
        live = each["live_quality"]
        if live is None:
            told = ["Redis does not answer", "–", "–", "–"]
        else:
            told = [
                number(live["judged"]),
                with_interval(live["hit_rate@20"], live.get("hit_rate_interval"), percent),
                with_interval(live["mrr@20"], live.get("mrr_interval"), thousandths),
                number(live["feedback"]),
            ]
        rows.append(VersionRow(each["version"], each["role"], *told))
    return rows


def number(value: float | None, unit: str = "") -> str:
    """1,234 or 0.5, and its unit."""
    if value is None:
        return "–"
    value = round(value, 9)
    digits = 0 if value == int(value) or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}{' ' if unit else ''}{unit}"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def thousandths(value: float) -> str:
    return f"{value:.3f}"


def milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else number(1000 * seconds, "ms")


def duration(seconds: float) -> str:
    """In one unit that suits it."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def with_interval(value: float | None, interval: Sequence[float] | None, said: Any) -> str:
    """The value, and between what it may lie."""
    if value is None:
        return "–"
    told: str = said(value)
    return told if not interval else f"{told} ({said(interval[0])} – {said(interval[1])})"


def said_with(unit: str) -> Any:
    """How a chart writes a value of its unit."""
    if unit == PERCENT:
        return percent
    if unit == SECONDS:
        return milliseconds
    return lambda value: number(value, unit)


def _requests(history: History) -> Card:
    name = "nextclick_request_seconds_count"
    grown = _sum(history, name, _of_shops)
    failed = _sum(history, name, lambda labels: _of_shops(labels) and labels["status"].startswith("5"))
    notes = [] if not grown or failed is None else [f"{percent(failed / grown)} failed (5xx)"]
    in_flight = history.gauge("nextclick_requests_in_flight")
    if in_flight is not None:
        notes.append(f"{number(in_flight)} under way")
    return Card(
        "Requests",
        number(history.rate(name, WINDOW_SECONDS, _of_shops)),
        "per second",
        notes,
        "nextclick_request_seconds_count, without /health; 5 min",
        [Line("requests", _rates(history, name, _of_shops))],
        PER_SECOND,
    )


def _latency(history: History) -> Card:
    name = "nextclick_request_seconds"
    p50, p90, p99 = (history.quantile(q, name, WINDOW_SECONDS, RECOMMEND) for q in (0.5, 0.9, 0.99))
    return Card(
        "Recommendation latency",
        milliseconds(p99),
        "p99",
        [f"p50 {milliseconds(p50)}, p90 {milliseconds(p90)}"],
        'nextclick_request_seconds{route="/recommend"}; 5 min',
        [Line(f"p{q * 100:.0f}", _quantiles(history, q)) for q in (0.99, 0.5)],
        SECONDS,
    )


def _stages(history: History) -> Card:
    name = "nextclick_recommendations_total"
    found = history.increases(name, WINDOW_SECONDS)
    shares = by("stage", found or {})
    total = sum(shares.values())
    ordered = sorted(shares.items(), key=lambda each: -each[1])
    return Card(
        "Answers by stage",
        "–" if not total else percent(shares.get("model", 0.0) / total),
        "by the model",
        [
            f"{stage} {percent(count / total)}"
            for stage, count in ordered
            if total and stage != "model" and count
        ],
        "nextclick_recommendations_total; 5 min",
        [Line("model", _shares(history, name, labelled(stage="model")))],
        PERCENT,
    )


def _clicks(history: History) -> Card:
    name = "nextclick_clicks_total"
    accepted = labelled(outcome="accepted")
    outcomes = by("outcome", history.increases(name, WINDOW_SECONDS) or {})
    others = [f"{number(outcomes.get(each, 0.0))} {each}" for each in ("duplicate", "refused", "limited")]
    return Card(
        "Clicks",
        number(history.rate(name, WINDOW_SECONDS, accepted)),
        "per second",
        [", ".join(others) + " in 5 min"],
        'nextclick_clicks_total{outcome="accepted"}; 5 min',
        [Line("clicks", _rates(history, name, accepted))],
        PER_SECOND,
    )


def _click_log(history: History) -> Card:
    lag = history.gauge("nextclick_click_log_lag_seconds")
    fill = history.gauge("nextclick_click_log_fill_ratio")
    waiting = history.gauge("nextclick_click_log_uncollected")
    return Card(
        "Click log",
        "–" if lag is None else duration(lag),
        "behind",
        [
            f"{number(waiting)} clicks not collected",
            "–" if fill is None else f"fullest shard {percent(fill)} full",
        ],
        "nextclick_click_log_lag_seconds, …_uncollected, …_fill_ratio",
    )


def _catalogue(history: History) -> Card:
    behind = history.gauge("nextclick_catalogue_behind_seconds")
    return Card(
        "Catalogue",
        number(history.gauge("nextclick_catalogue_items")),
        "items",
        ["–" if behind is None else f"{number(round(behind, 1), 's')} behind, the slowest worker"],
        "nextclick_catalogue_items, nextclick_catalogue_behind_seconds",
    )


def _cold(history: History) -> Card:
    cold = by("version", history.now("nextclick_cold_items"))
    items = history.gauge("nextclick_catalogue_items")
    most = max(cold.values(), default=None)
    stages = by("stage", history.increases("nextclick_recommendations_total", WINDOW_SECONDS) or {})
    total = sum(stages.values())
    notes = [f"{version}: {number(count)} items" for version, count in sorted(cold.items())]
    if total:
        notes.append(f"{percent(stages.get('neighbours', 0.0) / total)} of the answers by neighbours")
    return Card(
        "Cold items",
        percent(most / items) if most is not None and items else number(most),
        "of the items" if items else "items",
        notes,
        "nextclick_cold_items by nextclick_catalogue_items; nextclick_recommendations_total, 5 min",
    )


def _of_shops(labels: Mapping[str, str]) -> bool:
    """Not what balancers and this console ask."""
    return not labels.get("route", "").startswith("/health")


def _sum(history: History, name: str, where: Any = everything) -> float | None:
    return history.increase(name, WINDOW_SECONDS, where)


def _steps(history: History) -> list[tuple[Look, Look]]:
    """Pairs of looks that the points of a chart lie between; a pair overlaps no other."""
    looks = list(history.looks)
    step = max(1, len(looks) // POINTS)
    kept = looks[::-1][::step][::-1]
    return list(pairwise(kept))


def _rates(history: History, name: str, where: Any) -> list[tuple[float, float | None]]:
    return [
        (newer.at, sum(between(older, newer, name, where).values()) / (newer.at - older.at))
        for older, newer in _steps(history)
    ]


def _shares(history: History, name: str, where: Any) -> list[tuple[float, float | None]]:
    points: list[tuple[float, float | None]] = []
    for older, newer in _steps(history):
        whole = sum(between(older, newer, name).values())
        part = sum(between(older, newer, name, where).values())
        points.append((newer.at, part / whole if whole else None))
    return points


def _quantiles(history: History, q: float) -> list[tuple[float, float | None]]:
    name = "nextclick_request_seconds_bucket"
    return [
        (newer.at, quantile(q, between(older, newer, name, RECOMMEND))) for older, newer in _steps(history)
    ]
