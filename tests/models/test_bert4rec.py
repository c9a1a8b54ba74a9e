"""BERT4Rec: what its cloze hides, how it counts positions, and that training on the last click is served."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from models.base import PAD, Batch
from models.bert4rec import BERT4Rec
from models.layers import Positions

SESSIONS = torch.tensor([[3, 1, 3, 7], [2, 5, 0, 0], [6, 0, 0, 0]])
TARGETS = torch.tensor([4, 8, 9])
WHOLE = torch.tensor([[3, 1, 3, 7, 4], [2, 5, 8, 0, 0], [6, 9, 0, 0, 0]])


def test_last_click_hidden_is_the_next_click_served() -> None:
    torch.manual_seed(0)
    model = BERT4Rec(9, dim=4, last_only=1.0).eval()
    torch.nn.init.normal_(model.bias)
    scores = model(SESSIONS) @ model.item_vectors().T + model.item_bias()
    expected = cross_entropy(scores[:, 1:], TARGETS - 1)
    torch.testing.assert_close(model.loss(Batch(SESSIONS, TARGETS)), expected)


@pytest.mark.parametrize(("positions", "place"), [("forward", [0, 1, 2]), ("reversed", [2, 1, 0])])
def test_positions_are_counted_to_the_mask(positions: Positions, place: list[int]) -> None:
    """Of a padded session of two clicks, then [MASK]; the expected one has them added by hand."""
    torch.manual_seed(0)
    model = BERT4Rec(9, dim=4, positions=positions).eval()
    with torch.no_grad():
        answer = model(SESSIONS)[1]
        table = model.encoder.positions.weight.clone()
        model.encoder.positions.weight.zero_()
        inputs = model.items(torch.tensor([[2, 5, model.mask]])) + table[place]
        expected = model.output(model.encoder(inputs, torch.ones(1, 3, dtype=torch.bool)))[0, 2]
    torch.testing.assert_close(answer, expected)


@pytest.mark.parametrize(("masked", "counts"), [(0.2, [1, 1, 1]), (0.4, [2, 1, 1]), (1.0, [5, 3, 2])])
def test_cloze_hides_a_share_of_the_clicks(masked: float, counts: list[int]) -> None:
    torch.manual_seed(0)
    model = BERT4Rec(9, dim=4, masked=masked, last_only=0.0)
    drawn = [model.hide(WHOLE) for _ in range(60)]
    for hidden in drawn:
        assert hidden.sum(1).tolist() == counts
        assert not hidden[WHOLE == PAD].any()
    assert torch.equal(torch.stack(drawn).any(0), WHOLE > PAD)  # any click may be hidden


def test_a_hidden_click_is_not_seen() -> None:
    torch.manual_seed(0)
    model = BERT4Rec(9, dim=4, masked=1.0, last_only=0.0).eval()
    one = model.loss(Batch(torch.tensor([[1]]), torch.tensor([2])))
    other = model.loss(Batch(torch.tensor([[2]]), torch.tensor([1])))
    # Every click is hidden, so both sessions encode alike; only which place holds which target differs.
    with torch.no_grad():
        masks = model.items.weight[[model.mask, model.mask]]
        real, place = torch.ones(1, 2, dtype=torch.bool), torch.tensor([1, 0])
        vectors = model.output(model.encoder(masks[None], real, place))[0]
    log_p = (vectors @ model.item_vectors()[1:].T).log_softmax(1)
    torch.testing.assert_close(one, -(log_p[0, 0] + log_p[1, 1]) / 2)
    torch.testing.assert_close(other, -(log_p[0, 1] + log_p[1, 0]) / 2)
