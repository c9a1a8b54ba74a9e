"""What happened between two looks at the metrics: growth, rates and quantiles, as Prometheus has them.

Counters begin again at 0 when the service starts: a value below the one before has grown from 0.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

SHORT_SECONDS = 30 * 60.0  # every look is kept so long
LONG_SECONDS = 8 * 86_400.0  # of some series one look in ten minutes is kept so long
LONG_STEP_SECONDS = 600.0
LONG = frozenset(
    {
        "nextclick_bundle_live",
        "nextclick_click_log_lost_total",
        "nextclick_judged_clicks_total",
        "nextclick_judged_hits_total",
    }
)
COUNTED = ("_total", "_bucket", "_sum", "_count")  # what only grows

Labels = tuple[tuple[str, str], ...]
Values = dict[str, dict[Labels, float]]  # by name of the sample
Where = Callable[[Mapping[str, str]], bool]


@dataclass(frozen=True)
class Look:
    """The metrics at one moment, in epoch seconds."""

    at: float
    values: Values  # as told
    grown: Values  # of counters: how much since the first look


def everything(_: Mapping[str, str]) -> bool:
    """Which series: all."""
    return True


def labelled(**wanted: str) -> Where:
    """Which series: those with these labels."""
    return lambda labels: all(labels.get(name) == value for name, value in wanted.items())


def parse(text: str) -> Values:
    """A page of metrics. Raises `ValueError` when it is none of Nextclick's."""
    values: Values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("nextclick_") and _is_looked_at(sample.name, sample.labels):
                labels = tuple(sorted(sample.labels.items()))
                values.setdefault(sample.name, {})[labels] = sample.value
    if not values:
        raise ValueError("no metric of Nextclick is among them")
    return values


class History:
    """The looks of the last half hour, and of a few series those of the last days."""

    def __init__(self) -> None:
        self.looks: deque[Look] = deque()
        self._long: deque[Look] = deque()
        self._labels: dict[Labels, Labels] = {}  # the same object in every look

    def add(self, values: Values, at: float) -> None:
        before = self.looks[-1] if self.looks else None
        values = {
            name: {self._labels.setdefault(labels, labels): value for labels, value in series.items()}
            for name, series in values.items()
        }
        look = Look(at, values, _grown(values, before))
        self.looks.append(look)
        while self.looks[0].at < at - SHORT_SECONDS:
            self.looks.popleft()
        if not self._long or at >= self._long[-1].at + LONG_STEP_SECONDS:
            self._long.append(Look(at, _only(LONG, values), _only(LONG, look.grown)))
            while self._long[0].at < at - LONG_SECONDS:
                self._long.popleft()

    @property
    def begins(self) -> float | None:
        """When the console began to look."""
        oldest = [kept[0].at for kept in (self._long, self.looks) if kept]
        return min(oldest, default=None)

    def now(self, name: str, where: Where = everything) -> dict[Labels, float]:
        """The newest values of a metric."""
        return _matching(self.looks[-1].values.get(name, {}), where) if self.looks else {}

    def gauge(self, name: str) -> float | None:
        """The newest value of a metric without labels."""
        return next(iter(self.now(name).values()), None)

    def earlier(self, name: str, seconds: float, where: Where = everything) -> dict[Labels, float] | None:
        """The values so long ago; None when nobody looked then."""
        look = self._look(name, seconds, at_least=True)
        return None if look is None else _matching(look.values.get(name, {}), where)

    def increase(
        self, name: str, seconds: float, where: Where = everything, *, offset: float = 0.0
    ) -> float | None:
        """How much counters have grown in the last `seconds`, which ended `offset` ago; None: nobody knows.

        Where the console has looked for less time, it is what was seen; with an offset, all must be seen.
        """
        found = self.increases(name, seconds, where, offset=offset)
        return None if found is None else sum(found.values())

    def increases(
        self, name: str, seconds: float, where: Where = everything, *, offset: float = 0.0
    ) -> dict[Labels, float] | None:
        """The same, for each series."""
        newest = (
            self._look(name, offset, at_least=True) if offset else (self.looks[-1] if self.looks else None)
        )
        oldest = self._look(name, offset + seconds, at_least=offset > 0)
        if newest is None or oldest is None or oldest.at >= newest.at:
            return None
        return between(oldest, newest, name, where)

    def rate(self, name: str, seconds: float, where: Where = everything) -> float | None:
        """Growth a second."""
        oldest = self._look(name, seconds)
        grown = self.increase(name, seconds, where)
        return None if grown is None or oldest is None else grown / (self.looks[-1].at - oldest.at)

    def quantile(self, q: float, histogram: str, seconds: float, where: Where = everything) -> float | None:
        """Of what a histogram has counted in the last `seconds`; None: nothing."""
        found = self.increases(f"{histogram}_bucket", seconds, where)
        return None if found is None else quantile(q, found)

    def _look(self, name: str, seconds: float, *, at_least: bool = False) -> Look | None:
        """The newest that is so old; without `at_least` the oldest there is, if none is."""
        if not self.looks:
            return None
        wanted = self.looks[-1].at - seconds
        kept_of_it = (self.looks, self._long) if name in LONG else (self.looks,)
        for kept in kept_of_it:
            if kept and kept[0].at <= wanted:
                return next(look for look in reversed(kept) if look.at <= wanted)
        if at_least:
            return None
        return min((kept[0] for kept in kept_of_it if kept), key=lambda look: look.at)


def between(older: Look, newer: Look, name: str, where: Where = everything) -> dict[Labels, float]:
    """How much each series of a counter grew from one look to another."""
    before = older.grown.get(name, {})
    return {
        labels: value - before.get(labels, 0.0)
        for labels, value in _matching(newer.grown.get(name, {}), where).items()
    }


def by(label: str, found: Mapping[Labels, float]) -> dict[str, float]:
    """Sums by the value of one label."""
    sums: dict[str, float] = {}
    for labels, value in found.items():
        key = dict(labels).get(label, "")
        sums[key] = sums.get(key, 0.0) + value
    return sums


def quantile(q: float, buckets: Mapping[Labels, float]) -> float | None:
    """As Prometheus's histogram_quantile, of all series together: straight lines within a bucket."""
    sums = sorted((float(bound), count) for bound, count in by("le", buckets).items())
    if not sums or sums[-1][1] <= 0:
        return None
    wanted = q * sums[-1][1]
    below, lower = 0.0, 0.0
    for bound, count in sums:
        if count >= wanted and count > below:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (wanted - below) / (count - below)
        below, lower = count, bound
    return lower


def _is_looked_at(name: str, labels: Mapping[str, str]) -> bool:
    """Half an hour of every bucket of every route would be a lot."""
    if name.endswith("_bucket"):
        return name == "nextclick_request_seconds_bucket" and labels.get("route") == "/recommend"
    return not name.endswith(("_sum", "_created"))


def _grown(values: Values, before: Look | None) -> Values:
    counted = {name: series for name, series in values.items() if name.endswith(COUNTED)}
    if before is None:
        return {name: dict.fromkeys(series, 0.0) for name, series in counted.items()}
    grown = {name: dict(series) for name, series in before.grown.items()}  # some may go with a restart
    for name, series in counted.items():
        told, sums = before.values.get(name, {}), grown.setdefault(name, {})
        for labels, value in series.items():
            sums[labels] = sums.get(labels, 0.0) + _growth(told.get(labels, 0.0), value)
    return grown


def _growth(before: float, after: float) -> float:
    return after - before if after >= before else after


def _only(names: Iterable[str], values: Values) -> Values:
    return {name: values[name] for name in names if name in values}


def _matching(series: Mapping[Labels, float], where: Where) -> dict[Labels, float]:
    return {labels: value for labels, value in series.items() if where(dict(labels))}
