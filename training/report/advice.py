"""Which model to begin with, by a rule that can be told in a sentence (docs/try.md).

From the cheapest to keep to the dearest: a model takes the place of the one advised so far when it is better
beyond noise by Recall@20 or MRR@20, and worse beyond noise by neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from training.measure.significance import interval

TO_TELL = 3.0  # points of Recall@20: what a shop would want to see
Resampled = Mapping[str, npt.NDArray[np.float64]]  # by model, see `training.measure.significance.resampled`


@dataclass(frozen=True)
class Difference:
    """How far one model is ahead of another, in points, with a 95 % interval over the test sessions."""

    value: float
    low: float
    high: float

    @property
    def is_ahead(self) -> bool:
        return self.low > 0

    @property
    def is_behind(self) -> bool:
        return self.high < 0


@dataclass(frozen=True)
class Step:
    """One model held against the one that was advised before it."""

    model: str
    against: str
    recall: Difference
    mrr: Difference

    @property
    def is_taken(self) -> bool:
        both = (self.recall, self.mrr)
        return any(of.is_ahead for of in both) and not any(of.is_behind for of in both)


@dataclass(frozen=True)
class Advice:
    """The advised model, how it came to be that, and what the test could have told."""

    model: str
    steps: list[Step]
    baseline: Step | None  # the advised against the best that only counts popularity
    sessions: int  # of the test
    smallest: float | None  # points of Recall@20 that this test tells apart; None: nothing was compared
    sessions_to_tell: int | None  # test sessions that it takes to tell 3 points apart

    @property
    def has_power(self) -> bool:
        return self.smallest is None or self.smallest <= TO_TELL


def advise(
    by_cost: Sequence[str],
    popularity: Sequence[str],
    recall: Resampled,
    mrr: Resampled,
    values: Mapping[str, tuple[float, float]],
    sessions: int,
) -> Advice:
    """Advise one of `by_cost`; `popularity` are what it should be better than, `values` Recall@20 and MRR@20.

    `by_cost` holds what can be served, the cheapest first, and at least one.
    """

    def compare(model: str, against: str) -> Step:
        difference = [
            Difference(values[model][which] - values[against][which], *interval(of[model] - of[against]))
            for which, of in enumerate((recall, mrr))
        ]
        return Step(model, against, *difference)

    advised, steps = by_cost[0], []
    for model in by_cost[1:]:
        steps.append(compare(model, advised))
        if steps[-1].is_taken:
            advised = model
    best = max(popularity, key=lambda model: values[model], default=None)
    # Two models of much the same quality: the last step's, else what there is.
    widths = [(step.recall.high - step.recall.low) / 2 for step in steps]
    smallest = widths[-1] if widths else None
    return Advice(
        advised,
        steps,
        compare(advised, best) if best else None,
        sessions,
        smallest,
        ceil(sessions * (smallest / TO_TELL) ** 2) if smallest else None,
    )


def in_words(advice: Advice, titles: Mapping[str, str]) -> list[str]:
    """The advice as sentences, the verdict first; `titles` are what the models are called."""
    said = [f"Begin with {titles[advice.model]}."]
    for step in advice.steps:
        one, other = titles[step.model], titles[step.against]
        both = (step.recall, step.mrr)
        if step.is_taken:
            verdict = f"{one} is better than {other} beyond noise"
        elif any(of.is_ahead for of in both):
            verdict = f"{one} is better than {other} in one figure and worse in the other"
        elif any(of.is_behind for of in both):
            verdict = f"{one} is worse than {other} beyond noise"
        else:
            verdict = f"{one} and {other} cannot be told apart, and {other} is cheaper to keep"
        said.append(f"{verdict}: Recall@20 {_points(step.recall)}, MRR@20 {_points(step.mrr)}.")
    if advice.baseline and not advice.baseline.is_taken:
        said.append(
            f"But it is not better than {titles[advice.baseline.against]} beyond noise: Recall@20"
            f" {_points(advice.baseline.recall)}. There may be little to learn from this log as it is."
        )
    if advice.smallest is None:
        return said
    tells = f"{advice.sessions:,} test sessions tell differences of {advice.smallest:.1f} points of Recall@20"
    if advice.has_power:
        said.append(f"{tells} from chance.")
    else:
        said.append(
            f"{tells} from chance, no smaller ones: for {TO_TELL:g} points it takes about"
            f" {advice.sessions_to_tell:,}. Until then the cheaper model is advised: try again with a longer"
            " log, or more --test-days."
        )
    return said


def _points(difference: Difference) -> str:
    return f"{difference.value:+.2f} ({difference.low:+.2f} to {difference.high:+.2f})"
