"""Labels of marks: beside them if there is room, else as near as they cover nothing."""

from __future__ import annotations

import itertools

import numpy as np

from training.report.labels import Place, place_labels

WIDTH, LINE = 40.0, 10.0
FRAME = np.array([0.0, 0.0, 600.0, 400.0])

Box = tuple[float, float, float, float]


def box_of(mark: tuple[float, float], place: Place) -> Box:
    left = mark[0] + place.x - (WIDTH if place.x < 0 else 0)
    return left, mark[1] + place.y - LINE / 2, left + WIDTH, mark[1] + place.y + LINE / 2


def common(first: Box, second: Box) -> float:
    across = min(first[2], second[2]) - max(first[0], second[0])
    return max(across, 0) * max(min(first[3], second[3]) - max(first[1], second[1]), 0)


def test_a_mark_alone_has_its_label_to_the_right() -> None:
    (place,) = place_labels([(300.0, 200.0)], [WIDTH], LINE, FRAME)
    assert (place.x > 0, place.y, place.has_leader) == (True, 0, False)


def test_at_the_right_edge_it_is_to_the_left() -> None:
    (place,) = place_labels([(590.0, 200.0)], [WIDTH], LINE, FRAME)
    assert (place.x < 0, place.y, place.has_leader) == (True, 0, False)


def test_a_crowd_is_told_apart() -> None:
    rng = np.random.default_rng(0)
    marks = [(300 + 50 * x, 200 + 50 * y) for x, y in rng.random((20, 2)).tolist()]
    places = place_labels(marks, [WIDTH] * 20, LINE, FRAME)
    assert places == place_labels(marks, [WIDTH] * 20, LINE, FRAME)
    assert any(place.has_leader for place in places)
    boxes = [box_of(mark, place) for mark, place in zip(marks, places, strict=True)]
    for first, second in itertools.combinations(boxes, 2):
        assert common(first, second) < 0.1 * WIDTH * LINE
    for box in boxes:
        assert common(box, (0, 0, 600, 400)) > 0.99 * WIDTH * LINE
