"""The gate simulated on real ranks: the promise of docs/decisions/0021, with fewer nights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gate import NEW, OLD, Models, lineage, main, one_night, pooled
from training.loop.retrain import GateConfig

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "diginetica"


@pytest.fixture(scope="module")
def models() -> Models:
    return Models.read(RESULTS)


def nights(models: Models, a_day: int, gate: GateConfig, days: int, lost: float) -> Counter[str]:
    random = np.random.default_rng(7)
    return Counter(one_night(models, a_day * days, gate, lost, random) for _ in range(50))


def test_fifty_sessions_a_day_are_pooled_until_equal_passes_and_worse_does_not(models: Models) -> None:
    prepare, gate = NEW
    assert [pooled(a_day, prepare) for a_day in (10, 50, 349, 350, 5000)] == [14, 7, 2, 1, 1]
    assert nights(models, 50, gate, 7, 0)["passed"] >= 45
    assert nights(models, 50, gate, 7, 3)["passed"] <= 2
    alone = nights(models, 50, OLD[1], 1, 0)
    assert alone["passed"] <= 10, "one night's sessions, as it was"
    assert alone["cannot tell"] >= 35, "and not: worse"


def test_twenty_nights_lose_no_more_than_the_drift_that_is_allowed(models: Models) -> None:
    _, gate = NEW
    unguarded = gate.model_copy(update={"max_drift": 100.0})
    (lost, passed), (without, _) = (
        lineage(models, 500, each, 1.0, np.random.default_rng(3)) for each in (gate, unguarded)
    )
    assert 0 < lost <= gate.max_drift + 1 < without
    assert passed == lost


def test_it_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--results", str(RESULTS), "--nights", "1", "--lineages", "1", "--sizes", "50"])
    printed = capsys.readouterr().out
    for title in ("as it was", "as it is", "20 nights"):
        assert title in printed
