"""`--set`: typed, and helpful when wrong."""

from __future__ import annotations

import pytest

from models.gru4rec import GRU4Rec
from models.niser import NISER
from training.learn.hyper import HyperError, resolve
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
