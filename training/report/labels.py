"""Finds room for the labels of crowded marks, the same room for the same marks (docs/decisions/0016)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MARK = 8.0  # the side of a mark, points
GAP = 6.0  # from a mark's middle to its label
FAR = 0.3  # what a point of distance costs, in square points covered
SAMPLES = np.linspace(0.2, 1, 9)[:, None]  # of a line from mark to label

Boxes = npt.NDArray[np.float64]  # (n, 4): left, bottom, right, top


@dataclass(frozen=True)
class Place:
    """Where a label is anchored, from its mark, in points: its left edge, or its right one if x < 0."""

    x: float
    y: float
    has_leader: bool  # so far off that a line must lead to it


def place_labels(
    marks: Sequence[tuple[float, float]], widths: Sequence[float], line: float, frame: Boxes
) -> list[Place]:
    """A place for each label, in order: near its mark, covering little.

    What shall stay free is marks, labels, and the lines that lead to them; a label stays inside `frame` (4,).
    """
    taken = np.array([_around(mark, MARK) for mark in marks])
    ups = [step * line / 2 for step in range(-16, 17)]
    found: list[Place] = []
    for i, (mark, width) in enumerate(zip(marks, widths, strict=True)):
        others = np.delete(taken, i, axis=0)
        best: tuple[float, Place, Boxes] | None = None
        for up, out, side in itertools.product(ups, (0, 20, 45, 75), (1, -1)):
            has_leader = abs(up) > line / 2 or out > 0
            place = Place(side * (GAP + out + min(abs(up), 3 * line) / 2), up, has_leader)
            box, leader = _box(mark, place, width, line), _leader(mark, place)
            covered = _overlap(box, taken).sum() + _overlap(leader[:, None], others).sum()
            outside = width * line - _overlap(box, frame)
            cost = float(covered + 10 * outside + FAR * np.hypot(up, out))
            if best is None or cost < best[0] - 1e-3:  # rounding decides nothing
                best = (cost, place, np.vstack([box, leader]))
        assert best is not None
        found.append(best[1])
        taken = np.vstack([taken, best[2]])
    return found


def _around(middle: Sequence[float] | Boxes, side: float) -> list[float]:
    x, y = middle
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


def _box(mark: tuple[float, float], place: Place, width: float, line: float) -> Boxes:
    left = mark[0] + place.x - (width if place.x < 0 else 0)
    middle = mark[1] + place.y
    return np.array([left, middle - line / 2, left + width, middle + line / 2])


def _leader(mark: tuple[float, float], place: Place) -> Boxes:
    """(n, 4) small boxes along the line from mark to label, none if there is no line."""
    if not place.has_leader:
        return np.empty((0, 4))
    dots = np.array(mark) + SAMPLES * np.array([place.x, place.y])
    return np.array([_around(dot, 3) for dot in dots])


def _overlap(first: Boxes, second: Boxes) -> npt.NDArray[np.float64]:
    """The area that boxes (..., 4) have in common."""
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    area: npt.NDArray[np.float64] = np.prod(sides.clip(min=0), axis=-1)
    return area
