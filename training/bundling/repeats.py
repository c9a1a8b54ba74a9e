"""What is added to the scores of items that a session holds already: fitted on sessions new to the model.

Of each case, a session and its next click, three things are kept: the scores of the session's own items,
those of the best others, and which one is the target. Its rank under any table is then a few comparisons, and
thousands of tables can be tried. A table stays only if what one half of the sessions would choose raises
MRR@20 on the other half by more than chance does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product

import numpy as np
import numpy.typing as npt

from models.sessions import Sessions
from service.ranking.repeats import MOST, RepeatTable
from service.ranking.retriever import Items, Retriever, Scores, Vectors

TOP = 20
CASES = 30_000  # the newest ones
AT_ONCE = 512
SURE = 2.0  # standard errors
DIGITS = 6
# Multiples of how far the best item usually stands above the twentieth.
LEVELS = (-4.0, -1.5, -0.75, -0.35, 0.0, 0.35, 0.75, 1.5, 4.0)
PER_COUNT = (-0.3, 0.0, 0.2, 0.5, 1.0, 2.0)
DECAYS = (0.5, 0.0, 1.0)  # of older items: b / distance ** decay
FINER = ((0.5, 1.0, 2.0), (0.7, 1.0, 1.4), (0.85, 1.0, 1.18), (0.93, 1.0, 1.07))  # round the best so far
NEAR_NOTHING = (0.4, 0.2, 0.1, 0.05)  # what a level of nothing becomes in these rounds, up or down

Floats = npt.NDArray[np.float64]
Encode = Callable[[list[list[int]]], Vectors]


@dataclass(frozen=True)
class Form:
    """A table in a few numbers: `newest` for the newest item, `older / distance ** decay` for the others, and
    `per_count * log(clicks)` for all.
    """

    newest: float = 0.0
    older: float = 0.0
    per_count: float = 0.0
    decay: float = DECAYS[0]

    def by_distance(self) -> Floats:
        """What is added at each distance, 0 the newest."""
        return np.array([self.newest, *(self.older / np.arange(1, MOST) ** self.decay)])

    def by_count(self) -> Floats:
        """What is added for 1, 2, … clicks."""
        return self.per_count * np.log(np.arange(1, MOST + 1))

    def table(self, measured: dict[str, float]) -> RepeatTable:
        """As short as it can be."""
        return RepeatTable(
            by_distance=_short(self.by_distance()), by_count=_short(self.by_count()), measured=measured
        )


NOTHING = Form()


@dataclass(frozen=True)
class RepeatCases:
    """Cases of which the target is known to the model; row numbers tell the case of each own item."""

    own: Scores  # (N,) of the sessions' own items
    row: Items  # (N,) ascending
    distance: Items  # (N,) clicks since its newest one
    count: Items  # (N,) clicks
    others: Scores  # (C, <= 21) best first; -inf where there are no more
    slot: Items  # (C,) the target among the own items, or -1
    score: Scores  # (C,) of a target that is no own item, if it is one of the others; else -inf
    session: Items  # (C,)

    def __len__(self) -> int:
        return len(self.others)

    @property
    def spread(self) -> float:
        """How far the best of the others usually stands above the twentieth."""
        return spread_of(self.others[:, :TOP])

    def reciprocals(self, form: Form, unit: float = 1.0) -> Floats:
        """1 / rank of each target within 20, else 0, under a form in multiples of `unit`; ties count against
        it.
        """
        added = form.by_distance()[np.minimum(self.distance, MOST - 1)]
        added += form.by_count()[np.minimum(self.count, MOST) - 1]
        own = self.own + unit * added
        again = self.slot >= 0
        target = np.where(again, own[self.slot], self.score)
        above = np.bincount(self.row, own >= target[self.row], len(self))
        above += (self.others >= target[:, None]).sum(1)
        found = (above <= TOP) & np.isfinite(target)
        reciprocals: Floats = np.where(found, 1 / np.maximum(above, 1), 0.0)
        return reciprocals


def fit_repeats(
    retriever: Retriever, encode: Encode, sessions: Sessions, max_length: int
) -> RepeatTable | None:
    """The table under which `sessions`, which the model was not trained on, are answered best; None for none.

    `encode` makes session vectors (B, D) as they are served, `retriever` ranks items by them.
    """
    cases = gather(retriever, encode, sessions, max_length)
    if not len(cases) or not cases.spread > 0:
        return None
    unit = cases.spread
    before = cases.reciprocals(NOTHING)
    forms = list(coarse())
    halves = cases.session % 2 == 0
    gains = np.zeros((len(forms), 2))  # of each half
    for number, form in enumerate(forms):
        more = cases.reciprocals(form, unit) - before
        gains[number] = more[halves].sum(), more[~halves].sum()
    # What each half chooses is judged by the other one.
    chosen_by = [forms[int(gains[:, half].argmax())] for half in (0, 1)]
    chosen = np.where(halves, *(cases.reciprocals(chosen_by[half], unit) for half in (1, 0))) - before
    held_out = chosen.mean()
    if not chosen.sum() > SURE * np.sqrt(np.square(np.bincount(cases.session, chosen)).sum()):
        return None
    best = finer(cases, forms[int(gains.sum(1).argmax())], unit)
    measured = {
        f"mrr@{TOP} without": 100 * float(before.mean()),
        f"mrr@{TOP}": 100 * float(cases.reciprocals(best, unit).mean()),
        "gain held out": 100 * float(held_out),
        "cases": float(len(cases)),
    }
    scaled = Form(unit * best.newest, unit * best.older, unit * best.per_count, best.decay)
    return scaled.table({name: round(value, 4) for name, value in measured.items()})


def coarse() -> Iterator[Form]:
    """The grid, from nothing on: of two that do as well, the first is taken."""
    forms = [
        Form(newest, older, per_count, decay)
        for newest, older, per_count, decay in product(LEVELS, LEVELS, PER_COUNT, DECAYS)
        if older or decay == DECAYS[0]
    ]
    return iter(sorted(forms, key=lambda form: abs(form.newest) + abs(form.older) + abs(form.per_count)))


def finer(cases: RepeatCases, best: Form, unit: float) -> Form:
    """The best form near one."""
    reached = cases.reciprocals(best, unit).sum()
    for factors, step in zip(FINER, NEAR_NOTHING, strict=True):
        around = [
            [factor * level for factor in factors] if level else [-step, 0.0, step]
            for level in (best.newest, best.older, best.per_count)
        ]
        for newest, older, per_count in product(*around):
            form = Form(newest, older, per_count, best.decay)
            if (value := cases.reciprocals(form, unit).sum()) > reached:
                reached, best = value, form
    return best


def gather(retriever: Retriever, encode: Encode, sessions: Sessions, max_length: int) -> RepeatCases:
    """The newest cases, answered without any table."""
    parts = []
    prefixes, targets, numbers = _newest(sessions)
    for start in range(0, len(prefixes), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        parts.append(_gather(retriever, encode, prefixes[part], targets[part], max_length))
    if not parts:
        nothing, none = np.zeros(0, np.float32), np.zeros(0, np.int64)
        return RepeatCases(nothing, none, none, none, nothing.reshape(0, 1), none, nothing, none)
    own, row, distance, count, others, slot, score = ([*each] for each in zip(*parts, strict=True))
    first_case = np.cumsum([0, *map(len, others)])
    first_own = np.cumsum([0, *map(len, own)])
    width = min(each.shape[1] for each in others)
    return RepeatCases(
        np.concatenate(own),
        np.concatenate([each + first for each, first in zip(row, first_case, strict=False)]),
        np.concatenate(distance),
        np.concatenate(count),
        np.concatenate([each[:, :width] for each in others]),
        np.concatenate(
            [np.where(each < 0, -1, each + first) for each, first in zip(slot, first_own, strict=False)]
        ),
        np.concatenate(score),
        numbers,
    )


def scaled(table: RepeatTable, factor: float) -> RepeatTable:
    """The table of a model that spreads its scores so many times as far."""
    by_distance, by_count = (
        _short(factor * np.array(values)) for values in (table.by_distance, table.by_count)
    )
    return table.model_copy(update={"by_distance": by_distance, "by_count": by_count})


def spread(retriever: Retriever, encode: Encode, sessions: Sessions) -> float:
    """How far the best item usually stands above the twentieth, over the newest of `sessions`."""
    prefixes, _, _ = _newest(sessions, 4 * AT_ONCE)
    parts = range(0, len(prefixes), AT_ONCE)
    found = [retriever.search(encode(prefixes[start : start + AT_ONCE]), TOP)[0] for start in parts]
    return spread_of(np.concatenate(found)) if found else 0.0


def spread_of(best: Scores) -> float:
    """Of (B, k) scores, best first; those that are none are -inf."""
    last = np.where(best > -1e30, best, np.inf).min(1, initial=np.inf)  # faiss has a lowest number for none
    found = last < np.inf
    return float(np.median(best[found, 0] - last[found])) if found.any() else 0.0


def _gather(
    retriever: Retriever, encode: Encode, prefixes: Sequence[list[int]], targets: Items, max_length: int
) -> tuple[npt.NDArray[np.generic], ...]:
    newest = [prefix[-max_length:][::-1] for prefix in prefixes]
    held = [[*dict.fromkeys(clicks)][:MOST] for clicks in newest]
    own = np.zeros((len(held), max(map(len, held))), dtype=np.int64)
    for row, its_items in zip(own, held, strict=True):
        row[: len(its_items)] = its_items
    vectors = encode(list(prefixes))
    own_scores = np.array([*chain.from_iterable(retriever.scores_of(vectors, held))], np.float32)
    found: tuple[Scores, Items] = retriever.search(vectors, TOP + 1 + own.shape[1])
    scores, items = found
    scores[(items[:, :, None] == own[:, None, :]).any(2) | (items == 0)] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, : TOP + 1]
    others, other_items = np.take_along_axis(scores, order, 1), np.take_along_axis(items, order, 1)
    is_target = (other_items == targets[:, None]) & np.isfinite(others)
    there = own > 0
    again = own == targets[:, None]
    place = np.cumsum(there.ravel()).reshape(own.shape) - 1  # in the flat arrays
    return (
        own_scores,
        np.nonzero(there)[0],
        np.array(
            [clicks.index(item) for clicks, items in zip(newest, held, strict=True) for item in items],
            np.int64,
        ),
        np.array(
            [clicks.count(item) for clicks, items in zip(newest, held, strict=True) for item in items],
            np.int64,
        ),
        others,
        np.where(again.any(1), np.take_along_axis(place, again.argmax(1)[:, None], 1)[:, 0], -1),
        np.where(is_target, others, -np.inf).max(1),
    )


def _newest(sessions: Sessions, most: int = CASES) -> tuple[list[list[int]], Items, Items]:
    """Prefixes of known items, the click after each, and the number of its session."""
    prefixes: list[list[int]] = []
    targets: list[int] = []
    numbers: list[int] = []
    for number in range(len(sessions) - 1, -1, -1):
        clicked = sessions.items[sessions.offsets[number] : sessions.offsets[number + 1]].tolist()
        for place in range(1, len(clicked)):
            prefixes.append(clicked[:place])
            targets.append(clicked[place])
            numbers.append(number)
        if len(targets) >= most:
            break
    return prefixes[:most], np.array(targets[:most], np.int64), np.array(numbers[:most], np.int64)


def _short(values: Floats) -> tuple[float, ...]:
    rounded = [float(f"{value:.{DIGITS}g}") + 0.0 for value in values]  # and no -0.0
    while len(rounded) > 1 and rounded[-1] == rounded[-2]:
        rounded.pop()
    return tuple(rounded)
