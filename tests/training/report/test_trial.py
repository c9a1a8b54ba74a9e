"""The rule of advice, and how a budget is planned and kept: by a clock that is handed in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.training.planted import planted_dataset, planted_sessions, write_dataset
from training.report.advice import Advice, advise, in_words
from training.report.trial import (
    EPOCHS,
    FEWEST,
    Budget,
    Trial,
    TrialError,
    affordable,
    sample_size,
    steps_of,
    try_models,
)

SPREAD = np.linspace(-1, 1, 1001)  # of resampled values, a point to each side


def advised(
    sessions: int = 1000, popularity: tuple[str, ...] = (), **figures: tuple[float, float, float]
) -> Advice:
    """Of models by cost: Recall@20 and MRR@20, and how many points its 95 % intervals span to each side.

    Those of differences span the same, as the first model's do not vary.
    """
    recalls, mrrs = (
        {model: figures[model][which] + SPREAD / 0.95 * figures[model][2] for model in figures}
        for which in (0, 1)
    )
    by_cost = [model for model in figures if model not in popularity]
    values = {model: (recall, mrr) for model, (recall, mrr, _) in figures.items()}
    return advise(by_cost, popularity, recalls, mrrs, values, sessions)


def test_the_better_one_takes_the_place_of_the_cheaper() -> None:
    advice = advised(item_knn=(40, 12, 0), vmis_knn=(50, 17, 1), gru=(53, 19, 1.5))
    assert advice.model == "gru"
    assert [(step.model, step.against, step.is_taken) for step in advice.steps] == [
        ("vmis_knn", "item_knn", True),
        ("gru", "vmis_knn", True),
    ]


def test_what_is_not_beyond_noise_is_not_worth_its_cost() -> None:
    advice = advised(vmis_knn=(50, 17, 0), gru=(52, 18, 2.5))
    assert advice.model == "vmis_knn"
    assert "cannot be told apart, and VMIS-kNN is cheaper" in " ".join(
        in_words(advice, {"vmis_knn": "VMIS-kNN", "gru": "GRU"})
    )


def test_better_in_one_figure_and_worse_in_the_other_is_not_better() -> None:
    assert advised(vmis_knn=(50, 17, 0), gru=(53, 15, 1)).model == "vmis_knn"


def test_the_third_is_held_against_the_one_advised_so_far() -> None:
    advice = advised(vmis_knn=(50, 17, 0), gru=(48, 16, 1), niser=(51.5, 18, 1))
    assert [(step.model, step.against) for step in advice.steps] == [
        ("gru", "vmis_knn"),
        ("niser", "vmis_knn"),
    ]
    assert advice.model == "niser"


def test_too_short_a_test_is_told() -> None:
    """Twice as wide as 3 points takes four times the sessions."""
    advice = advised(sessions=100, vmis_knn=(50, 17, 0), gru=(51, 17, 6))
    assert not advice.has_power
    assert advice.sessions_to_tell == 400
    said = in_words(advice, {"vmis_knn": "VMIS-kNN", "gru": "GRU"})
    assert "for 3 points it takes about 400" in said[-1]
    assert advised(vmis_knn=(50, 17, 0), gru=(51, 17, 2)).has_power


def test_a_model_that_is_no_better_than_popularity_is_told() -> None:
    poor = advised(popularity=("pop", "spop"), pop=(5, 1, 0), spop=(30, 9, 0), vmis_knn=(30, 9, 2))
    assert poor.baseline is not None
    assert poor.baseline.against == "spop"
    assert any("little to learn" in of for of in in_words(poor, {"spop": "S-POP", "vmis_knn": "VMIS-kNN"}))
    good = advised(popularity=("spop",), spop=(30, 9, 0), vmis_knn=(50, 19, 2))
    assert not any("little to learn" in of for of in in_words(good, {"spop": "S-POP", "vmis_knn": "V"}))


def test_the_sample_leaves_time_for_the_epochs() -> None:
    targets = 4_000_000
    kept = sample_size(1_000_000, targets, [10_000, 5_000], 800) * targets / 1_000_000
    assert EPOCHS * (kept / 10_000 + kept / 5_000) == pytest.approx(800, rel=1e-3)
    assert sample_size(1_000_000, targets, [1e9], 800) == 1_000_000
    assert sample_size(1_000_000, targets, [1.0], 800) == FEWEST
    assert sample_size(1_000, 4_000, [1.0], -5) == 1_000
    assert sample_size(1_000_000, targets, [], 0) == 1_000_000


def test_as_many_models_as_there_is_time_for() -> None:
    assert affordable(100_000, [10_000, 5_000], 91) == 2
    assert affordable(100_000, [10_000, 5_000], 89) == 1
    assert affordable(100_000, [10_000, 1], 90) == 1
    assert affordable(100_000, [1], -5) == 1
    assert affordable(100_000, [], 90) == 0


def test_what_each_rule_dropped() -> None:
    counts = {
        "rows": 12,
        **{f"read_{unit}": 10 for unit in ("clicks", "sessions", "items")},
        **{f"long_sessions_{unit}": 8 for unit in ("clicks", "sessions", "items")},
        **{f"train_{unit}": 5 for unit in ("clicks", "sessions", "items")},
        **{f"test_all_{unit}": 3 for unit in ("clicks", "sessions", "items")},
        **{f"test_known_items_{unit}": 1 for unit in ("clicks", "sessions", "items")},
    }
    assert [(step.step, step.clicks, step.dropped) for step in steps_of(counts)] == [
        ("read", 10, None),
        ("long sessions", 8, 2),
        ("train", 5, None),
        ("test all", 3, None),
        ("test known items", 1, 2),
    ]


@dataclass
class Clock:
    """A second passes whenever it is looked at."""

    now: float = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def tried(place: Path, seconds: float, *models: str) -> tuple[Trial, list[str]]:
    said: list[str] = []
    clock = Clock()
    budget = Budget(seconds, clock, clock())
    data = planted_dataset(place / "data")
    return try_models(models, data, place / "sample", place, budget, [1], said.append), said


def test_the_clock_ends_training_with_the_best_epoch_so_far(tmp_path: Path) -> None:
    trial, said = tried(tmp_path, 48, "vmis_knn", "narm")
    trained = trial.models[1]
    epochs = [word for word in said if word.startswith("  epoch")]
    assert trained.stopped
    assert 1 < len(epochs) < 30
    assert trained.epochs == len(epochs), "it learns a walk: each epoch is better"
    assert f"after {len(epochs)} whole epochs" in trial.notes[-1]
    assert "longer --budget-minutes" in trial.notes[-1]
    assert (tmp_path / "bundles" / str(trained.bundle) / "manifest.json").exists()
    assert not (tmp_path / "runs/narm").exists()


def test_a_longer_budget_has_more_epochs(tmp_path: Path) -> None:
    few, many = (tried(tmp_path / str(s), s, "gru")[0].models[0].epochs for s in (40, 46))
    assert few is not None
    assert many is not None
    assert few < many


def test_without_time_for_an_epoch_the_model_is_left_out(tmp_path: Path) -> None:
    trial, _ = tried(tmp_path, 20, "vmis_knn", "gru")
    assert [of.model for of in trial.models] == ["vmis_knn"]
    assert [(of.model, of.why) for of in trial.left_out] == [("gru", "no time was left to train it")]
    assert trial.advice is not None
    assert trial.advice.model == "vmis_knn"


def test_what_cannot_be_served_is_not_advised(tmp_path: Path) -> None:
    trial, _ = tried(tmp_path, 1000, "pop", "spop")
    assert trial.advice is None
    assert [of.bundle for of in trial.models] == [None, None]


def test_nothing_measured_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="no model could be measured: gru: no time was left"):
        tried(tmp_path, 1, "gru")


def test_the_planted_walk_is_told_as_it_is(tmp_path: Path) -> None:
    """30 items, each after the one before it: all are warm, and VMIS-kNN knows the next."""
    trial, _ = tried(tmp_path, 1000, "pop", "vmis_knn")
    vmis = trial.models[1]
    assert vmis.recall.value > 95
    assert vmis.recall.low <= vmis.recall.value <= vmis.recall.high
    assert set(vmis.by_novelty) == {"warm"}
    assert set(vmis.by_length) == {"1", "2", "3-4", "5-9"}
    assert vmis.by_length["1"].cases == 40
    assert trial.sampled is None


def test_items_that_training_lacks_are_cold(tmp_path: Path) -> None:
    train = planted_sessions(300)
    test = planted_sessions(40, seed=1)
    unknown = test.items == 7
    test.items[unknown] = 0
    data = write_dataset(tmp_path / "data", train, test, n_validation=40)
    clock = Clock()
    trial = try_models(["pop"], data, tmp_path / "sample", tmp_path, Budget(100, clock, 0.0), [1])
    is_first = np.isin(np.arange(len(test.items)), test.offsets)
    cold = trial.models[0].by_novelty["cold"]
    assert cold.cases == int((unknown & ~is_first).sum())
    assert (cold.recall, cold.mrr) == (0, 0)


def test_too_little_is_refused(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", planted_sessions(2), planted_sessions(1), n_validation=0)
    with pytest.raises(TrialError, match="too few sessions: 2 to train on, 0 for validation"):
        try_models(["pop"], data, tmp_path / "sample", tmp_path, Budget(100, Clock(), 0.0), [1])
