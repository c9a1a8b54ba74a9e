"""Draws a leaderboard: Recall@20 against latency, training time and popularity, and by session length."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from training.report.labels import place_labels
from training.report.leaderboard import FAMILIES, Entry, Family, Leaderboard

# Okabe and Ito's palette, told apart by the colour-blind too; the marks help in print.
COLOURS: dict[Family, str] = {
    "counted": "#555555",
    "factorisation": "#e69f00",
    "sequence": "#0072b2",
    "session graph": "#d55e00",
    "global graph": "#009e73",
}
MARKS: dict[Family, str] = {
    "counted": "D",
    "factorisation": "^",
    "sequence": "o",
    "session graph": "s",
    "global graph": "P",
}
LATENCY, TRAINING, POPULARITY, LENGTH = (
    f"recall-{against}.svg" for against in ("latency", "training", "popularity", "length")
)
PICTURES = (LATENCY, TRAINING, POPULARITY, LENGTH)

SIZE = (8.0, 6.4)  # inches
FRAME = (0.07, 0.1, 0.895, 0.8)  # of the axes in the figure: fixed, as labels are placed before it is drawn
FONT_SIZE = 8.5  # points
CAPITAL, SMALL = 0.7 * FONT_SIZE, 0.62 * FONT_SIZE  # a letter's width, about
LINE = 1.2 * FONT_SIZE
FAR_BELOW = 0.5  # of the best Recall@20: models under it are named in words, or all others would be one heap


@dataclass(frozen=True)
class Point:
    """A model in a picture of Recall@20 against something."""

    title: str
    family: Family
    x: float
    recall: float


def draw_pictures(board: Leaderboard) -> dict[str, bytes | None]:
    """SVG by file name, the same bytes for the same figures; None where fewer than two models have any."""

    def training_minutes(entry: Entry) -> float | None:
        result = entry.first.result
        if not board.times_compare(entry):
            return None
        return max(result.wall_seconds, 1) / 60  # counting takes no time, and log 0 has no place

    def latency(entry: Entry) -> float | None:
        ranking = entry.first.result.rank_microseconds or {}
        return ranking.get("p50") if board.times_compare(entry) else None

    def popularity(entry: Entry) -> float | None:
        return entry.first.result.test.get("popularity@20")

    return {
        LATENCY: _scatter(board, latency, "one answer, median, µs on one thread", log=True),
        TRAINING: _scatter(board, training_minutes, "training, minutes (at least a second)", log=True),
        POPULARITY: _scatter(board, popularity, "popularity@20: mean training clicks of an answered item"),
        LENGTH: _by_length(board),
    }


def _scatter(
    board: Leaderboard, x_of: Callable[[Entry], float | None], label: str, log: bool = False
) -> bytes | None:
    points = [
        Point(entry.title, entry.family, x, entry.first.result.test["recall@20"])
        for entry in board.entries
        if (x := x_of(entry)) is not None
    ]
    if len(points) < 2:
        return None
    best = max(point.recall for point in points)
    drawn = [point for point in points if point.recall >= FAR_BELOW * best]
    left_out = [f"{point.title} {point.recall:.1f}" for point in points if point.recall < FAR_BELOW * best]
    with style():
        figure, axes = _axes(
            board, label + (f"\nfar below, not drawn: {', '.join(left_out)}" if left_out else "")
        )
        axes.set_xscale("log" if log else "linear")
        for point in drawn:
            axes.plot(point.x, point.recall, MARKS[point.family], color=COLOURS[point.family], markersize=6)
        axes.margins(0.08)
        axes.autoscale_view()
        if log:
            low, high = axes.get_xlim()
            ticks = (1, 2, 5) if high > 100 * low else (1, 1.5, 2, 3, 4, 5, 7)
            axes.xaxis.set_major_locator(LogLocator(subs=ticks))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        _label(axes, drawn)
        marks = [
            Line2D([], [], color=COLOURS[family], marker=MARKS[family], linestyle="", label=family)
            for family in FAMILIES
            if any(point.family == family for point in drawn)
        ]
        _legend(axes, marks)
        return svg(figure)


def _by_length(board: Leaderboard) -> bytes | None:
    entries = _representatives([entry for entry in board.entries if entry.first.result.test_by_length])
    if len(entries) < 2:
        return None
    figures = [entry.first.result.test_by_length or {} for entry in entries]
    lengths = list(figures[0])
    ticks = [f"{length}\n({of.cases:,})" for length, of in figures[0].items()]
    with style():
        figure, axes = _axes(board, "clicks in the session so far (test cases)")
        for entry, of in zip(entries, figures, strict=True):
            recalls = [of[length].recall if length in of else np.nan for length in lengths]
            line = MARKS[entry.family] + (":" if entry.model == "spop" else "-")
            label = f"{entry.title}, {entry.family}"
            axes.plot(recalls, line, color=COLOURS[entry.family], markersize=5, label=label)
        axes.set_xticks(range(len(ticks)), ticks)
        _legend(axes, axes.get_lines())
        return svg(figure)


def _representatives(entries: Sequence[Entry]) -> list[Entry]:
    """The best of each family, and S-POP: what repeating the session's own items gives."""
    best: dict[Family, Entry] = {}
    for entry in sorted(entries, key=lambda entry: -entry.first.result.test["recall@20"]):
        best.setdefault(entry.family, entry)
    drawn = list(best.values())
    return drawn + [entry for entry in entries if entry.model == "spop" and entry not in drawn]


def _label(axes: Axes, points: Sequence[Point]) -> None:
    """Write each title beside its mark, or as near as there is room, then with a thin line to the mark."""
    points = sorted(points, key=lambda point: (-point.recall, point.x))
    marks = [tuple(axes.transData.transform((point.x, point.recall))) for point in points]
    widths = [sum(CAPITAL if letter.isupper() else SMALL for letter in f"{point.title} ") for point in points]
    frame = np.array(axes.get_window_extent().extents)
    for point, place in zip(points, place_labels(marks, widths, LINE, frame), strict=True):
        to_left = place.x < 0
        leader = {
            "arrowstyle": "-",
            "linewidth": 0.5,
            "color": COLOURS[point.family],
            "shrinkA": 1,
            "shrinkB": 3,
            "relpos": (1.0 if to_left else 0.0, 0.5),
        }
        axes.annotate(
            point.title,
            (point.x, point.recall),
            (place.x, place.y),
            textcoords="offset points",
            horizontalalignment="right" if to_left else "left",
            verticalalignment="center_baseline",
            arrowprops=leader if place.has_leader else None,
        )


def _axes(board: Leaderboard, x_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, dpi=72)  # a pixel is a point
    axes = figure.add_axes(FRAME)
    axes.set_xlabel(x_label)
    axes.set_ylabel("Recall@20, %")
    axes.yaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    axes.set_title(board.dataset, loc="left", fontweight="bold", pad=3.1 * LINE)  # above the legend
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(axes: Axes, lines: Sequence[Line2D]) -> None:
    """Under the title; a little beyond the frame, for the widest takes nearly all the room there is."""
    axes.legend(
        handles=lines, loc="lower right", bbox_to_anchor=(1.022, 1), ncols=3, frameon=False, borderaxespad=0.2
    )


def style() -> AbstractContextManager[None]:
    """In which a picture is the same bytes each time, and its words stay words."""
    return rc_context({"svg.hashsalt": "nextclick", "svg.fonttype": "none", "font.size": FONT_SIZE})


def svg(figure: Figure) -> bytes:
    """The picture, without a date."""
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()
