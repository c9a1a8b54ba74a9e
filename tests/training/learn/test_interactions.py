"""Every session and item in it is an interaction exactly once an epoch, in an order of the epoch's own."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import interactions
from models.bprmf import BPRMF
from models.ngcf import NGCF
from models.sessions import Sessions
from tests.training.planted import planted_sessions
from training.learn.checkpoint import RunConfig
from training.learn.interactions import Interactions
from training.learn.negatives import NegativeSampler
from training.learn.train import USUAL_PACE, Pace, Progress, Trained, train_phase, training_examples
from training.measure.validation import validation_on

session_lists = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=12), min_size=1, max_size=12)


def flat(sessions: list[list[int]]) -> Sessions:
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sessions])])
    return Sessions(np.array([i for s in sessions for i in s], dtype=np.int32), offsets, 9)


@given(session_lists, st.integers(1, 20))
def test_each_pair_once(sessions: list[list[int]], batch_size: int) -> None:
    interactions = Interactions.of(flat(sessions))
    plan = interactions.plan(batch_size, seed=1, epoch=2)
    batches = [interactions.batch(indices) for indices in plan]
    seen = Counter(
        pair
        for batch in batches
        for pair in zip(batch.sessions.tolist(), batch.targets.tolist(), strict=True)
    )
    assert seen == Counter({(s, item) for s, session in enumerate(sessions) for item in session})
    assert interactions.n_targets == seen.total()
    assert [len(batch.targets) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)


def test_the_plan_follows_from_seed_and_epoch_alone() -> None:
    interactions = Interactions.of(flat([[1, 2, 3, 4]] * 20))

    def plan(seed: int, epoch: int) -> list[list[int]]:
        return [indices.tolist() for indices in interactions.plan(16, seed, epoch)]

    assert plan(1, 1) == plan(1, 1)
    assert plan(1, 1) != plan(1, 2)
    assert plan(1, 1) != plan(2, 1)


def test_resumed_in_mid_epoch(tmp_path: Path) -> None:
    """Pairs, negatives and dropout masks all go on where they were, to the same weights."""
    recipe = dataclasses.replace(NGCF.recipe, epochs=2, batch_size=32, negatives=5)
    config = RunConfig("ngcf", "planted", 5, "32", 1, recipe, {"dim": 4})

    def run(
        file: str, on_progress: Callable[[Progress], object] = lambda progress: None, pace: Pace = USUAL_PACE
    ) -> Trained:
        return train_phase(
            config,
            NGCF,
            planted_sessions(100),
            validation_on(planted_sessions(20, seed=1)),
            phase="select",
            file=tmp_path / file,
            resume=True,
            on_progress=on_progress,
            on_epoch=lambda record: None,
            pace=pace,
        )

    whole = run("whole.pt")
    shown: list[Progress] = []

    def interrupt(progress: Progress) -> None:
        shown.append(progress)
        if len(shown) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("cut.pt", interrupt, Pace(report_steps=2, checkpoint_seconds=0))
    assert shown[-1].step < shown[-1].steps
    resumed = run("cut.pt")
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize("model_class", [BPRMF, NGCF])
def test_of_more_sessions_than_get_a_vector_it_learns_from_the_newest(
    model_class: type[BPRMF | NGCF], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interactions, "MAX_SESSIONS", 5)
    train = planted_sessions(20)
    model = model_class.build(train, dim=4)
    assert model.sessions.num_embeddings == 5
    examples, newest = training_examples(model, train), Interactions.of(train[15:])
    assert isinstance(examples, Interactions)
    np.testing.assert_array_equal(examples.session, newest.session)
    np.testing.assert_array_equal(examples.item, newest.item)
    batch = examples.batch(np.arange(len(newest.item)))
    negatives = NegativeSampler(train, model.recipe).draw(batch.targets, 1, 0, 0)
    assert torch.isfinite(model.loss(dataclasses.replace(batch, negatives=negatives)))
