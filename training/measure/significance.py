"""Which models can be told apart: paired tests, and bootstrap intervals, over the test sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import ttest_rel

from training.measure.results import TargetRanks

ALPHA = 0.05
RESAMPLES = 1000
ROUNDING = 1e-12  # sums of the same reciprocals in another order differ by less

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Every model against the best of them by `metric`."""

    metric: str
    best: str
    sessions: int
    p: dict[str, float]  # by model, corrected; the best is not among them


def against_best(ranks: Mapping[str, TargetRanks], metric: str) -> Comparison | None:
    """Compare models, by name, by `recall@20` or `mrr@20`; None when there are fewer than two.

    Cases of one session are not independent, so the paired sample is the sessions: their sums of hits, or of
    reciprocal ranks. All comparisons together are wrong with a probability of `ALPHA` (`holm`).
    """
    sums = {name: session_sums(of, metric) for name, of in ranks.items()}
    if len(sums) < 2:
        return None
    best = max(sums, key=lambda name: sums[name].sum())
    p = {name: paired_p(of, sums[best]) for name, of in sums.items() if name != best}
    corrected = holm(np.array(list(p.values())))
    return Comparison(metric, best, len(sums[best]), dict(zip(p, corrected.tolist(), strict=True)))


def holm(p: Floats) -> Floats:
    """Holm's correction (Scandinavian Journal of Statistics 1979): Bonferroni's promise, never a larger p.

    The i-th smallest of m is multiplied by m - i + 1, and is not below any smaller one's.
    """
    order = np.argsort(p)
    in_order = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return in_order[np.argsort(order)]


def session_sums(ranks: TargetRanks, metric: str) -> Floats:
    """(sessions,) hits among the 20 (`recall@20`) or reciprocal ranks (`mrr@20`), added up by session."""
    hits = ranks.ranks > 0
    gains: Floats = hits / (np.maximum(ranks.ranks, 1) if metric == "mrr@20" else 1)
    session_of = np.repeat(np.arange(len(ranks.cases)), ranks.cases)
    return np.bincount(session_of, gains, len(ranks.cases)).astype(np.float64)


def paired_p(first: Floats, second: Floats) -> float:
    """Two-sided p of a paired t-test, also where it is a limit: 1 for no difference, 0 for a constant one."""
    differences = first - second
    if len(differences) < 2 or np.abs(differences).max() < ROUNDING:
        return 1.0
    if np.ptp(differences) < ROUNDING:
        return 0.0
    return float(ttest_rel(first, second).pvalue)


def resampled(ranks: Mapping[str, TargetRanks], metric: str) -> dict[str, Floats]:
    """(RESAMPLES,) values in percent of each model's `recall@20` or `mrr@20`, were the test drawn anew.

    Sessions are drawn with replacement, whole, and the same ones for every model: so a difference of two
    models' values is paired, and `interval` of it is one of the difference.
    """
    cases = next(iter(ranks.values())).cases
    sums = np.stack([*(session_sums(of, metric) for of in ranks.values()), cases])  # (models + 1, sessions)
    random = np.random.default_rng(0)
    found = np.empty((len(sums), RESAMPLES))
    for number in range(RESAMPLES):
        drawn = np.bincount(random.integers(len(cases), size=len(cases)), minlength=len(cases))
        found[:, number] = sums @ drawn
    return dict(zip(ranks, 100 * found[:-1] / np.maximum(found[-1], 1), strict=True))


def interval(values: Floats) -> tuple[float, float]:
    """What holds the middle 95 % of resampled values."""
    low, high = np.percentile(values, (100 * ALPHA / 2, 100 - 100 * ALPHA / 2))
    return float(low), float(high)
