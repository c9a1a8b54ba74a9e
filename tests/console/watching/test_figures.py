"""The overview's figures, of looks whose numbers are known."""

from __future__ import annotations

import re
from typing import Any

import pytest

from console.pages.overview import alarm_html, card_html, summed_up, versions_html
from console.watching.alarms import RULES, Alarm
from console.watching.charts import GAP, Line, chart
from console.watching.figures import cards, duration, number, versions
from console.watching.rates import History, Values


def metrics(seconds: float) -> Values:
    """Of a shop with two clicks and four recommendations a second, of which one in four fails."""
    recommend = (("method", "GET"), ("route", "/recommend"))
    return {
        "nextclick_request_seconds_count": {
            (*recommend, ("status", "200")): 3 * seconds,
            (*recommend, ("status", "503")): 1 * seconds,
            (("method", "GET"), ("route", "/health/ready"), ("status", "200")): 100 * seconds,
        },
        "nextclick_request_seconds_bucket": {
            (("le", "0.01"), *recommend, ("status", "200")): 2 * seconds,
            (("le", "0.02"), *recommend, ("status", "200")): 4 * seconds,
            (("le", "+Inf"), *recommend, ("status", "200")): 4 * seconds,
        },
        "nextclick_recommendations_total": {
            (("stage", "model"), ("version", "v")): 3 * seconds,
            (("stage", "neighbours"), ("version", "v")): 1 * seconds,
        },
        "nextclick_clicks_total": {
            (("outcome", "accepted"),): 2 * seconds,
            (("outcome", "duplicate"),): 0.1 * seconds,
        },
        "nextclick_requests_in_flight": {(): 3.0},
        "nextclick_click_log_lag_seconds": {(): 7200.0},
        "nextclick_click_log_fill_ratio": {(): 0.25},
        "nextclick_click_log_uncollected": {(): 1234.0},
        "nextclick_catalogue_items": {(): 2000.0},
        "nextclick_catalogue_behind_seconds": {(): 0.3},
        "nextclick_cold_items": {(("version", "v"),): 50.0},
    }


@pytest.fixture
def history() -> History:
    history = History()
    for step in range(61):
        history.add(metrics(5.0 * step), 1_000_000 + 5.0 * step)
    return history


def test_each_card_says_what_the_metrics_say(history: History) -> None:
    shown = {card.title: (card.figure, card.of, *card.notes) for card in cards(history)}
    assert shown == {
        "Requests": ("4", "per second", "25.0 % failed (5xx)", "3 under way"),
        "Recommendation latency": ("19.8 ms", "p99", "p50 10 ms, p90 18 ms"),
        "Answers by stage": ("75.0 %", "by the model", "neighbours 25.0 %"),
        "Clicks": ("2", "per second", "30 duplicate, 0 refused, 0 limited in 5 min"),
        "Click log": ("2 h", "behind", "1,234 clicks not collected", "fullest shard 25.0 % full"),
        "Catalogue": ("2,000", "items", "0.30 s behind, the slowest worker"),
        "Cold items": ("2.5 %", "of the items", "v: 50 items", "25.0 % of the answers by neighbours"),
    }


def test_before_the_second_look_there_are_dashes() -> None:
    first = History()
    first.add({}, 0)
    for few in (History(), first):
        assert {card.figure for card in cards(few)} == {"–"}


def test_each_card_names_metrics_that_there_are(history: History) -> None:
    known = set(metrics(1))
    for card in cards(history):
        named = re.findall(r"nextclick_\w+", card.source)
        assert named, card.title
        assert all(any(metric.startswith(name) for metric in known) for name in named), card.source


def test_lines_hold_the_rates_of_their_steps(history: History) -> None:
    [requests] = [card for card in cards(history) if card.title == "Requests"]
    [line] = requests.lines
    assert len(line.points) == 60
    assert {y for _, y in line.points} == {4.0}


def loaded(**changes: Any) -> dict[str, Any]:
    quality = {"judged": 1000, "hit_rate@20": 0.3, "mrr@20": 0.1234, "feedback": 12}
    return {"version": "v1", "role": "champion", "live_quality": {**quality, **changes}}


def test_quality_is_shown_with_its_interval_where_there_is_one() -> None:
    intervals = {"hit_rate_interval": [0.272, 0.329], "mrr_interval": [0.11, 0.137]}
    [row] = versions({"loaded": [loaded(**intervals)]})
    assert (row.judged, row.hit_rate, row.mrr, row.feedback) == (
        "1,000",
        "30.0 % (27.2 % – 32.9 %)",
        "0.123 (0.110 – 0.137)",
        "12",
    )
    [row] = versions({"loaded": [loaded()]})
    assert (row.hit_rate, row.mrr) == ("30.0 %", "0.123")


def test_quality_that_is_not_known_is_no_number() -> None:
    nothing = {"judged": 0, "hit_rate@20": None, "mrr@20": None, "hit_rate_interval": None}
    rows = versions({"loaded": [loaded(**nothing), {**loaded(), "live_quality": None}]})
    assert [(row.judged, row.hit_rate) for row in rows] == [("0", "–"), ("Redis does not answer", "–")]


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0, "0"), (0.5, "0.50"), (12.34, "12.3"), (1234.5, "1,234"), (7, "7")]
)
def test_numbers_are_short(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_durations_are_in_one_unit() -> None:
    assert [duration(each) for each in (0, 119, 120, 7199, 7200, 172_800)] == [
        "0 s",
        "119 s",
        "2 min",
        "120 min",
        "2 h",
        "2 d",
    ]


def test_a_chart_breaks_where_nobody_looked() -> None:
    def pieces(*points: tuple[float, float | None]) -> int:
        return chart("t", [Line("l", points)], str).count("<polyline")

    assert pieces((0, 1), (1, 2), (2, 3)) == 1
    assert pieces((0, 1), (1, 2), (2 + GAP, 3), (3 + GAP, 3)) == 2
    assert pieces((0, 1), (1, None), (2, 3)) == 2
    assert pieces() == 0


def test_a_chart_says_in_words_what_it_shows() -> None:
    drawn = chart("Clicks", [Line("clicks", [(0, 1.0), (1, 4.0), (2, 3.0)])], lambda value: f"{value:g} /s")
    assert 'aria-label="Clicks: clicks 3 /s, between 1 /s and 4 /s"' in drawn


def test_nothing_that_is_told_becomes_markup() -> None:
    evil = "<img src=x onerror=alert(1)>"
    [row] = versions({"loaded": [{**loaded(), "version": evil}]})
    history = History()
    for at in (0, 5):
        history.add({"nextclick_cold_items": {(("version", evil),): 1.0}}, at)
    html = versions_html([row]) + "".join(card_html(card, evil) for card in cards(history))
    html += alarm_html(Alarm(evil, evil, evil, evil, 0, False, evil)) + chart(
        evil, [Line(evil, [(0, 1)])], str
    )
    assert evil not in html
    assert html.count("&lt;img") >= 9


def test_all_alarms_in_one_line() -> None:
    def alarm(pending: bool) -> Alarm:
        return Alarm("a", "b", "c", "d", 0, pending, "e")

    assert summed_up([], []) == "Nothing sounds."
    assert summed_up([alarm(False), alarm(True)], []) == "1 alarm, 1 pending."
    assert summed_up([alarm(False), alarm(False)], RULES[:1]) == (
        "2 alarms; 1 of 14 cannot be told yet: the console has to look for longer."
    )
    assert summed_up([], RULES[-2:]).endswith("longer (up to 8 d).")
