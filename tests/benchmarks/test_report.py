"""From what the loops saw to a row, and from three rows to one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.load.client import FAILED, GOOD, SHED, UNANSWERED
from benchmarks.load.loops import Seen
from benchmarks.load.processes import Cpu
from benchmarks.load.report import Row, middle, ratio

SEEN = Seen(
    start=0.0,
    due=np.arange(104.0),
    late=np.zeros(104),
    took=np.array([*np.arange(1, 101) / 1000, 5.0, 7.0, 9.0, -1.0]),
    outcome=np.array([GOOD] * 100 + [SHED] * 2 + [FAILED, UNANSWERED], np.uint8),
    seconds=50.0,
    cpu=Cpu(service=0.0103, redis=0.00103, generator=0.0206),
    complaints=["it failed"],
)


def test_quantiles_are_those_of_good_answers_and_of_shed_ones_apart() -> None:
    row = Row.of("mixed", SEEN)
    assert (row.requests, row.errors, row.shed) == (104, 2, 2)
    assert row.per_second == 2.0
    assert row.milliseconds == {"p50": 50.5, "p90": 90.1, "p99": 99.01, "p99.9": 99.9}
    assert row.shed_milliseconds["p50"] == 6000
    assert row.cpu_microseconds == {"service": 100.0, "redis": 10.0, "generator": 200.0}


def test_the_middle_of_three_runs_is_kept() -> None:
    runs = [replace(Row.of("run", SEEN), milliseconds={"p50": 1.0, "p90": p90}) for p90 in (5.0, 9.0, 7.0)]
    assert middle(runs) is runs[2]
    nothing = replace(runs[0], milliseconds={})
    assert middle([nothing, runs[1], runs[0]]) is runs[1], "nothing good is slower than anything"


def test_a_ratio_is_the_middle_one_of_runs_that_took_turns() -> None:
    row = Row.of("run", SEEN)
    ours = [replace(row, per_second=rate) for rate in (100.0, 10.0, 60.0)]  # the machine was busy with others
    theirs = [replace(row, per_second=rate) for rate in (50.0, 5.0, 20.0)]
    assert ratio(ours, theirs) == 2.0
    assert ratio(ours, [replace(row, per_second=0.0)] * 3) == 0
