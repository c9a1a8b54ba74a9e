"""When a cron expression comes due in a time zone: cronsim reads it as Unix's cron does; errors are clear.

As in Debian's cron, a time that the clocks jump over comes as soon as they have jumped, and a time that they
show twice comes once; an expression whose minute or hour begins with `*` goes by the clocks as they stand.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

FIELDS = {
    "minute": "0-59",
    "hour": "0-23",
    "day of month": "1-31",
    "month": "1-12 or jan-dec",
    "weekday": "0-7, where 0 and 7 are sunday, or sun-sat",
}


class ScheduleError(ValueError):
    """A schedule cannot be followed; the message names the option or file and what to do."""


@dataclass(frozen=True)
class Cron:
    """A cron expression in a time zone."""

    expression: str
    zone: ZoneInfo

    @classmethod
    def parse(cls, expression: str, timezone: str) -> Cron:
        """Raises `ScheduleError` naming the field that is wrong."""
        cron = cls(expression, _zone(timezone))
        values = expression.split()
        if len(values) != len(FIELDS):  # cronsim takes a sixth, for seconds
            raise ScheduleError(
                f"--cron {expression!r}: has {len(values)} fields, not 5: {', '.join(FIELDS)}"
            )
        for place, (name, takes) in enumerate(FIELDS.items()):
            alone = ["*"] * len(FIELDS)
            alone[place] = values[place]
            try:
                CronSim(" ".join(alone), datetime.now(UTC))
            except CronSimError as error:
                raise ScheduleError(
                    f"--cron {expression!r}: {name} {values[place]!r}: takes {takes}; several as a "
                    "list 1,4 or an upward range 1-4, every second one as */2"
                ) from error
        cron.next_after(datetime.now(UTC))
        return cron

    def next_after(self, moment: datetime) -> datetime:
        """The first scheduled time later than `moment` (aware), in UTC. Raises `ScheduleError`."""
        try:
            for due in CronSim(self.expression, moment.astimezone(self.zone)):
                # Counting on from the second showing of an hour, cronsim gives the first showing's moments.
                if (in_utc := due.astimezone(UTC)) > moment:
                    return in_utc
        except CronSimError:  # each field is right by itself, but no month has such a day
            pass
        raise ScheduleError(f"--cron {self.expression!r}: such a day never comes: change it, or the month")


def _zone(name: str) -> ZoneInfo:
    known = available_timezones()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "write it like Europe/Berlin, or UTC"
        raise ScheduleError(f"--timezone {name!r}: there is no such time zone: {hint}")
    return ZoneInfo(name)
