"""The console's alarms against docs/operations.md, and each against metrics that are good and bad."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from console.watching.alarms import DAY, HOUR, MINUTE, RULES, Alarms
from console.watching.rates import History, Values

PAGE = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
SECTION = PAGE.partition("## Alarms worth setting")[2].partition("\n## ")[0]
DOCUMENTED: list[dict[str, Any]] = yaml.safe_load(SECTION.split("```yaml")[1].split("```")[0])["groups"][0][
    "rules"
]
RECOMMEND = {"method": "GET", "route": "/recommend"}


def series(name: str, value: float, **labels: str) -> Values:
    return {name: {tuple(sorted(labels.items())): value}}


def together(*parts: Values) -> Values:
    found: Values = {}
    for part in parts:
        for name, values in part.items():
            found.setdefault(name, {}).update(values)
    return found


def answered(total: float, failed: float = 0) -> Values:
    name = "nextclick_request_seconds_count"
    return together(
        series(name, total - failed, status="200", **RECOMMEND),
        series(name, failed, status="503", **RECOMMEND),
    )


def took(fast: float, slow: float) -> Values:
    name = "nextclick_request_seconds_bucket"
    bounds = {"0.1": fast, "0.2": fast + slow, "+Inf": fast + slow}
    return together(*(series(name, count, le=le, status="200", **RECOMMEND) for le, count in bounds.items()))


def stages(model: float, popular: float) -> Values:
    name = "nextclick_recommendations_total"
    return together(
        series(name, model, stage="model", version="v"), series(name, popular, stage="popular", version="v")
    )


def hits(judged: float, hit: float) -> Values:
    return together(
        series("nextclick_judged_clicks_total", judged, version="v"),
        series("nextclick_judged_hits_total", hit, version="v"),
    )


def refused_for(reason: str, count: float) -> Values:
    return series("nextclick_requests_refused_total", count, reason=reason)


def live(version: str) -> Values:
    return series("nextclick_bundle_live", 2, version=version, model="m", role="champion")


# Of each alarm: the looks that it sounds at, and others that it is quiet at; a look is (seconds, metrics).
Looks = list[tuple[float, Values]]
CASES: dict[str, tuple[Looks, Looks]] = {
    "NextclickClicksRefused": (
        [(0, {}), (5, series("nextclick_clicks_total", 1, outcome="refused"))],
        [(0, {}), (5, series("nextclick_clicks_total", 1, outcome="accepted"))],
    ),
    "NextclickClickLogFills": (
        [(0, series("nextclick_click_log_fill_ratio", 0.61))],
        [(0, series("nextclick_click_log_fill_ratio", 0.6))],
    ),
    "NextclickClicksNotCollected": (
        [(0, series("nextclick_click_log_lag_seconds", 129_601))],
        [(0, series("nextclick_click_log_lag_seconds", 129_600))],
    ),
    "NextclickClicksLost": (
        [
            (0, series("nextclick_click_log_lost_total", 0)),
            (3000, series("nextclick_click_log_lost_total", 1)),
        ],
        [
            (0, series("nextclick_click_log_lost_total", 1)),
            (3000, series("nextclick_click_log_lost_total", 1)),
        ],
    ),
    "NextclickRedisDamaged": (
        [(0, series("nextclick_redis_damaged", 1))],
        [(0, series("nextclick_redis_damaged", 0))],
    ),
    "NextclickKeysAreGuessed": (
        [(0, {}), (5, refused_for("wrong_keys", 101))],
        [(0, {}), (5, together(refused_for("wrong_keys", 100), refused_for("rate", 500)))],
    ),
    "NextclickRedisErrors": (
        [(0, {}), (100, series("nextclick_redis_errors_total", 11, operation="read"))],
        [(0, {}), (100, series("nextclick_redis_errors_total", 10, operation="read"))],
    ),
    "NextclickErrors": (
        [(0, answered(0)), (5, answered(1000, 11))],
        [(0, answered(0)), (5, answered(1000, 10))],
    ),
    "NextclickSlow": ([(0, took(0, 0)), (5, took(98, 2))], [(0, took(0, 0)), (5, took(100, 1))]),
    "NextclickOverload": (
        [(0, {}), (5, refused_for("overload", 1))],
        [(0, {}), (5, refused_for("rate", 1))],
    ),
    "NextclickBundleRefused": (
        [
            (0, series("nextclick_bundle_failures_total", 0)),
            (5, series("nextclick_bundle_failures_total", 1)),
        ],
        [
            (0, series("nextclick_bundle_failures_total", 1)),
            (5, series("nextclick_bundle_failures_total", 1)),
        ],
    ),
    "NextclickNoModel": ([(0, stages(0, 0)), (5, stages(29, 71))], [(0, stages(0, 0)), (5, stages(30, 70))]),
    "NextclickModelIsOld": (
        [(0, live("a")), (3 * DAY, live("a"))],
        [(0, live("a")), (3 * DAY, live("b"))],
    ),
    "NextclickQualityFell": (
        [(0, hits(0, 0)), (DAY, hits(100, 50)), (7 * DAY, hits(200, 100)), (8 * DAY, hits(300, 139))],
        [(0, hits(0, 0)), (DAY, hits(100, 50)), (7 * DAY, hits(200, 100)), (8 * DAY, hits(300, 140))],
    ),
}


def after(looks: Looks) -> History:
    history = History()
    for at, values in looks:
        history.add(values, at)
    return history


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)([mhd])", text).groups()  # type: ignore[union-attr]
    return int(number) * {"m": MINUTE, "h": HOUR, "d": DAY}[unit]


def test_the_page_documents_them_all() -> None:
    told = [
        (rule["alert"], seconds(rule["for"]) if "for" in rule else 0.0, *rule["annotations"].values())
        for rule in DOCUMENTED
    ]
    assert [(rule.name, rule.for_seconds, rule.why, rule.do) for rule in RULES] == told


def test_each_looks_at_what_its_expression_names() -> None:
    for rule, documented in zip(RULES, DOCUMENTED, strict=True):
        assert rule.metric in documented["expr"], rule.name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_when_it_is_so(rule: Any) -> None:
    sounds, quiet = CASES[rule.name]
    assert rule.check(after(sounds))[0] is True
    assert rule.check(after(quiet))[0] is False


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_without_looks_nothing_can_be_told(rule: Any) -> None:
    assert rule.check(History()) is None


def test_it_is_pending_before_it_sounds_and_begins_anew() -> None:
    [rule] = [rule for rule in RULES if rule.name == "NextclickClickLogFills"]
    alarms, history = Alarms([rule]), History()

    def look(at: float, ratio: float) -> list[tuple[float, bool]]:
        history.add(series("nextclick_click_log_fill_ratio", ratio), at)
        alarms.look(history, at)
        return [(alarm.since, alarm.pending) for alarm in alarms.now]

    assert look(0, 0.5) == []
    assert look(5, 0.7) == [(5, True)]
    assert look(5 + 15 * MINUTE - 1, 0.7) == [(5, True)]
    assert look(5 + 15 * MINUTE, 0.7) == [(5, False)]
    assert look(2000, 0.5) == []
    assert look(2005, 0.7) == [(2005, True)]


def test_what_cannot_be_told_yet_is_said() -> None:
    alarms = Alarms()
    history = after([(0, {}), (5, {})])
    alarms.look(history, 5)
    assert {"NextclickModelIsOld", "NextclickQualityFell"} <= {rule.name for rule in alarms.unknown}
