"""Bootstrap intervals over whole sessions, paired between models."""

from __future__ import annotations

import numpy as np
import pytest

from training.measure.results import TargetRanks
from training.measure.significance import interval, resampled


def ranks(hits: list[list[int]]) -> TargetRanks:
    return TargetRanks(np.concatenate(hits), np.array([len(of) for of in hits]))


def test_values_lie_about_the_measured_one() -> None:
    random = np.random.default_rng(5)
    hits = [list(random.integers(0, 3, random.integers(1, 6))) for _ in range(400)]
    of = {"one": ranks(hits)}
    every = np.concatenate(hits)
    for metric, measured in (
        ("recall@20", (every > 0).mean()),
        ("mrr@20", np.where(every > 0, 1 / np.maximum(every, 1), 0).mean()),
    ):
        low, high = interval(resampled(of, metric)["one"])
        assert low < 100 * measured < high
        assert high - low < 10


def test_sessions_are_drawn_whole() -> None:
    """Ten clicks that all hit or all miss tell no more than one: the interval is as wide as that of one."""
    single = [[n % 2] for n in range(200)]
    tenfold = [[n % 2] * 10 for n in range(200)]
    width = [np.ptp(interval(resampled({"m": ranks(of)}, "recall@20")["m"])) for of in (single, tenfold)]
    assert width[1] == pytest.approx(width[0])
    independent = [[n % 2 for n in range(10)]] * 200
    assert np.ptp(interval(resampled({"m": ranks(independent)}, "recall@20")["m"])) < 0.01 * width[0]


def test_models_are_paired() -> None:
    """One always hits where the other does, and once more: the difference is surer than either."""
    worse = [[n % 2] for n in range(200)]
    better = [[1], *worse[1:]]
    values = resampled({"worse": ranks(worse), "better": ranks(better)}, "recall@20")
    difference = values["better"] - values["worse"]
    assert (difference >= 0).all()
    assert np.ptp(interval(difference)) < 0.3 * np.ptp(interval(values["worse"]))
