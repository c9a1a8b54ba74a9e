"""Small line charts as SVG: nothing for the browser to load or run, and no colour but the style's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 320, 88, 2, 14, 16
GAP = 3.5  # times the usual distance between two points: there the line is broken


@dataclass(frozen=True)
class Line:
    """Points (x, y) with growing x; None as y: nothing is known there."""

    name: str
    points: Sequence[tuple[float, float | None]]


def chart(
    title: str, lines: Sequence[Line], said: Callable[[float], str], begin: str = "", end: str = "now"
) -> str:
    """An SVG element; `said` writes a value with its unit, `begin` and `end` stand below the axis."""
    known = [(x, y) for line in lines for x, y in line.points if y is not None]
    described = escape(f"{title}: {_described(lines, said)}", quote=True)
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{described}">'
    if not known:
        middle = f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">no figures yet</text>'
        return f"{head}{middle}</svg>"
    first, last = min(x for x, _ in known), max(x for x, _ in known)
    most = max(y for _, y in known)
    top = most or 1.0
    floor = HEIGHT - BOTTOM

    def place(x: float, y: float) -> str:
        across = (x - first) / (last - first) if last > first else 1.0
        return f"{LEFT + across * (WIDTH - 2 * LEFT):.1f},{floor - y / top * (floor - TOP):.1f}"

    drawn = [f'<line class="axis" x1="0" x2="{WIDTH}" y1="{floor}" y2="{floor}"/>']
    for number, line in enumerate(lines):
        for piece in _pieces(line.points):
            points = " ".join(place(x, y) for x, y in piece)
            drawn.append(f'<polyline class="line line-{number}" points="{points}"/>')
    drawn.append(f'<text x="2" y="10">{escape(said(most))}</text>')
    drawn.append(f'<text x="2" y="{HEIGHT - 3}">{escape(begin)}</text>')
    drawn.append(f'<text x="{WIDTH - 2}" y="{HEIGHT - 3}" text-anchor="end">{escape(end)}</text>')
    return head + "".join(drawn) + "</svg>"


def _described(lines: Sequence[Line], said: Callable[[float], str]) -> str:
    told = []
    for line in lines:
        known = [y for _, y in line.points if y is not None]
        if known:
            told.append(f"{line.name} {said(known[-1])}, between {said(min(known))} and {said(max(known))}")
    return "; ".join(told) or "no figures yet"


def _pieces(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    steps = sorted(later[0] - earlier[0] for earlier, later in pairwise(points))
    usual = steps[len(steps) // 2] if steps else 0.0
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            pieces.append([])
            continue
        if pieces[-1] and x - pieces[-1][-1][0] > GAP * usual:
            pieces.append([])
        pieces[-1].append((x, y))
    return [piece for piece in pieces if piece]
