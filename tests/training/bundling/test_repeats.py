"""A table for repeats: worth as much on other sessions as the best one there would be, and never a loss."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from models.sessions import Sessions
from service.ranking.repeats import Repeats, RepeatTable
from service.ranking.retriever import Retriever, Scores, Vectors
from training.bundling.repeats import (
    NOTHING,
    TOP,
    Form,
    RepeatCases,
    coarse,
    finer,
    fit_repeats,
    gather,
    scaled,
    spread,
)
from training.measure.evaluate import rank_in
from training.measure.metrics import mrr_at_k

N_ITEMS = 400
MAX_LENGTH = 12
N_SESSIONS = 2500
TEMPERATURE = 0.08


@dataclass(frozen=True)
class Model:
    """The newest click's vector, and half of the one before."""

    vectors: Vectors  # (n, D)

    @classmethod
    def make(cls, seed: int = 0) -> Model:
        vectors = np.random.default_rng(seed).normal(size=(N_ITEMS, 16)).astype(np.float32)
        return cls(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    def encode(self, sessions: list[list[int]]) -> Vectors:
        newest = np.array([session[-1] for session in sessions])
        before = np.array([session[-2] if len(session) > 1 else session[-1] for session in sessions])
        mixed = self.vectors[newest - 1] + 0.5 * self.vectors[before - 1]
        units: Vectors = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
        return units

    @property
    def retriever(self) -> Retriever:
        return Retriever.build(self.vectors, "flat")


def walk(model: Model, repeats: float | None, rng: np.random.Generator) -> list[int]:
    """Clicks of which so many are repeats, mostly of items that were clicked often and not just now; None: as
    many as the model itself expects.
    """
    clicks = [int(rng.integers(1, N_ITEMS + 1))]
    for _ in range(int(rng.integers(2, 8))):
        held = list(dict.fromkeys(clicks[::-1]))
        logits = (model.vectors @ model.encode([clicks])[0]).astype(np.float64) / TEMPERATURE
        if repeats is not None:
            if rng.random() < repeats and len(held) > 1:
                weights = np.array(
                    [0.05] + [clicks.count(item) / place for place, item in enumerate(held[1:], 1)]
                )
                clicks.append(held[rng.choice(len(held), p=weights / weights.sum())])
                continue
            logits[np.array(held) - 1] = -np.inf
        chances = np.exp(logits - logits.max())
        clicks.append(1 + int(rng.choice(N_ITEMS, p=chances / chances.sum())))
    return clicks


def sessions_of(walks: list[list[int]]) -> Sessions:
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in walks])])
    return Sessions(np.concatenate(walks).astype(np.int32), offsets.astype(np.int64), N_ITEMS)


@cache
def shop(repeats: float | None, seed: int, n_sessions: int = N_SESSIONS) -> Sessions:
    rng = np.random.default_rng(seed)
    return sessions_of([walk(Model.make(), repeats, rng) for _ in range(n_sessions)])


def served_mrr(model: Model, table: RepeatTable | None, sessions: Sessions) -> float:
    """As the service answers, in percent."""
    prefixes, targets = [], []
    for start, end in zip(sessions.offsets, sessions.offsets[1:], strict=False):
        clicks = sessions.items[start:end].tolist()
        prefixes += [clicks[:place] for place in range(1, len(clicks))]
        targets += clicks[1:]
    vectors = model.encode(prefixes)
    if table is None:
        scores, items = model.retriever.search(vectors, TOP + 1)
    else:
        scores, items = Repeats.of(table, MAX_LENGTH).search(model.retriever, vectors, prefixes, TOP + 1)
    return 100 * mrr_at_k(rank_in(scores, items, np.array(targets)), TOP)


def cases_of(sessions: Sessions) -> RepeatCases:
    model = Model.make()
    return gather(model.retriever, model.encode, sessions, MAX_LENGTH)


@cache
def oracle(repeats: float | None) -> float:
    """The gain of the table that the test sessions themselves would choose."""
    cases = cases_of(shop(repeats, seed=2))
    unit = cases.spread
    best = max(coarse(), key=lambda form: float(cases.reciprocals(form, unit).sum()))
    best = finer(cases, best, unit)
    return 100 * float((cases.reciprocals(best, unit) - cases.reciprocals(NOTHING)).mean())


@pytest.mark.parametrize("repeats", [0.0, 0.2, 0.45])
def test_it_finds_nine_tenths_of_what_there_is(repeats: float) -> None:
    model, validation, test = Model.make(), shop(repeats, seed=1), shop(repeats, seed=2)
    table = fit_repeats(model.retriever, model.encode, validation, MAX_LENGTH)
    assert table is not None
    gain = served_mrr(model, table, test) - served_mrr(model, None, test)
    assert gain >= 0.9 * oracle(repeats) > 0.5


@pytest.mark.parametrize("n_sessions", [20, 100, 400, N_SESSIONS])
@pytest.mark.parametrize("repeats", [None, 0.0, 0.2, 0.45])
def test_it_is_never_a_loss(repeats: float | None, n_sessions: int) -> None:
    model, test = Model.make(), shop(repeats, seed=2)
    validation = shop(repeats, seed=1)[:n_sessions]
    table = fit_repeats(model.retriever, model.encode, validation, MAX_LENGTH)
    assert served_mrr(model, table, test) >= served_mrr(model, None, test) - 0.05


def test_nothing_where_the_model_expects_what_happens() -> None:
    model = Model.make()
    assert fit_repeats(model.retriever, model.encode, shop(None, seed=1), MAX_LENGTH) is None


@pytest.mark.parametrize("form", [NOTHING, Form(-0.4, 0.3, 0.2, 1.0), Form(0.5, -0.1, -0.1, 0.0)])
def test_the_fit_ranks_as_the_service_does(form: Form) -> None:
    sessions = shop(0.2, seed=1, n_sessions=300)
    table = form.table({})
    fitted = 100 * float(cases_of(sessions).reciprocals(form).mean())
    assert fitted == pytest.approx(served_mrr(Model.make(), table, sessions), abs=1e-4)
    assert fitted == pytest.approx(fitted_in_python(table, sessions), abs=1e-4)


def fitted_in_python(table: RepeatTable, sessions: Sessions) -> float:
    model, found = Model.make(), []
    for start, end in zip(sessions.offsets, sessions.offsets[1:], strict=False):
        clicks = sessions.items[start:end].tolist()
        for place in range(1, len(clicks)):
            scores: Scores = model.vectors @ model.encode([clicks[:place]])[0]
            newest = clicks[:place][-MAX_LENGTH:][::-1]
            for item in set(newest):
                scores[item - 1] += table.by_distance[min(newest.index(item), len(table.by_distance) - 1)]
                scores[item - 1] += table.by_count[min(newest.count(item), len(table.by_count)) - 1]
            rank = int((scores >= scores[clicks[place] - 1]).sum())
            found.append(1 / rank if rank <= TOP else 0.0)
    return 100 * float(np.mean(found))


@pytest.mark.parametrize("factor", [0.01, 3.0])
def test_it_goes_by_the_unit_of_the_scores(factor: float) -> None:
    """A native head's cosines may be a hundred times as close to each other: the table is, too."""
    model, sessions = Model.make(), shop(0.45, seed=1, n_sessions=600)

    def encode(some: list[list[int]]) -> Vectors:
        vectors: Vectors = factor * model.encode(some)
        return vectors

    plain = fit_repeats(model.retriever, model.encode, sessions, MAX_LENGTH)
    other = fit_repeats(model.retriever, encode, sessions, MAX_LENGTH)
    assert plain is not None
    assert other is not None
    ratio = spread(model.retriever, encode, sessions) / spread(model.retriever, model.encode, sessions)
    assert ratio == pytest.approx(factor, rel=1e-3)
    assert other.by_distance == pytest.approx(scaled(plain, factor).by_distance, rel=1e-3)
    assert other.by_count == pytest.approx(scaled(plain, factor).by_count, rel=1e-3)


def test_sessions_that_say_nothing_make_no_table() -> None:
    model = Model.make()
    for walks in ([[1], [2]], [[1, 2], [3, 4]]):
        assert fit_repeats(model.retriever, model.encode, sessions_of(walks), MAX_LENGTH) is None


def test_a_table_is_as_short_as_it_can_be() -> None:
    assert NOTHING.table({}) == RepeatTable(by_distance=(0.0,), by_count=(0.0,))
    assert Form(newest=-0.25, older=0.5, decay=0.0).table({}).by_distance == (-0.25, 0.5)
    array: npt.NDArray[np.float64] = np.array(Form(older=1.0, decay=0.5).table({}).by_distance)
    assert array[[0, 1, 4]].tolist() == [0.0, 1.0, 0.5]
