"""What a `--search` becomes: typed, and logarithmic where it should be."""

from __future__ import annotations

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from models.base import Hyper
from models.gru import GRUEncoder
from training.learn.hyper import HyperError
from training.search.space import Distribution, own_parameters, search_space, settings
from training.search.space import assignments as assignments_of


@pytest.mark.parametrize(
    ("search", "distribution"),
    [
        ("lr=1e-4..1e-2", FloatDistribution(1e-4, 1e-2, log=True)),
        ("lr=0.001..0.002", FloatDistribution(0.001, 0.002, log=True)),
        ("weight_decay=0..0.1", FloatDistribution(0.0, 0.1)),
        ("scale=8..32", FloatDistribution(8.0, 32.0)),
        ("scale=1..100", FloatDistribution(1.0, 100.0, log=True)),
        ("layers=1..3", IntDistribution(1, 3)),
        ("negatives=10..2000", IntDistribution(10, 2000, log=True)),
        ("layers=1|3", CategoricalDistribution([1, 3])),
        ("logq=true|false", CategoricalDistribution([True, False])),
        ("head=niser|native", CategoricalDistribution(["niser", "native"])),
    ],
)
def test_ranges_and_categories(search: str, distribution: Distribution) -> None:
    name = search.partition("=")[0]
    space = search_space(GRUEncoder, [], [search])
    assert space == {name: distribution}
    choices = getattr(space[name], "choices", ())
    assert [type(choice) for choice in choices] == [type(c) for c in getattr(distribution, "choices", ())]


def test_the_usual_search_leaves_out_what_is_fixed() -> None:
    rate = FloatDistribution(0.001, 0.009, log=True)
    embedding, hidden = FloatDistribution(0, 0.6), FloatDistribution(0, 0.6)
    assert search_space(GRUEncoder, [], []) == {
        "lr": rate,
        "dropout_embedding": embedding,
        "dropout_hidden": hidden,
    }
    fixed = ["lr=0.002", "dropout_hidden=0.1"]
    assert search_space(GRUEncoder, fixed, []) == {"dropout_embedding": embedding}
    with pytest.raises(HyperError, match="nothing usual left to search"):
        search_space(GRUEncoder, [*fixed, "dropout_embedding=0"], [])


def test_what_is_wrong_with_set_is_said_of_set() -> None:
    with pytest.raises(HyperError, match="--set dim=ten: expected int"):
        search_space(GRUEncoder, ["dim=ten"], ["lr=1e-3..1e-2"])


def test_combinations_are_checked_before_a_trial_meets_them() -> None:
    with pytest.raises(HyperError, match="--search: loss bpr needs negatives"):
        search_space(GRUEncoder, ["in_batch=false"], ["loss=ce|bpr", "negatives=0..8"])
    search_space(GRUEncoder, ["in_batch=false"], ["loss=ce|bpr", "negatives=1..8"])


def test_own_parameters_are_those_the_space_holds() -> None:
    searches = ["lr=1e-3..1e-2", "head=niser|native", "layers=1..2"]
    own = {"lr": 3e-3, "head": "niser", "layers": 1}
    assert own_parameters(GRUEncoder, [], search_space(GRUEncoder, [], searches)) == own
    assert own_parameters(GRUEncoder, [], search_space(GRUEncoder, [], ["layers=2..3"])) is None
    assert own_parameters(GRUEncoder, [], search_space(GRUEncoder, [], ["layers=2|3"])) is None


def test_assignments_give_back_every_digit() -> None:
    parameters: dict[str, Hyper] = {"lr": 0.1 + 0.2, "logq": False, "layers": 2, "head": "native"}
    typed = settings(GRUEncoder, assignments_of(parameters))
    assert {name: typed[name] for name in parameters} == parameters
