"""When a cron expression comes due, in a time zone and through its clock changes.

APScheduler does the arithmetic of the five fields. What it leaves open is decided here, as Unix's cron does:
a time that the clocks jump over comes as soon as they have jumped, a time that they show twice comes once;
only an expression with `*` for the hour keeps its pace through either.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

from apscheduler.triggers.cron import CronTrigger

FIELDS = {  # as an operator calls it, and as APScheduler does
    "minute": "minute",
    "hour": "hour",
    "day of month": "day",
    "month": "month",
    "weekday": "day_of_week",
}
TICK = timedelta(microseconds=1)


class ScheduleError(ValueError):
    """A schedule cannot be followed; the message names the option or file and what to do."""


@dataclass(frozen=True)
class Cron:
    """A cron expression in a time zone."""

    expression: str
    zone: ZoneInfo
    every_hour: bool
    trigger: CronTrigger  # in UTC it counts on the wall clock, which knows no jumps; with every_hour in zone

    @classmethod
    def parse(cls, expression: str, timezone: str) -> Cron:
        """Raises `ScheduleError` naming the field that is wrong."""
        zone = _zone(timezone)
        values = expression.split()
        if len(values) != len(FIELDS):
            raise ScheduleError(
                f"--cron {expression!r}: has {len(values)} fields, not 5: {', '.join(FIELDS)}"
            )
        given = dict(zip(FIELDS, values, strict=True))
        _refuse_ambiguous(expression, given)
        for name, value in given.items():
            try:
                CronTrigger(**{FIELDS[name]: value}, timezone=UTC)
            except ValueError as error:
                hint = "; the week goes from mon to sun" if name == "weekday" else ""
                raise ScheduleError(f"--cron {expression!r}: {name} {value!r}: {error}{hint}") from error
        every_hour = given["hour"] == "*"
        fields = {FIELDS[name]: value for name, value in given.items()}
        trigger = CronTrigger(**fields, timezone=zone if every_hour else UTC)
        if trigger.get_next_fire_time(None, datetime.now(UTC)) is None:
            raise ScheduleError(f"--cron {expression!r}: such a day never comes: change it, or the month")
        return cls(expression, zone, every_hour, trigger)

    def next_after(self, moment: datetime) -> datetime:
        """The first scheduled time later than `moment` (aware), in UTC."""
        # In UTC throughout: times of one zone are compared and added to by their wall clocks, which repeat.
        moment = moment.astimezone(UTC)
        if self.every_hour:
            return self._fire(moment).astimezone(UTC)
        wall = moment.astimezone(self.zone).replace(tzinfo=UTC)
        while True:
            wall = self._fire(wall)
            due = self._moment_of(wall.replace(tzinfo=None))
            if due > moment:
                return due

    def _fire(self, after: datetime) -> datetime:
        due: datetime | None = self.trigger.get_next_fire_time(None, after + TICK)
        if due is None:
            raise ScheduleError(f"--cron {self.expression!r}: does not come again after {after}")
        return due

    def _moment_of(self, wall: datetime) -> datetime:
        """The first moment, in UTC, at which the zone's clocks show `wall` or later."""
        first = min(wall.replace(tzinfo=self.zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        while first.astimezone(self.zone).replace(tzinfo=None) < wall:  # the clocks jump over it
            first += timedelta(minutes=1)
        return first


def _zone(name: str) -> ZoneInfo:
    known = available_timezones()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "write it like Europe/Berlin, or UTC"
        raise ScheduleError(f"--timezone {name!r}: there is no such time zone: {hint}")
    return ZoneInfo(name)


def _refuse_ambiguous(expression: str, given: dict[str, str]) -> None:
    """What cron and APScheduler would each read differently."""
    if any(character.isdigit() for character in given["weekday"]):
        raise ScheduleError(
            f"--cron {expression!r}: weekday {given['weekday']!r}: is a number, which Unix's cron counts "
            "from sunday and this scheduler from monday: write the name: mon, tue, wed, thu, fri, sat or "
            "sun, a range like mon-fri, or a list like mon,thu"
        )
    if given["day of month"] != "*" and given["weekday"] != "*":
        raise ScheduleError(
            f"--cron {expression!r}: names both a day of month and a weekday, which Unix's cron reads as "
            "either and this scheduler as both: put * for one of them"
        )
