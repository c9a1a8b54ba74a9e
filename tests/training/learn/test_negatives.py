"""The shared sample: in the proportions it claims, the same again for the same step."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from models.losses import Negatives, Objective
from models.sessions import Sessions
from training.learn.negatives import NegativeSampler

SUPPORT = [1, 4, 16, 9]
TRAIN = Sessions(np.repeat(np.arange(1, 5), SUPPORT).astype(np.int32), np.array([0, 30]), 4)
TARGETS = torch.tensor([[3, 3, 0], [1, 0, 0]])


@pytest.mark.parametrize(("power", "weights"), [(0.0, [1, 1, 1, 1]), (0.5, [1, 2, 4, 3]), (1.0, SUPPORT)])
def test_drawn_in_proportion_to_support(power: float, weights: list[int]) -> None:
    objective = Objective("bpr", negatives=100_000, negatives_power=power, in_batch=False)
    negatives = NegativeSampler(TRAIN, objective).draw(TARGETS, 0, 0, 0)
    counts = np.bincount(negatives.items.numpy(), minlength=5)
    expected = 100_000 * np.array([0, *weights]) / sum(weights)
    np.testing.assert_allclose(counts, expected, rtol=0.05)
    np.testing.assert_allclose(negatives.log_expected.exp(), expected[negatives.items], rtol=1e-5)


def test_the_steps_targets_come_first_with_repeats_and_are_expected_by_popularity() -> None:
    negatives = NegativeSampler(TRAIN, Objective("bpr", negatives=2)).draw(TARGETS, 0, 0, 0)
    assert negatives.items[:3].tolist() == [3, 3, 1]
    assert len(negatives.items) == 5
    expected = 2 / 4 + 3 * np.array(SUPPORT) / 30  # two drawn of four items, three targets by popularity
    np.testing.assert_allclose(negatives.log_expected.exp(), expected[negatives.items - 1], rtol=1e-5)


def test_the_sample_says_which_example_a_target_is_of() -> None:
    """Each of the targets; of distinct items those that are of one example alone, and not drawn besides."""
    targets = torch.tensor([[3, 3, 0], [1, 0, 0], [4, 1, 2]])
    sampler = NegativeSampler(TRAIN, Objective("bpr", negatives=2))
    assert rows_of(sampler.draw(targets, 0, 0, 0)) == [0, 0, 1, 2, 2, 2]
    flat = sampler.draw(torch.tensor([3, 0, 1]), 0, 0, 0)
    assert rows_of(flat) == [0, 2]
    without = NegativeSampler(TRAIN, Objective("bpr", negatives=2, in_batch=False))
    assert rows_of(without.draw(targets, 0, 0, 0)) == []
    alone = NegativeSampler(TRAIN, Objective("bpr", hardest=1)).draw(targets, 0, 0, 0)
    assert (alone.items.tolist(), rows_of(alone)) == ([1, 2, 3, 4], [-1, 2, 0, 2])
    drawn = NegativeSampler(TRAIN, Objective("bpr", negatives=1000, hardest=1)).draw(targets, 0, 0, 0)
    assert (drawn.items.tolist(), rows_of(drawn)) == ([1, 2, 3, 4], [-1] * 4)


def rows_of(negatives: Negatives) -> list[int]:
    assert negatives.rows is not None
    return negatives.rows.tolist()


def test_items_are_distinct_where_only_the_hardest_count() -> None:
    """And as likely to be there as is claimed."""
    objective = Objective("sampled-ce", negatives=3, negatives_power=1.0, in_batch=False, hardest=2)
    sampler = NegativeSampler(TRAIN, objective)
    present, claimed = np.zeros(5), np.zeros(5)
    for step in range(4000):
        negatives = sampler.draw(TARGETS, 0, 0, step)
        items = negatives.items.numpy()
        assert len(set(items.tolist())) == len(items)
        present[items] += 1 / 4000
        claimed[items] = negatives.log_expected.exp()
    np.testing.assert_allclose(present[1:], claimed[1:], atol=0.03)
    assert claimed[3] == pytest.approx(1 - (1 - 16 / 30) ** 3)


def test_a_function_of_seed_epoch_and_step() -> None:
    sampler = NegativeSampler(TRAIN, Objective("bpr", negatives=50))
    draws = [sampler.draw(TARGETS, *numbers).items.tolist() for numbers in [(1, 2, 3), (1, 2, 3), (1, 2, 4)]]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("hardest", [0, 2])
def test_every_target_is_said_how_often_it_is_to_be_expected_where_targets_are_corrected(
    hardest: int,
) -> None:
    """The same of an item as of its place in the sample; targets come in any shape and order."""
    objective = Objective("sampled-ce", negatives=7, negatives_power=0.5, logq_target=True, hardest=hardest)
    negatives = NegativeSampler(TRAIN, objective).draw(TARGETS, 0, 0, 0)
    for target in (1, 3):
        place = negatives.items.tolist().index(target)
        of = negatives.log_expected_of(torch.tensor([[3, target]]))
        assert of.shape == (1, 2)
        assert of[0, 1] == negatives.log_expected[place]
    plain = NegativeSampler(TRAIN, dataclasses.replace(objective, logq_target=False)).draw(TARGETS, 0, 0, 0)
    assert plain.target_items is None
    torch.testing.assert_close(plain.log_expected, negatives.log_expected)


@pytest.mark.parametrize("hardest", [0, 3])
def test_a_steps_sample_is_no_larger_in_a_larger_catalogue(hardest: int) -> None:
    """Neither what it holds nor what is drawn in it, though targets are corrected."""
    large = Sessions(np.arange(1, 100_001, dtype=np.int32), np.array([0, 100_000]), 100_000)
    objective = Objective("sampled-ce", negatives=7, logq_target=True, hardest=hardest)
    negatives = NegativeSampler(large, objective).draw(TARGETS, 0, 0, 0)
    parts = [getattr(negatives, field.name) for field in dataclasses.fields(negatives)]
    assert max(len(part) for part in parts if isinstance(part, torch.Tensor)) <= 7 + 3
    np.testing.assert_allclose(
        negatives.log_expected_of(torch.tensor([3])).exp(), (7 + 3) / 100_000, rtol=1e-3
    )
