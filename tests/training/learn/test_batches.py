"""Every click but a session's first is a target exactly once, behind the clicks that came before it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import PAD, Batching
from models.sessions import Sessions
from training.learn.batches import POOL, Examples

session_lists = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=12), min_size=1, max_size=12)


def flat(sessions: list[list[int]]) -> Sessions:
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sessions])])
    return Sessions(np.array([i for s in sessions for i in s], dtype=np.int32), offsets, 9)


def seen_cases(
    examples: Examples, batches: list[np.ndarray], batching: Batching
) -> Counter[tuple[tuple[int, ...], int]]:
    """(input clicks, target) of every target in the batches."""
    cases: Counter[tuple[tuple[int, ...], int]] = Counter()
    for indices in batches:
        batch = examples.batch(indices)
        for row, target in zip(batch.sessions.tolist(), batch.targets.tolist(), strict=True):
            inputs = [item for item in row if item != PAD]
            assert row == inputs + [PAD] * (len(row) - len(inputs)), "padding stands at the right only"
            if batching == "prefixes":
                cases[tuple(inputs), target] += 1
            else:
                for position in range(len(inputs)):
                    cases[tuple(inputs[: position + 1]), target[position]] += 1
                assert target[len(inputs) :] == [PAD] * (len(row) - len(inputs))
    return cases


@given(session_lists, st.integers(1, 6), st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_prefixes(sessions: list[list[int]], max_length: int, batch_size: int) -> None:
    examples = Examples.of(flat(sessions), "prefixes", max_length)
    expected = Counter((tuple(s[:end][-max_length:]), s[end]) for s in sessions for end in range(1, len(s)))
    assert seen_cases(examples, examples.plan(batch_size, seed=1, epoch=2), "prefixes") == expected
    assert seen_cases(examples, examples.in_order(batch_size), "prefixes") == expected
    assert examples.n_targets == expected.total()


@given(session_lists, st.integers(1, 6), st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_positions(sessions: list[list[int]], max_length: int, batch_size: int) -> None:
    examples = Examples.of(flat(sessions), "positions", max_length)
    expected = Counter(
        (tuple(s[end - 1 - (end - 1) % max_length : end]), s[end])
        for s in sessions
        for end in range(1, len(s))
    )
    assert seen_cases(examples, examples.plan(batch_size, seed=1, epoch=2), "positions") == expected
    assert examples.n_targets == expected.total()


@given(session_lists, st.integers(1, 6), st.integers(1, 20), st.sampled_from(["prefixes", "positions"]))
@settings(max_examples=100, deadline=None)
def test_every_target_has_its_number(
    sessions: list[list[int]], max_length: int, batch_size: int, batching: Batching
) -> None:
    """The n-th click that is no session's first, whatever the batching and the length of windows."""
    examples = Examples.of(flat(sessions), batching, max_length)
    clicks = [item for session in sessions for item in session[1:]]
    found = []
    for indices in examples.plan(batch_size, seed=1, epoch=2):
        numbers, targets = examples.numbers(indices), examples.batch(indices).targets.numpy()
        assert numbers.shape == targets.shape
        assert ((numbers < 0) == (targets == PAD)).all()
        assert [clicks[number] for number in numbers[numbers >= 0]] == targets[targets > PAD].tolist()
        found += numbers[numbers >= 0].tolist()
    assert sorted(found) == [*range(len(clicks))]


@pytest.mark.parametrize("batching", ["prefixes", "positions"])
def test_batches_hold_about_as_many_targets_as_asked(batching: Batching) -> None:
    rng = np.random.default_rng(0)
    sessions = flat([rng.integers(1, 10, n).tolist() for n in rng.integers(2, 12, 400)])
    examples = Examples.of(sessions, batching, 50)
    sizes = [int((examples.batch(b).targets > 0).sum()) for b in examples.plan(64, seed=0, epoch=0)]
    assert sum(sizes) == examples.n_targets
    assert max(sizes) < 64 + 12
    assert np.mean(sizes) > 56


def test_the_plan_follows_from_seed_and_epoch_alone() -> None:
    examples = Examples.of(flat([[1, 2, 3, 4]] * 50), "prefixes", 50)

    def plan(seed: int, epoch: int) -> list[list[int]]:
        return [b.tolist() for b in examples.plan(16, seed, epoch)]

    assert plan(1, 1) == plan(1, 1)
    assert plan(1, 1) != plan(1, 2)
    assert plan(1, 1) != plan(2, 1)


@pytest.mark.parametrize("batching", ["prefixes", "positions"])
def test_an_epoch_in_order_goes_from_the_oldest_session_to_the_newest(batching: Batching) -> None:
    rng = np.random.default_rng(0)
    sessions = flat([rng.integers(1, 10, n).tolist() for n in rng.integers(2, 12, 3000)])
    examples = Examples.of(sessions, batching, 50)
    plan = examples.plan(16, seed=1, epoch=2, in_order=True)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(examples)))
    means = np.array([batch.mean() for batch in plan])
    pools = np.array([means[start : start + POOL].mean() for start in range(0, len(means) - POOL, POOL)])
    assert len(pools) > 10
    assert (np.diff(pools) > 0).all()
    # Within a pool they are mixed, or all its short sessions would come first.
    assert (np.diff([examples.length[batch].mean() for batch in plan[:POOL]]) < 0).sum() > POOL / 4


@pytest.mark.parametrize("batching", ["prefixes", "positions"])
def test_sessions_are_shuffled_and_those_of_like_length_share_a_batch(batching: Batching) -> None:
    rng = np.random.default_rng(0)
    sessions = flat([rng.integers(1, 10, n).tolist() for n in rng.integers(2, 30, 2000)])
    examples = Examples.of(sessions, batching, 50)
    plan = examples.plan(64, seed=0, epoch=0)
    inside = np.mean([np.std(examples.length[batch]) for batch in plan])
    assert inside < np.std(examples.length) / 4, "a batch pads little"
    assert np.mean([np.ptp(batch) for batch in plan]) > len(examples) / 3, "a batch is of all times"
    lengths = np.array([examples.length[batch].mean() for batch in plan])
    step = np.abs(np.diff(lengths)).mean()
    assert step > np.std(lengths) / 2, "batches come in random order: the next one is of another length"
