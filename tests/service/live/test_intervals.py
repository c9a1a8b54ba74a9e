"""Intervals of live figures: against scipy's, and against what is true of shoppers that are made up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binomtest

from service.live.intervals import FEWEST_SESSIONS, hit_rate_interval, mrr_interval, wilson
from service.state.store import Quality, Spread

Floats = npt.NDArray[np.float64]
TOP = 20
REPEATS = 2000


def quality_of(n: Floats, h: Floats, r: Floats) -> Quality:
    """What Redis counts of sessions with so many clicks, hits and reciprocal ranks."""
    sums = (len(n), n.sum(), h.sum(), r.sum(), n @ n, h @ n, h @ h, r @ n, r @ r)
    return Quality(int(n.sum()), int(h.sum()), float(r.sum()), spread=Spread(*map(float, sums)))


def made_up(
    random: np.random.Generator, sessions: int, alike: float, rate: float
) -> tuple[Quality, tuple[float, float]]:
    """Sessions of 1 to about 20 clicks that judge, each with a liking of its own, and the true two figures.

    `alike` is the correlation of hits within a session.
    """
    n = random.geometric(0.3, sessions)
    of_session = np.repeat(np.arange(sessions), n)
    if alike:
        strength = (1 - alike) / alike
        p = random.beta(rate * strength, (1 - rate) * strength, sessions)[of_session]
    else:
        p = np.full(n.sum(), rate)
    hits = (random.random(n.sum()) < p).astype(float)
    ranks = random.integers(1, TOP + 1, n.sum())
    h, r = (np.bincount(of_session, each, sessions).astype(float) for each in (hits, hits / ranks))
    truth = rate, rate * float((1 / np.arange(1, TOP + 1)).mean())
    return quality_of(n.astype(float), h, r), truth


@pytest.mark.parametrize(("hits", "clicks"), [(0, 60), (1, 60), (30, 100), (97, 100), (80, 80), (3, 100_000)])
def test_with_one_click_a_session_it_is_wilsons(hits: int, clicks: int) -> None:
    h = np.zeros(clicks)
    h[:hits] = 1
    low, high = binomtest(hits, clicks).proportion_ci(0.95, "wilson")
    assert wilson(hits / clicks, clicks) == pytest.approx((low, high), abs=1e-9)
    found = hit_rate_interval(quality_of(np.ones(clicks), h, h))
    # A variance that is estimated, with its S / (S - 1), makes it the wider by a trace.
    assert found == pytest.approx((low, high), abs=0.6 / clicks)


@pytest.mark.parametrize(
    ("sessions", "alike", "rate"), [(60, 0.3, 0.1), (100, 0.0, 0.3), (300, 0.6, 0.3), (1000, 0.3, 0.02)]
)
def test_it_holds_what_is_true_in_95_of_100_cases(sessions: int, alike: float, rate: float) -> None:
    random = np.random.default_rng(11)
    held = np.zeros(2)
    for _ in range(REPEATS):
        quality, truth = made_up(random, sessions, alike, rate)
        for place, interval in enumerate((hit_rate_interval(quality), mrr_interval(quality))):
            assert interval is not None
            held[place] += interval[0] <= truth[place] <= interval[1]
    assert (held > 0.925 * REPEATS).all(), held
    assert (held < 0.98 * REPEATS).all(), held


def test_clicks_of_one_session_are_not_taken_for_independent() -> None:
    """Sessions that hit always or never: ten clicks tell no more than one."""
    h = np.zeros(200)
    h[:60] = 10
    found = hit_rate_interval(quality_of(np.full(200, 10.0), h, h))
    assert found == pytest.approx(wilson(0.3, 200), abs=0.002)


def test_with_few_sessions_nothing_is_said_however_many_clicks_they_have() -> None:
    few = FEWEST_SESSIONS - 1
    n, h = np.full(few, 100.0), np.full(few, 30.0)
    assert hit_rate_interval(quality_of(n, h, h)) is mrr_interval(quality_of(n, h, h)) is None
    assert hit_rate_interval(Quality()) is mrr_interval(Quality()) is None
    n, h = np.append(n, 1.0), np.append(h, 1.0)
    assert hit_rate_interval(quality_of(n, h, h)) is not None


def test_what_an_earlier_version_judged_counts_with_the_spread_of_what_came_later() -> None:
    quality, _ = made_up(np.random.default_rng(3), 500, 0.3, 0.3)
    older: dict[str, Any] = {
        "judged": 3 * quality.judged,
        "hits": 3 * quality.hits,
        "reciprocal_ranks": 3 * quality.reciprocal_ranks,
    }
    for interval in (hit_rate_interval, mrr_interval):
        known, wider = interval(replace(quality, **older)), interval(quality)
        assert known is not None
        assert wider is not None
        assert known[1] - known[0] == pytest.approx((wider[1] - wider[0]) / 3**0.5, rel=0.01)
    assert hit_rate_interval(Quality(1000, 300, 150.0)) is None, "none came later"


@pytest.mark.parametrize("hits", [0.0, 1.0])
def test_where_nothing_differs_it_is_not_certain(hits: float) -> None:
    quality = quality_of(np.full(100, 4.0), np.full(100, 4 * hits), np.full(100, 4 * hits))
    found = hit_rate_interval(quality)
    assert found == pytest.approx(wilson(hits, 100)), "as if there were 100 clicks, not 400"
    of_ranks = mrr_interval(quality)
    assert of_ranks is not None
    assert of_ranks[0] - 1e-9 < hits < of_ranks[1] + 1e-9
    assert of_ranks[1] - of_ranks[0] > 0.005
