"""What early stopping and the search look at between epochs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.gru import GRUEncoder
from models.sessions import Sessions
from tests.training.planted import N_ITEMS, planted_sessions
from training.learn.batches import Examples
from training.learn.registry import find_model
from training.measure.validation import BATCH_SIZE, rank_targets, sample_of, validation_on


def test_a_model_that_has_diverged_ranks_last() -> None:
    """Its scores are NaN, which is neither above nor below anything."""
    model = GRUEncoder(N_ITEMS, dim=8)
    with torch.no_grad():
        model.items.weight.fill_(torch.nan)
    sessions = planted_sessions(10)
    ranks = rank_targets(model, Examples.of(sessions, "positions", model.max_length))
    assert ranks.tolist() == [N_ITEMS] * (len(sessions.items) - len(sessions))


@pytest.mark.parametrize("model", ["gru", "srgnn"])
def test_every_next_click_is_judged_in_percent(model: str) -> None:
    """A causal model at all positions at once, another prefix by prefix: as the ranks say, in percent."""
    torch.manual_seed(0)
    judged = find_model(model)(N_ITEMS, dim=8)
    sessions = planted_sessions(10)
    ranks = rank_targets(judged, Examples.of(sessions, "prefixes", judged.max_length))
    assert len(ranks) == len(sessions.items) - len(sessions)
    found = validation_on(sessions)(judged)
    assert found == {
        "recall@20": pytest.approx(100 * np.mean(ranks <= 20)),
        "mrr@20": pytest.approx(100 * np.mean(np.where(ranks <= 20, 1 / ranks, 0))),
    }
    assert 0 < found["mrr@20"] < found["recall@20"] < 100


@pytest.mark.parametrize("chunk", [1, 7, N_ITEMS - 1])
@pytest.mark.parametrize("name", ["gru", "gru4rec"])
def test_ranks_are_the_same_in_chunks_of_items(name: str, chunk: int) -> None:
    """With a bias and without; ties count against the target, wherever they lie."""
    torch.manual_seed(0)
    model = find_model(name)(N_ITEMS, dim=8)
    items, bias = model.get_parameter("items.weight"), model.item_bias()
    with torch.no_grad():
        items[5:] = items[2]  # most items alike, in several chunks
        if bias is not None:
            bias[:5] = 0.1 * torch.arange(5)
    assert (bias is not None) == (name == "gru4rec")
    examples = Examples.of(planted_sessions(200), "positions", model.max_length)
    whole, chunked = rank_targets(model, examples), rank_targets(model, examples, chunk)
    assert len(chunked) == examples.n_targets > BATCH_SIZE
    assert sorted(chunked.tolist()) == sorted(whole.tolist())
    assert len(set(whole.tolist())) > 3


def test_no_more_scores_are_held_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    model = GRUEncoder(N_ITEMS, dim=8)
    held: list[int] = []
    below = torch.Tensor.__lt__

    def seen(scores: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        held.append(scores.shape[1])
        return below(scores, other)

    monkeypatch.setattr(torch.Tensor, "__lt__", seen)
    rank_targets(model, Examples.of(planted_sessions(20), "positions", model.max_length), 7)
    assert max(held) == 6  # 30 items are five chunks of 6


def test_few_targets_are_all_judged() -> None:
    sessions = planted_sessions(50)
    assert sample_of(sessions, sessions.n_targets) is sessions


def test_of_many_targets_a_sample_of_whole_sessions_is_judged_always_the_same() -> None:
    sessions = planted_sessions(2000)
    sample = sample_of(sessions, 301)
    assert sample.n_targets == 301
    again = sample_of(sessions, 301)
    assert np.array_equal(sample.items, again.items)
    of_all = {tuple(clicks) for clicks in _clicks(sessions)}
    cut = [clicks for clicks in _clicks(sample) if tuple(clicks) not in of_all]
    assert len(cut) <= 1
    lengths = np.diff(sessions.offsets)
    assert np.diff(sample.offsets).mean() == pytest.approx(lengths.mean(), rel=0.1)
    assert np.diff(sample.offsets).min() > 1


def test_a_session_longer_than_the_sample_is_cut() -> None:
    sessions = Sessions(np.arange(1, 26, dtype=np.int32), np.array([0, 1, 25]), 30)
    sample = sample_of(sessions, 4)
    assert sample.items.tolist() == [2, 3, 4, 5, 6]
    assert sample.offsets.tolist() == [0, 5]


def test_validation_looks_at_the_sample() -> None:
    torch.manual_seed(0)
    model, sessions = GRUEncoder(N_ITEMS, dim=8), planted_sessions(300)
    found = validation_on(sessions, 100)(model)
    assert found == validation_on(sample_of(sessions, 100))(model)
    assert found != validation_on(sessions)(model)


def _clicks(sessions: Sessions) -> list[list[int]]:
    return [part.tolist() for part in np.split(sessions.items, sessions.offsets[1:-1])]
