"""GRU4Rec against its equations, click by click in numpy, and the authors' code where the paper is silent."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from models.base import Batch, Recipe
from models.gru4rec import GRU4Rec
from models.layers import GRU
from models.sessions import Sessions
from tests.models.test_layers import slow_gru
from training.learn.batches import Examples
from training.measure.validation import rank_targets

Floats = npt.NDArray[np.floating]
Embedding = Literal["one-hot", "separate", "tied"]
SESSION = [3, 1, 3, 7]


def some_model(**hyper: Any) -> GRU4Rec:
    """No weight so small that leaving out its term would go unseen."""
    torch.manual_seed(0)
    model = GRU4Rec(9, dim=4, **hyper).eval()
    identity = model.gru.get_parameter("weight_ih_l0") if hyper.get("embedding") == "one-hot" else None
    for parameter in model.parameters():
        if parameter is not identity:
            nn.init.normal_(parameter)
    return model


def numbers(tensor: torch.Tensor) -> Floats:
    values: Floats = tensor.detach().numpy()
    return values


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("embedding", ["one-hot", "separate", "tied"])
def test_equals_its_equations(embedding: Embedding, layers: int) -> None:
    """(1), layer upon layer."""
    model = some_model(embedding=embedding, layers=layers)
    states = numbers(model.inputs.weight)[SESSION]
    for layer in range(layers):  # a one-hot's rows are its products: its W is the identity
        states = slow_gru(model.gru, states, layer)
    answer = numbers(model.forward_all(torch.tensor([SESSION]))[0])
    np.testing.assert_allclose(answer, states, atol=1e-5)


def test_inputs_to_all_layers_and_layers_before_the_output() -> None:
    model = some_model(layers=3, input_to_all=True, feed_forward=2)
    clicks = numbers(model.items.weight)[SESSION]
    states = slow_gru(model.gru, clicks, 0)
    assert len(model.higher) == 2
    for layer in model.higher:
        assert isinstance(layer, GRU)
        states = slow_gru(layer, np.concatenate([states, clicks], 1), 0)
    assert len(model.feed_forward) == 2
    for dense in model.feed_forward:
        assert isinstance(dense, nn.Linear)
        states = np.tanh(states @ numbers(dense.weight).T + numbers(dense.bias))
    np.testing.assert_allclose(numbers(model.forward_all(torch.tensor([SESSION]))[0]), states, atol=1e-5)


def test_discounted_clicks_are_summed_and_scaled() -> None:
    """1, ½, ¼, … of the clicks before, divided by the length of a vector of these numbers."""
    model = some_model(embedding="one-hot", discount=0.5, batching="positions")
    rows = numbers(model.inputs.weight)[SESSION]
    summed = np.stack(
        [
            sum(0.5 ** (t - j) * rows[j] for j in range(t + 1))
            / math.sqrt(sum(0.25**k for k in range(t + 1)))
            for t in range(4)
        ]
    )
    answer = numbers(model.forward_all(torch.tensor([SESSION]))[0])
    np.testing.assert_allclose(answer, slow_gru(model.gru, summed, 0), atol=1e-5)
    with pytest.raises(ValueError, match="discount: a session-parallel step has one click"):
        GRU4Rec(9, dim=4, discount=0.5)


def test_a_score_has_its_items_bias() -> None:
    """(2), in training and validation: an item that is popular enough is first, whatever the session."""
    model = some_model(batching="positions")
    model.recipe = Recipe()
    scores = numbers(model(torch.tensor([SESSION]))[0]) @ numbers(model.item_vectors())[1:].T
    scores = scores + numbers(model.bias)[1:]
    loss = model.loss(Batch(torch.tensor([SESSION]), torch.tensor([[0, 0, 0, 5]])))
    assert float(loss.detach()) == pytest.approx(np.log(np.exp(scores).sum()) - scores[4], rel=1e-5)
    with torch.no_grad():
        model.bias[5] = 100.0
    sessions = Sessions(np.array([3, 1, 5, 2, 5], np.int32), np.array([0, 3, 5]), 9)
    ranks = rank_targets(model, Examples.of(sessions, "prefixes", 50))
    assert sorted(ranks.tolist())[:2] == [1, 1]
    assert sorted(ranks.tolist())[2] > 1, "the one target that is another item"


@pytest.mark.parametrize("name", ["dropout_embedding", "dropout_hidden"])
def test_dropout_is_of_training_alone(name: str) -> None:
    model = some_model(**{"dropout_hidden": 0.0, name: 0.5})
    sessions = torch.tensor([SESSION, [1, 2, 4, 8]])
    torch.testing.assert_close(model(sessions), model(sessions))
    model.train()
    assert not torch.equal(model(sessions), model(sessions))


def test_hidden_dropout_is_carried_on_with_the_state() -> None:
    """What a step drops of a layer's state is gone for the next layer, the next click and the scores."""
    model = some_model(layers=2, dropout_hidden=0.5).train()
    model.recipe = Recipe()
    torch.manual_seed(3)
    starts = torch.ones(200, dtype=torch.bool)
    batch = Batch(torch.full((200, 1), 3), torch.full((200,), 4), starts)
    _, carried = model.step(batch, None)
    dropped = numbers(carried == 0)
    assert 0.4 < dropped[0].mean() < 0.6
    assert 0.4 < dropped[1].mean() < 0.6
    first = slow_gru(model.gru, numbers(model.items.weight)[[3]], 0)[0]
    np.testing.assert_allclose(numbers(carried[0]), np.where(dropped[0], 0, 2 * first), atol=1e-5)
    for lane in range(5):
        second = slow_gru(model.gru, numbers(carried[0, lane])[None], 1)[0]
        np.testing.assert_allclose(
            numbers(carried[1, lane]), np.where(dropped[1, lane], 0, 2 * second), atol=1e-5
        )


@pytest.mark.parametrize("embedding", ["one-hot", "separate", "tied"])
def test_each_gate_starts_from_its_own_bound(embedding: str) -> None:
    """U(±sqrt(6 / (rows + columns))) of each gate's matrix: of n inputs and d units sqrt(6 / (n + d))."""
    torch.manual_seed(0)
    n_items, dim = 500, 60
    model = GRU4Rec(n_items, dim=dim, layers=2, embedding=embedding)  # type: ignore[arg-type]
    of_items, of_units = math.sqrt(6 / (n_items + dim)), math.sqrt(6 / (dim + dim))
    bounds = {"items.weight": of_items, "inputs.weight": of_items}
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert not parameter.any(), name
        elif parameter.requires_grad:
            bound = bounds.get(name, of_units)
            assert 0.99 * bound < float(parameter.detach().abs().max()) <= bound, name
            assert float(parameter.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.03), name
    assert not model.items.weight[0].any()
    assert not model.inputs.weight[0].any()
