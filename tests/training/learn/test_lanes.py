"""The lane schedule against an example drawn by hand, and against what any schedule must keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.base import PAD, Batch, Hyper, Recipe
from models.gru4rec import GRU4Rec
from models.sessions import Sessions
from training.learn.lanes import Lanes


def flat(sessions: list[list[int]]) -> Sessions:
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sessions])])
    return Sessions(np.array([i for s in sessions for i in s], np.int32), offsets, 99)


def test_drawn_example() -> None:
    """Three lanes, five sessions of 4, 2, 6, 2 and 3 clicks, as the paper's figure 1 draws them."""
    sessions = flat([[11, 12, 13, 14], [21, 22], [31, 32, 33, 34, 35, 36], [41, 42], [51, 52, 53]])
    lanes = Lanes.of(sessions, 3)
    assert lanes.items.T.tolist() == [
        [11, 12, 13, PAD, PAD],
        [21, 41, 51, 52, PAD],
        [31, 32, 33, 34, 35],
    ]
    assert lanes.targets.T.tolist() == [
        [12, 13, 14, PAD, PAD],
        [22, 42, 52, 53, PAD],
        [32, 33, 34, 35, 36],
    ]
    assert lanes.starts.T.tolist() == [
        [True, False, False, False, False],
        [True, True, True, False, False],
        [True, False, False, False, False],
    ]
    assert lanes.n_targets == 12


@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=7), min_size=1, max_size=30), st.integers(1, 5)
)
def test_every_session_runs_through_one_lane_whole(sessions: list[list[int]], width: int) -> None:
    lanes = Lanes.of(flat(sessions), width)
    walked: list[tuple[int, int, list[int]]] = []
    for lane in range(width):
        for step in range(len(lanes.items)):
            if lanes.items[step, lane] == PAD:
                assert lanes.targets[step, lane] == PAD
                continue
            if lanes.starts[step, lane]:
                walked.append((step, lane, [int(lanes.items[step, lane])]))
            assert walked[-1][2][-1] == lanes.items[step, lane], "a lane goes on from its last target"
            walked[-1][2].append(int(lanes.targets[step, lane]))
    long_enough = [session for session in sessions if len(session) > 1]
    assert [session for _, _, session in sorted(walked, key=lambda w: w[:2])] == long_enough
    assert lanes.n_targets == sum(len(s) - 1 for s in long_enough)


@pytest.mark.parametrize("embedding", ["one-hot", "separate", "tied"])
def test_lanes_carry_their_state_and_new_sessions_do_not(embedding: str) -> None:
    """Step by step through the lanes gives what each session alone gives, in one pass."""
    torch.manual_seed(0)
    sessions = flat([[11, 12, 13, 14], [21, 22], [31, 32, 33, 34, 35, 36], [41, 42], [51, 52, 53]])
    hyper: dict[str, Hyper] = {"dim": 8, "layers": 2, "embedding": embedding}
    model = GRU4Rec.build(sessions, **hyper).eval()
    model.recipe = Recipe()
    lanes = Lanes.of(sessions, 3)
    state, summed, targets = None, 0.0, 0
    for step in lanes.plan(3, seed=0, epoch=0):
        batch = lanes.batch(step)
        loss, state = model.step(batch, state)
        assert not state.requires_grad, "gradients end at the click"
        summed += float(loss.detach()) * 3  # a sum over the lanes that run, divided by all three
        targets += int((batch.targets > PAD).sum())
    model.batching = "positions"
    alone = 0.0
    for first, last in zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True):
        clicks = torch.from_numpy(sessions.items[first:last].astype(np.int64))[None]
        alone += float(model.loss(Batch(clicks[:, :-1], clicks[:, 1:])).detach()) * (last - first - 1)
    assert targets == 12
    assert summed / targets == pytest.approx(alone / targets, rel=1e-5)


def test_the_last_steps_of_an_epoch_weigh_what_the_authors_have_them_weigh() -> None:
    """Sum over the lanes that still run, by the lanes there are: cross-entropy, worked out in numpy."""
    torch.manual_seed(0)
    model = GRU4Rec(9, dim=4).eval()
    model.recipe = Recipe()
    items, targets = torch.tensor([[3], [PAD], [5], [PAD]]), torch.tensor([4, PAD, 9, PAD])
    loss, carried = model.step(Batch(items, targets, starts=torch.tensor([True, False, True, False])), None)
    vectors = model(items[[0, 2]]).detach().numpy()
    scores = vectors @ model.item_vectors()[1:].detach().numpy().T  # b is zero
    chances = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert float(loss.detach()) == pytest.approx(
        -(np.log(chances[0, 3]) + np.log(chances[1, 8])) / 4, rel=1e-5
    )
    assert carried.isfinite().all(), "a lane that ran out is no NaN"
