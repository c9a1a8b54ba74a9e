"""How far live figures may be off: 95 % intervals of means of values between 0 and 1, over sessions.

A session's clicks are alike: with 10,000 of them from 1,000 sessions one knows less than with one click each
of 10,000. So the variance is that of a ratio of sums over independent sessions, Var(sum x / sum n) =
S / (S - 1) sum (x_s - m n_s)^2 / (sum n)^2 (W. G. Cochran, Sampling Techniques, 3rd ed., 1977, eq. 2.39 and
6.9 ff.), and the interval Wilson's score interval (E. B. Wilson, JASA 22, 1927), (m + z^2/2n -+
z sqrt(m (1 - m)/n + z^2/4n^2)) / (1 + z^2/n), at the number n of independent yes-or-no trials that would
have this variance: n = m (1 - m) / Var (C. Franco et al., J. Survey Statistics and Methodology 7, 2019).
"""

from __future__ import annotations

import math
from statistics import NormalDist

from service.state.store import Quality, Spread

FEWEST_SESSIONS = 50
Z = NormalDist().inv_cdf(0.975)

Interval = tuple[float, float]


def hit_rate_interval(quality: Quality) -> Interval | None:
    """Of the hit rate; None while too few sessions were judged to tell."""
    spread = quality.spread
    if spread.sessions < FEWEST_SESSIONS:
        return None
    effect = _effect(spread, spread.hits, spread.hh, spread.hn)
    # Hits are no less spread than trials of their own: if they seem to be, that is chance.
    return wilson(quality.hits / quality.judged, quality.judged / max(effect, 1.0))


def mrr_interval(quality: Quality) -> Interval | None:
    """Of the mean reciprocal rank; None while too few sessions were judged to tell."""
    if quality.spread.sessions < FEWEST_SESSIONS:
        return None
    # As if one more session had clicked, and hit at rank 1. Where few have, the spread is too small else:
    # most of it is of those. In simulations that makes 92 % of intervals that hold the truth 95 %.
    spread = Spread(*(each + 1 for each in quality.spread))
    effect = _effect(spread, spread.reciprocal_ranks, spread.rr, spread.rn)
    return wilson(quality.reciprocal_ranks / quality.judged, quality.judged / effect)


def _effect(spread: Spread, x: float, xx: float, xn: float) -> float:
    """How many times the variance of independent yes-or-no trials that of the mean of x is."""
    mean = x / spread.clicks
    deviations = xx - 2 * mean * xn + mean * mean * spread.nn  # the sum over sessions of (x_s - mean n_s)^2
    per_click = spread.sessions / (spread.sessions - 1) * deviations / spread.clicks
    of_trials = mean * (1 - mean)
    if of_trials > 0 and per_click > 0:
        return per_click / of_trials
    return spread.nn / spread.clicks  # nothing differs: then as if all clicks of a session were one


def wilson(mean: float, trials: float) -> Interval:
    """Wilson's interval of a rate in so many independent trials, which need be no whole number."""
    centre = mean + Z * Z / (2 * trials)
    reach = Z * math.sqrt(mean * (1 - mean) / trials + (Z / (2 * trials)) ** 2)
    scale = 1 + Z * Z / trials
    return max((centre - reach) / scale, 0.0), min((centre + reach) / scale, 1.0)
