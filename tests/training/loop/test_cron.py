"""When cron expressions come due: fields, names, time zones, and the two nights the clocks change."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.loop.cron import Cron, ScheduleError

BERLIN = "Europe/Berlin"
SPRING = datetime(2026, 3, 28, 12, tzinfo=UTC)  # noon before the clocks jump from 02:00 to 03:00
AUTUMN = datetime(2026, 10, 24, 12, tzinfo=UTC)  # noon before they show 02:00 to 03:00 twice


def due(expression: str, timezone: str, after: datetime) -> Iterator[str]:
    """The times that follow, as the zone's clocks show them."""
    cron = Cron.parse(expression, timezone)
    while True:
        after = cron.next_after(after)
        yield f"{after.astimezone(cron.zone):%a %m-%d %H:%M %Z}"


def first(n: int, expression: str, timezone: str, after: datetime) -> list[str]:
    return list(itertools.islice(due(expression, timezone, after), n))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 3 * * *", ["Sun 03-29 03:00 UTC", "Mon 03-30 03:00 UTC"]),
        ("*/20 12 * * *", ["Sat 03-28 12:20 UTC", "Sat 03-28 12:40 UTC"]),
        ("5,50 * * * *", ["Sat 03-28 12:05 UTC", "Sat 03-28 12:50 UTC"]),
        ("0 3 1 * *", ["Wed 04-01 03:00 UTC", "Fri 05-01 03:00 UTC"]),
        ("0 3 1 jan,jul *", ["Wed 07-01 03:00 UTC", "Fri 01-01 03:00 UTC"]),
        ("0 3 1 9 *", ["Tue 09-01 03:00 UTC", "Wed 09-01 03:00 UTC"]),
        ("0 3 * * sun", ["Sun 03-29 03:00 UTC", "Sun 04-05 03:00 UTC"]),
        ("0 3 * * MON,thu", ["Mon 03-30 03:00 UTC", "Thu 04-02 03:00 UTC"]),
        ("0 3 * * tue-wed", ["Tue 03-31 03:00 UTC", "Wed 04-01 03:00 UTC"]),
        ("0 3 * * 0", ["Sun 03-29 03:00 UTC", "Sun 04-05 03:00 UTC"]),
        ("0 3 * * 7", ["Sun 03-29 03:00 UTC", "Sun 04-05 03:00 UTC"]),
        ("0 3 * * 1-5", ["Mon 03-30 03:00 UTC", "Tue 03-31 03:00 UTC"]),
        ("0 3 * * 6-7", ["Sun 03-29 03:00 UTC", "Sat 04-04 03:00 UTC"]),
        ("0 3 * * */3", ["Sun 03-29 03:00 UTC", "Wed 04-01 03:00 UTC"]),
        ("0 0 13 * 5", ["Fri 04-03 00:00 UTC", "Fri 04-10 00:00 UTC", "Mon 04-13 00:00 UTC"]),
        ("0 0 */10 * 5", ["Fri 05-01 00:00 UTC", "Fri 07-31 00:00 UTC"]),
        ("0 3 29 2 *", ["Tue 02-29 03:00 UTC", "Sun 02-29 03:00 UTC"]),
    ],
)
def test_fields_mean_what_they_mean_in_a_crontab(expression: str, expected: list[str]) -> None:
    """A day of month and a weekday are either, unless one of them begins with `*`: then they are both."""
    assert first(len(expected), expression, "UTC", SPRING) == expected


def test_a_scheduled_time_is_not_later_than_itself() -> None:
    on_time = datetime(2026, 3, 29, 3, tzinfo=UTC)
    assert Cron.parse("0 3 * * *", "UTC").next_after(on_time) == on_time + timedelta(days=1)


def test_hours_are_those_of_the_time_zone() -> None:
    assert first(1, "0 3 * * *", "Asia/Kolkata", SPRING) == ["Sun 03-29 03:00 IST"]
    assert Cron.parse("0 3 * * *", "Asia/Kolkata").next_after(SPRING) == datetime(
        2026, 3, 28, 21, 30, tzinfo=UTC
    )


def test_a_time_that_the_clocks_jump_over_comes_once_they_have_jumped() -> None:
    assert first(3, "30 2 * * *", BERLIN, SPRING) == [
        "Sun 03-29 03:00 CEST",
        "Mon 03-30 02:30 CEST",
        "Tue 03-31 02:30 CEST",
    ]
    assert first(3, "15,45 2-3 * * *", BERLIN, SPRING) == [
        "Sun 03-29 03:00 CEST",  # for 02:15 and 02:45
        "Sun 03-29 03:15 CEST",
        "Sun 03-29 03:45 CEST",
    ]


def test_a_time_that_the_clocks_show_twice_comes_once() -> None:
    assert first(3, "30 2 * * *", BERLIN, AUTUMN) == [
        "Sun 10-25 02:30 CEST",
        "Mon 10-26 02:30 CET",
        "Tue 10-27 02:30 CET",
    ]


def test_from_within_the_hour_that_comes_twice() -> None:
    second_0200 = datetime(2026, 10, 25, 1, 0, tzinfo=UTC)
    assert first(1, "30 2 * * *", BERLIN, second_0200) == ["Mon 10-26 02:30 CET"]
    assert first(1, "0 3 * * *", BERLIN, second_0200) == ["Sun 10-25 03:00 CET"]


def test_minutes_that_begin_with_a_star_go_by_the_clocks_as_they_stand() -> None:
    """No hour 2 in spring, and two of them in autumn."""
    assert first(4, "*/20 2 * * *", BERLIN, SPRING) == [
        *("Mon 03-30 02:00 CEST", "Mon 03-30 02:20 CEST", "Mon 03-30 02:40 CEST"),
        "Tue 03-31 02:00 CEST",
    ]
    assert first(7, "*/20 2 * * *", BERLIN, AUTUMN) == [
        *("Sun 10-25 02:00 CEST", "Sun 10-25 02:20 CEST", "Sun 10-25 02:40 CEST"),
        *("Sun 10-25 02:00 CET", "Sun 10-25 02:20 CET", "Sun 10-25 02:40 CET"),
        "Mon 10-26 02:00 CET",
    ]


def test_hours_that_begin_with_a_star_do_too() -> None:
    assert first(2, "0 */2 * * *", BERLIN, datetime(2026, 3, 29, 0, 0, tzinfo=UTC)) == [
        "Sun 03-29 04:00 CEST",
        "Sun 03-29 06:00 CEST",
    ]
    assert first(3, "0 */2 * * *", BERLIN, datetime(2026, 10, 24, 22, 0, tzinfo=UTC)) == [
        "Sun 10-25 02:00 CEST",
        "Sun 10-25 02:00 CET",
        "Sun 10-25 04:00 CET",
    ]


@pytest.mark.parametrize("night", [SPRING, AUTUMN])
def test_every_hour_keeps_its_pace_through_both_nights(night: datetime) -> None:
    cron = Cron.parse("*/30 * * * *", BERLIN)
    moment = night
    for step in range(1, 60):
        moment = cron.next_after(moment)
        assert moment == night + step * timedelta(minutes=30)


@given(
    moment=st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),
    expression=st.sampled_from(
        ["30 2 * * *", "*/7 * * * *", "0,30 1-3 * * *", "59 23 * * sun", "*/20 2 * * *", "0 0 13 * 5"]
    ),
    timezone=st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "UTC"]),
)
@settings(max_examples=100, deadline=None)
def test_nothing_lies_between_a_moment_and_the_next_time(
    moment: datetime, expression: str, timezone: str
) -> None:
    """Later than the moment, and the same seen from any moment between."""
    cron = Cron.parse(expression, timezone)
    following = cron.next_after(moment)
    assert following > moment
    assert cron.next_after(moment + (following - moment) / 2) == following


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("0 3 * *", "has 4 fields, not 5: minute, hour, day of month, month, weekday"),
        ("", "has 0 fields, not 5"),
        ("61 3 * * *", "minute '61': "),
        ("0 24 * * *", "hour '24': "),
        ("0 3 0 * *", "day of month '0': "),
        ("0 3 * foo *", "month 'foo': "),
        ("0 3 * * mon-fry", "weekday 'mon-fry': "),
        ("0 3 * * sat-mon", "an upward range"),
        ("0 3 * * 8", "weekday '8': takes 0-7, where 0 and 7 are sunday, or sun-sat"),
        ("0 3 */0 * *", "day of month '*/0': "),
        ("0 3 1, * *", "day of month '1,': "),
        ("0 0 3 * * *", "has 6 fields, not 5"),
        ("0 3 31 feb *", "such a day never comes"),
        ("0 3 30 2 *", "such a day never comes"),
        ("0 3 31 4,6,9,11 */2", "such a day never comes"),
    ],
)
def test_a_bad_expression_is_refused_by_its_field(expression: str, message: str) -> None:
    with pytest.raises(ScheduleError) as refused:
        Cron.parse(expression, "UTC")
    assert f"--cron {expression!r}: " in str(refused.value)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("timezone", "hint"),
    [
        ("Europe/Berlinn", "did you mean Europe/Berlin?"),
        ("Europe", "--timezone 'Europe'"),
        ("../../etc/passwd", "write it like Europe/Berlin, or UTC"),
        ("", "write it like Europe/Berlin, or UTC"),
    ],
)
def test_an_unknown_time_zone_is_refused(timezone: str, hint: str) -> None:
    with pytest.raises(ScheduleError, match="there is no such time zone") as refused:
        Cron.parse("0 3 * * *", timezone)
    assert hint in str(refused.value)
