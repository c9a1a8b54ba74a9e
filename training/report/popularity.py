"""Popularity bias of bundles, measured and drawn: how long item vectors are, and which items are recommended.

Under a dot product a longer item vector scores higher in any session it points along; whether training makes
those of popular items longer, as Gupta et al. 2019 report of SR-GNN, is to be seen. A bundle of the `niser`
head gives every item the same length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from service.ranking.bundle import Bundle
from training.data.dataset import Dataset
from training.learn.cards import card
from training.measure.evaluate import TOP, evaluate

BINS = 14  # of items with about as many training clicks, on a log scale
TOP_SHARE = 0.01  # of the items: those that are clicked most

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bias:
    """What one bundle does with the popularity of items; arrays have an entry for each of the n items."""

    version: str
    title: str
    lengths: Floats  # (n,) of the item vectors as they are scored, in units of their mean
    clicks: Counts  # (n,) in training, at least 1 for the log scale
    answered: Counts  # (n,) how often among the 20 of a test case
    metrics: dict[str, float]

    def figures(self) -> dict[str, object]:
        """What the picture shows, in numbers: percent, but mean clicks and the correlation."""
        top = np.argsort(-self.clicks, kind="stable")[: max(1, round(TOP_SHARE * len(self.clicks)))]
        varied = np.ptp(self.lengths) > 1e-3  # unit vectors differ by rounding alone
        correlation = float(np.corrcoef(np.log(self.clicks), self.lengths)[0, 1]) if varied else 0.0
        return {
            "bundle": self.version,
            "recall@20": self.metrics["recall@20"],
            "popularity@20": self.metrics[f"popularity@{TOP}"],
            "answers_from_top_1_percent": 100 * float(self.answered[top].sum() / self.answered.sum()),
            "correlation_of_length_and_log_clicks": correlation,
        }


def measure(bundle: Bundle, data: Dataset) -> Bias:
    """Lengths from the bundle's index, answers to every test case.

    A dot product is served as a cosine of [v; b; filler] / M (see `training.bundling.export`): v is all but
    the last two dimensions, up to the factor M.
    """
    vectors = bundle.retriever.vectors().astype(np.float64)
    lengths = np.linalg.norm(vectors if bundle.manifest.head == "niser" else vectors[:, :-2], axis=1)
    evaluation = evaluate(bundle, data, data.test)
    title = card(bundle.manifest.model, bundle.manifest.n_items).title
    return Bias(
        bundle.manifest.version,
        title,
        lengths / lengths.mean(),
        evaluation.clicks.clip(min=1),
        evaluation.answered,
        evaluation.unmasked,
    )


def draw(biases: Sequence[Bias], file: Path) -> None:
    """Write the picture as SVG, the same bytes for the same figures."""
    with rc_context({"svg.hashsalt": "nextclick", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for bias in biases:
            _draw_lengths(left, bias)
            _draw_answers(right, bias)
        left.set(
            xscale="log",
            xlabel="training clicks of an item",
            ylabel="length of its vector / mean length",
            title="Item vectors as they are scored: median, 10–90 %",
            ylim=(0, None),
        )
        right.set(
            xscale="log",
            xlabel="training clicks of an item",
            ylabel="answers to items with at most so many, %",
            title=f"What the top {TOP} of all test cases hold",
            ylim=(0, 100),
        )
        for axes in (left, right):
            axes.grid(alpha=0.3)
            axes.legend(frameon=False)
        figure.savefig(file, format="svg", metadata={"Date": None})


def _draw_lengths(axes: Axes, bias: Bias) -> None:
    bins = np.geomspace(bias.clicks.min(), bias.clicks.max() + 1, BINS + 1)
    bin_of = np.digitize(bias.clicks, bins) - 1
    found = [np.flatnonzero(bin_of == i) for i in range(BINS)]
    found = [items for items in found if len(items)]
    middle = [float(np.median(bias.clicks[items])) for items in found]
    low, median, high = np.array([np.quantile(bias.lengths[items], (0.1, 0.5, 0.9)) for items in found]).T
    (line,) = axes.plot(middle, median, marker="o", markersize=3, label=bias.title)
    axes.fill_between(middle, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def _draw_answers(axes: Axes, bias: Bias) -> None:
    counts, place = np.unique(bias.clicks, return_inverse=True)
    share = np.cumsum(np.bincount(place, weights=bias.answered))
    mean = bias.metrics[f"popularity@{TOP}"]
    axes.plot(counts, 100 * share / share[-1], label=f"{bias.title}: {mean:.0f} clicks on average")
