"""`--set`: typed, and helpful when wrong."""

from __future__ import annotations

import pytest

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
)
from training.learn.registry import UnknownModelError, find_model


def test_recipe_and_hyper_parameters_are_set_with_their_types() -> None:
    recipe, hyper = resolve(NISER, ["lr=0.5", "epochs=3", "dim=32", "dropout=0.25"])
    assert (recipe.lr, recipe.epochs) == (0.5, 3)
    assert (hyper["dim"], hyper["dropout"]) == (32, 0.25)
    assert recipe.batch_size == NISER.recipe.batch_size
    assert NISER(10, **hyper).item_vectors().shape == (11, 32)  # type: ignore[arg-type]


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(HyperError, match=r"--set learning_rate: GRU4Rec has no such.* dim, .* lr, "):
        resolve(GRU4Rec, ["learning_rate=1"])


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
        resolve(GRU4Rec, [assignment])


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match=r"did you mean gru4rec\?.*niser"):
        find_model("gru4rce")


def test_time_order_is_refused_where_batches_have_their_own() -> None:
    assert resolve(GRU4Rec, ["time_order=true"])[0].time_order
    with pytest.raises(HyperError, match="time_order=true: batches of session-parallel have an order"):
        resolve(GRU4Rec, ["time_order=true", "batching=session-parallel", "loss=bpr-max", "negatives=8"])


def test_a_full_softmax_is_sampled_in_a_large_catalogue_and_it_is_said() -> None:
    small, reason = fit_to_catalogue(GRU4Rec.recipe, LARGE_CATALOGUE, [])
    assert (small, reason) == (GRU4Rec.recipe, None)
    large, reason = fit_to_catalogue(GRU4Rec.recipe, LARGE_CATALOGUE + 1, ["lr=0.5"])
    assert reason is not None
    assert f"{LARGE_CATALOGUE + 1:,} items" in reason
    assert "--set loss=ce" in reason
    assert {name: getattr(large, name) for name in SAMPLED} == SAMPLED
    assert (large.loss, large.logq) == ("sampled-ce", True)
    assert large.lr == GRU4Rec.recipe.lr


def test_what_was_set_or_published_or_is_sampled_anyway_stays_in_a_large_catalogue() -> None:
    many = 10 * LARGE_CATALOGUE
    for loss in ("ce", "bpr"):
        recipe, _ = resolve(GRU4Rec, [f"loss={loss}"])
        assert fit_to_catalogue(recipe, many, [f"loss={loss}"]) == (recipe, None)
    assert fit_to_catalogue(TRON.recipe, many, []) == (TRON.recipe, None)
    assert fit_to_catalogue(GRU4Rec.recipe, many, [], published="paper") == (GRU4Rec.recipe, None)
    recipe, _ = resolve(GRU4Rec, ["negatives=77"])
    assert fit_to_catalogue(recipe, many, ["negatives=77"])[0].negatives == 77


def test_an_objective_in_words() -> None:
    assert objective_in_words(GRU4Rec.recipe, 43_097) == "full softmax over 43,097 items"
    large, _ = fit_to_catalogue(GRU4Rec.recipe, 10**6, [])
    assert objective_in_words(large, 10**6) == (
        "sampled-ce against 8,192 negatives and the step's other targets of 1,000,000 items,"
        " corrected by logQ"
    )
    assert objective_in_words(TRON.recipe, 9) == (
        "sampled-ce against 16,384 negatives of 9 items, corrected by logQ"
    )
