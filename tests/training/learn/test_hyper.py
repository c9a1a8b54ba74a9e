"""`--set`: typed, and helpful when wrong."""

from __future__ import annotations

import pytest
import torch

from models.base import hyperparameters_of
from models.gru import GRUEncoder
from models.gru4rec import GRU4Rec
from models.niser import NISER
from models.tron import TRON
from training.learn.hyper import (
    LARGE_CATALOGUE,
    SAMPLED,
    HyperError,
    fit_to_catalogue,
    objective_in_words,
    resolve,
    resolve_counted,
)
from training.learn.registry import UnknownModelError, baseline_names, find_baseline, find_model, model_names


def test_recipe_and_hyper_parameters_are_set_with_their_types() -> None:
    recipe, hyper = resolve(NISER, ["lr=0.5", "epochs=3", "dim=32", "dropout=0.25"])
    assert (recipe.lr, recipe.epochs) == (0.5, 3)
    assert (hyper["dim"], hyper["dropout"]) == (32, 0.25)
    assert recipe.batch_size == NISER.recipe.batch_size
    assert NISER(10, **hyper).item_vectors().shape == (11, 32)  # type: ignore[arg-type]


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(HyperError, match=r"--set learning_rate: gru has no such.* dim, .* lr, "):
        resolve(GRUEncoder, ["learning_rate=1"])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("dim=ten", "expected int"),
        ("dim", "expected name=value"),
        ("lr=", "expected float"),
        ("lr=nan", "finite"),
        ("epochs=0", "at least 1"),
        ("head=cosine", "native, niser"),
    ],
)
def test_values_of_the_wrong_kind(assignment: str, message: str) -> None:
    with pytest.raises(HyperError, match=message):
        resolve(GRUEncoder, [assignment])


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("pen4rec", ["dim=8", "recent=0"], r"--set recent=0: recent must be between 1 and max_length"),
        ("pen4rec", ["recent=3", "max_length=2"], r"--set recent=3, max_length=2: recent must be between"),
        ("sasrec", ["heads=3"], "--set heads=3: dim must be a multiple of heads, and 100 is not one of 3"),
        ("sasrec", ["dropout=1.5"], "--set dropout=1.5: dropout probability has to be between 0 and 1"),
        ("core", ["temperature=0"], "--set temperature=0.0: temperature must be above 0, not 0.0"),
        ("bert4rec", ["masked=1.5"], "--set masked=1.5: masked must be at least 0 and at most 1, not 1.5"),
        ("narm", ["lr=-1"], "--set: lr must be at least 0, not -1.0"),
    ],
)
def test_values_that_the_model_itself_refuses(model: str, settings: list[str], message: str) -> None:
    """Before anything is read or trained, and as an error of the command line: none is a traceback."""
    with pytest.raises(HyperError, match=message):
        resolve(find_model(model), settings)


@pytest.mark.parametrize("name", [*model_names(), *baseline_names()])
def test_no_number_below_nought_is_taken(name: str) -> None:
    """Whatever the hyper-parameter counts or weighs; and what is refused alone is all that is named."""
    counted = name in baseline_names()
    declared = hyperparameters_of(find_baseline(name)) if counted else find_model(name).hyperparameters()
    for each, parameter in declared.items():
        if parameter.kind in (int, float):
            value = parameter.kind(-1)
            with pytest.raises(HyperError, match=rf"^--set {each}={value}: "):
                resolve_counted(name, [f"{each}=-1"]) if counted else resolve(
                    find_model(name), [f"{each}=-1"]
                )


def test_trying_a_model_draws_no_random_number() -> None:
    """The weights of a run do not depend on how often its settings were looked at."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for name in model_names():
        resolve(find_model(name), [])
    assert torch.equal(torch.get_rng_state(), before)


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match=r"did you mean gru\?.*niser"):
        find_model("gruu")


def test_time_order_is_refused_where_batches_have_their_own() -> None:
    assert resolve(GRUEncoder, ["time_order=true"])[0].time_order
    assert resolve(GRU4Rec, ["time_order=true", "batching=positions"])[0].time_order
    with pytest.raises(HyperError, match="time_order=true: batches of session-parallel have an order"):
        resolve(GRU4Rec, ["time_order=true"])


def test_a_full_softmax_is_sampled_in_a_large_catalogue_and_it_is_said() -> None:
    small, reason = fit_to_catalogue(GRUEncoder.recipe, LARGE_CATALOGUE, [])
    assert (small, reason) == (GRUEncoder.recipe, None)
    large, reason = fit_to_catalogue(GRUEncoder.recipe, LARGE_CATALOGUE + 1, ["lr=0.5"])
    assert reason is not None
    assert f"{LARGE_CATALOGUE + 1:,} items" in reason
    assert "--set loss=ce" in reason
    assert {name: getattr(large, name) for name in SAMPLED} == SAMPLED
    assert (large.loss, large.logq) == ("sampled-ce", True)
    assert large.lr == GRUEncoder.recipe.lr


def test_what_was_set_or_published_or_is_sampled_anyway_stays_in_a_large_catalogue() -> None:
    many = 10 * LARGE_CATALOGUE
    for loss in ("ce", "bpr"):
        recipe, _ = resolve(GRUEncoder, [f"loss={loss}"])
        assert fit_to_catalogue(recipe, many, [f"loss={loss}"]) == (recipe, None)
    assert fit_to_catalogue(TRON.recipe, many, []) == (TRON.recipe, None)
    assert fit_to_catalogue(GRUEncoder.recipe, many, [], published="paper") == (GRUEncoder.recipe, None)
    recipe, _ = resolve(GRUEncoder, ["negatives=77"])
    assert fit_to_catalogue(recipe, many, ["negatives=77"])[0].negatives == 77


def test_an_objective_in_words() -> None:
    assert objective_in_words(GRUEncoder.recipe, 43_097) == "full softmax over 43,097 items"
    large, _ = fit_to_catalogue(GRUEncoder.recipe, 10**6, [])
    assert objective_in_words(large, 10**6) == (
        "sampled-ce against 8,192 negatives and the step's other targets of 1,000,000 items,"
        " corrected by logQ"
    )
    assert objective_in_words(TRON.recipe, 9) == (
        "sampled-ce against 16,384 negatives of 9 items, corrected by logQ"
    )
