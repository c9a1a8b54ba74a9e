"""What is wrong right now: the alarms of docs/operations.md, evaluated on what the console has seen.

They say what a Prometheus would that had looked since the console began. A test holds names, delays and words
to those of that page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from console.watching.rates import History, labelled

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
SECTION = "docs/operations.md#alarms-worth-setting"
OF_THE_CONSOLE = "docs/operations.md#starting-and-stopping"

# Whether it is so now, and the figure that says so; None: the console has not looked for long enough.
Found = tuple[bool, str]
Check = Callable[[History], Found | None]


@dataclass(frozen=True)
class Rule:
    """An alarm of the page; `for_seconds` is how long it must have been so."""

    name: str
    for_seconds: float
    why: str
    do: str
    metric: str  # what it is computed from
    needs_seconds: float
    check: Check


@dataclass(frozen=True)
class Alarm:
    """An alarm as it is now."""

    name: str
    why: str
    do: str
    figure: str
    since: float  # epoch seconds
    pending: bool  # so, but not for as long as its rule asks
    section: str


def refused(history: History) -> Found | None:
    return _some(history, "nextclick_clicks_total", 5 * MINUTE, "clicks refused", outcome="refused")


def log_fills(history: History) -> Found | None:
    ratio = history.gauge("nextclick_click_log_fill_ratio")
    return None if ratio is None else (ratio > 0.6, f"{ratio:.0%} full")


def not_collected(history: History) -> Found | None:
    lag = history.gauge("nextclick_click_log_lag_seconds")
    return None if lag is None else (lag > 129_600, f"the oldest click waits for {lag / HOUR:.1f} h")


def lost(history: History) -> Found | None:
    return _some(history, "nextclick_click_log_lost_total", HOUR, "clicks lost")


def damaged(history: History) -> Found | None:
    times = history.gauge("nextclick_redis_damaged")
    return None if times is None else (times > 0, f"damaged {times:.0f} times")


def guessed(history: History) -> Found | None:
    return _some(
        history,
        "nextclick_requests_refused_total",
        15 * MINUTE,
        "calls refused after too many wrong keys",
        above=100,
        reason="wrong_keys",
    )


def redis_errors(history: History) -> Found | None:
    rate = history.rate("nextclick_redis_errors_total", 5 * MINUTE)
    return None if rate is None else (rate > 0.1, f"{rate:.2f} failed calls a second")


def errors(history: History) -> Found | None:
    name = "nextclick_request_seconds_count"
    all_of_them = history.increase(name, 5 * MINUTE)
    failed = history.increase(
        name, 5 * MINUTE, lambda labels: len(labels["status"]) == 3 and labels["status"][0] == "5"
    )
    return _ratio(failed, all_of_them, lambda ratio: ratio > 0.01, "of the requests fail")


def slow(history: History) -> Found | None:
    p99 = history.quantile(0.99, "nextclick_request_seconds", 5 * MINUTE, labelled(route="/recommend"))
    if p99 is None:
        return _silent(history)
    return p99 > 0.1, f"p99 {p99 * 1000:.0f} ms"


def overload(history: History) -> Found | None:
    return _some(
        history,
        "nextclick_requests_refused_total",
        5 * MINUTE,
        "requests turned away",
        reason="overload",
    )


def bundle_refused(history: History) -> Found | None:
    return _some(history, "nextclick_bundle_failures_total", 15 * MINUTE, "bundles refused")


def no_model(history: History) -> Found | None:
    name = "nextclick_recommendations_total"
    by_model = history.increase(name, 30 * MINUTE, labelled(stage="model"))
    return _ratio(
        by_model,
        history.increase(name, 30 * MINUTE),
        lambda ratio: ratio < 0.3,
        "of the answers are the model's",
    )


def model_is_old(history: History) -> Found | None:
    champion = labelled(role="champion")
    then = history.earlier("nextclick_bundle_live", 3 * DAY, champion)
    if then is None:
        return None
    now = history.now("nextclick_bundle_live", champion)
    same = [dict(labels)["version"] for labels, workers in now.items() if workers > 0 < then.get(labels, 0)]
    return bool(same), f"{', '.join(same) or 'another version'} since three days"


def quality_fell(history: History) -> Found | None:
    hits, judged = "nextclick_judged_hits_total", "nextclick_judged_clicks_total"
    now = _divided(history.increase(hits, DAY), history.increase(judged, DAY))
    then = _divided(
        history.increase(hits, DAY, offset=7 * DAY), history.increase(judged, DAY, offset=7 * DAY)
    )
    if now is None or then is None:
        return None
    return now < 0.8 * then, f"{now:.1%} of the judged clicks, {then:.1%} a week ago"


RULES = [
    Rule(
        "NextclickClicksRefused",
        2 * MINUTE,
        "Clicks get a 503. Redis does not answer, or the click log is full.",
        'Look at "503 on clicks" in docs/operations.md. '
        "Clients that send again with the same event_id lose nothing.",
        "nextclick_clicks_total",
        0,
        refused,
    ),
    Rule(
        "NextclickClickLogFills",
        15 * MINUTE,
        "The click log fills up; every collection empties it to a half. When it is full, clicks get a 503.",
        "Run nextclick collect. Why did it not run? If it did, collect more often.",
        "nextclick_click_log_fill_ratio",
        0,
        log_fills,
    ),
    Rule(
        "NextclickClicksNotCollected",
        0,
        "Clicks have waited for a day and a half. The last nightly run did not collect them.",
        "Read the newest artifacts/runs/*/run.json, and artifacts/schedule/.",
        "nextclick_click_log_lag_seconds",
        0,
        not_collected,
    ),
    Rule(
        "NextclickClicksLost",
        0,
        "Redis has lost clicks that it had acknowledged.",
        "Was it restored, or did a replica take over? "
        'Look at "the click log has lost its tail" in docs/operations.md.',
        "nextclick_click_log_lost_total",
        0,
        lost,
    ),
    Rule(
        "NextclickRedisDamaged",
        0,
        "The private Redis's data was damaged, and is cut off where the damage is.",
        "Is the disk failing? What was there is in artifacts/redis/damaged-…. "
        "Delete it once you have looked at it.",
        "nextclick_redis_damaged",
        0,
        damaged,
    ),
    Rule(
        "NextclickKeysAreGuessed",
        0,
        "One address or several send wrong keys again and again.",
        "Block the address in front of the service. Change a key that may have become known.",
        "nextclick_requests_refused_total",
        0,
        guessed,
    ),
    Rule(
        "NextclickRedisErrors",
        5 * MINUTE,
        "Calls to Redis fail. Recommendations are made without the visitor's session.",
        "Is Redis up, swapping, or saving to a slow disk? "
        "Raise NEXTCLICK_REDIS_TIMEOUT_SECONDS only if it is far away.",
        "nextclick_redis_errors_total",
        0,
        redis_errors,
    ),
    Rule(
        "NextclickErrors",
        5 * MINUTE,
        "More than one request in a hundred fails.",
        "Read the service's log. 503 is Redis or a missing model, 500 is a defect to report.",
        "nextclick_request_seconds",
        0,
        errors,
    ),
    Rule(
        "NextclickSlow",
        10 * MINUTE,
        "One recommendation in a hundred takes more than 0.1 s.",
        "Are all cores busy? Add workers or machines. Does a training run here without nice?",
        "nextclick_request_seconds",
        0,
        slow,
    ),
    Rule(
        "NextclickOverload",
        5 * MINUTE,
        "More requests come than can be answered. The rest get a 503 at once.",
        "Add workers up to the number of cores, then machines. Is something else using the processor?",
        "nextclick_requests_refused_total",
        0,
        overload,
    ),
    Rule(
        "NextclickBundleRefused",
        0,
        "A bundle that was published cannot be served. The one before it still answers.",
        "GET /models says why, in refused. Roll back, or publish another.",
        "nextclick_bundle_failures_total",
        0,
        bundle_refused,
    ),
    Rule(
        "NextclickNoModel",
        30 * MINUTE,
        "Most answers do not come from the model.",
        "Is a model loaded (/health/ready)? Do clicks name items by the ids that the model was trained on?",
        "nextclick_recommendations_total",
        0,
        no_model,
    ),
    Rule(
        "NextclickModelIsOld",
        0,
        "The same version is live as three days ago. No retraining got through.",
        "Read the newest artifacts/runs/*/run.json. It says which step stopped, or what the gate refused.",
        "nextclick_bundle_live",
        3 * DAY,
        model_is_old,
    ),
    Rule(
        "NextclickQualityFell",
        HOUR,
        "Recommendations are clicked a fifth less often than a week ago.",
        "Was a version published since? Roll back. Else, did the shop's pages or item ids change?",
        "nextclick_judged_hits_total",
        8 * DAY,
        quality_fell,
    ),
]


class Alarms:
    """Which are so, and since when."""

    def __init__(self, rules: Iterable[Rule] = RULES) -> None:
        self._rules = list(rules)
        self._since: dict[str, float] = {}
        self.now: list[
            Alarm
        ] = []  # those that sound first, then those that are pending, each the oldest first
        self.unknown: list[Rule] = []  # what cannot be told yet

    def look(self, history: History, at: float) -> None:
        """Evaluate all of them; called once a look at the metrics."""
        found, self.unknown = [], []
        for rule in self._rules:
            told = rule.check(history)
            if told is None:
                self.unknown.append(rule)
            if told is None or not told[0]:
                self._since.pop(rule.name, None)
                continue
            since = self._since.setdefault(rule.name, at)
            pending = at - since < rule.for_seconds
            found.append(Alarm(rule.name, rule.why, rule.do, told[1], since, pending, SECTION))
        self.now = sorted(found, key=lambda alarm: (alarm.pending, alarm.since))

    def forget(self) -> None:
        """There are no metrics to tell by: nothing is known, as with Prometheus."""
        self._since.clear()
        self.now, self.unknown = [], list(self._rules)


def _some(
    history: History, name: str, seconds: float, what: str, above: float = 0, **labels: str
) -> Found | None:
    grown = history.increase(name, seconds, labelled(**labels))
    if grown is None:
        return None
    return grown > above, f"{grown:.0f} {what} in the last {_minutes(seconds)}"


def _minutes(seconds: float) -> str:
    return f"{seconds / MINUTE:.0f} min" if seconds < HOUR else f"{seconds / HOUR:.0f} h"


def _divided(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _ratio(
    part: float | None, whole: float | None, is_bad: Callable[[float], bool], what: str
) -> Found | None:
    if part is None or whole is None:
        return None
    if whole == 0:  # Prometheus: no number, and no alarm
        return False, "nothing was asked"
    return is_bad(part / whole), f"{part / whole:.1%} {what}"


def _silent(history: History) -> Found | None:
    return None if len(history.looks) < 2 else (False, "nothing was asked")
