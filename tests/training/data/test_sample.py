"""A sample of a data set: whole sessions in their order, and a vocabulary of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from models.sessions import Sessions
from tests.training.planted import N_ITEMS, planted_sessions, write_dataset
from training.data.dataset import Dataset
from training.data.sample import sample_sessions


def named(data: Dataset, sessions: Sessions) -> list[tuple[str, ...]]:
    names = ["?", *data.items]
    return [
        tuple(names[item] for item in sessions.items[start:end])
        for start, end in zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)
    ]


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return write_dataset(
        tmp_path / "data", planted_sessions(300), planted_sessions(100, seed=1), n_validation=40
    )


def is_part_in_order(part: list[tuple[str, ...]], whole: list[tuple[str, ...]]) -> bool:
    rest = iter(whole)
    return all(session in rest for session in part)


def test_it_is_of_whole_sessions_in_their_order(data: Dataset, tmp_path: Path) -> None:
    sample = sample_sessions(data, tmp_path / "sample", train=100, validation=10, test=30)
    assert [len(of) for of in (sample.train, sample.validation, sample.test)] == [100, 10, 30]
    assert is_part_in_order(named(sample, sample.train), named(data, data.train))
    assert is_part_in_order(named(sample, sample.validation), named(data, data.validation))
    assert is_part_in_order(named(sample, sample.test), named(data, data.test))
    assert named(sample, sample.train) != named(data, data.train)[:100], "not the oldest"
    assert sample.info.counts["sample_of_train_sessions"] == 110
    assert sample.info.fingerprint != data.info.fingerprint


def test_its_items_are_those_of_its_training_by_popularity(data: Dataset, tmp_path: Path) -> None:
    sample = sample_sessions(data, tmp_path / "sample", train=6, validation=1, test=100)
    clicks = Counter(item for session in named(sample, sample.train_all) for item in session)
    assert set(sample.items) == set(clicks)
    assert 0 < len(sample.items) < N_ITEMS, "some items are gone, or this shows nothing"
    assert [clicks[item] for item in sample.items] == sorted(clicks.values(), reverse=True)
    assert sample.info.n_items == len(sample.items)
    for ours, theirs in zip(named(sample, sample.test), named(data, data.test), strict=True):
        assert ours == tuple(item if item in clicks else "?" for item in theirs)


def test_the_same_is_drawn_again(data: Dataset, tmp_path: Path) -> None:
    first, second = (
        sample_sessions(data, tmp_path / name, train=50, validation=5, test=20) for name in ("a", "b")
    )
    assert first.info.files == second.info.files


def test_more_than_there_are_is_all(data: Dataset, tmp_path: Path) -> None:
    sample = sample_sessions(data, tmp_path / "sample", train=9999, validation=9999, test=9999)
    assert named(sample, sample.train_all) == named(data, data.train_all)
    assert named(sample, sample.test) == named(data, data.test)
    assert np.array_equal(sample.train.offsets, data.train.offsets)
