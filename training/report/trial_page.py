"""A trial as one page that needs nothing else: figures, pictures, commands; all text in it is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from training.report.trial import LeftOut, Step, Tried

COLOURS = ("c1", "c2", "c3", "c4", "c5", "c6")  # classes of the template, told apart by the colour-blind too
TICKS = 5


@dataclass(frozen=True)
class Split:
    """How many sessions and next clicks the models were trained, chosen and measured on."""

    training_sessions: int
    validation_sessions: int
    test_sessions: int
    test_cases: int
    items: int


@dataclass(frozen=True)
class Report:
    """All that is told of a trial, as text, as JSON and as a page."""

    name: str
    inputs: list[str]
    source: list[dict[str, object]]  # what was understood of each file
    rows: int | None
    other_events: int
    rejected: dict[str, int]
    steps: list[Step]
    test_days: float | None  # None: the log came split
    split: Split
    sampled: dict[str, tuple[int, int]] | None
    models: list[Tried]
    left_out: list[LeftOut]
    advised: str | None
    advice: list[str]
    notes: list[str]
    commands: list[str]
    budget_minutes: float
    seconds: float
    threads: int


def page(report: Report) -> str:
    """The page, UTF-8."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = _count
    environment.filters["size"] = _size
    models = report.models
    return environment.get_template("trial.html").render(
        report=report,
        metrics=[
            ("Recall@20", "recall", Axis.over([of.recall.high for of in models])),
            ("MRR@20", "mrr", Axis.over([of.mrr.high for of in models])),
        ],
        lengths=_lines(models),
        length_axis=Axis.over([part.recall for of in models for part in of.by_length.values()]),
        colours=dict(zip((of.model for of in models), COLOURS * len(models), strict=False)),
        source=[{**of, "columns_and_ids": _columns(of)} for of in report.source],
        most_clicks=max((step.clicks for step in report.steps), default=1),
    )


def as_json(report: Report) -> dict[str, object]:
    """The same as plain values."""
    return asdict(report)


@dataclass(frozen=True)
class Axis:
    """0 to a round figure, in at most `TICKS` equal parts."""

    top: float
    ticks: list[float]

    @classmethod
    def over(cls, values: Sequence[float]) -> Axis:
        """An axis with room for all `values`."""
        most = max(values, default=0.0) or 1.0
        power = 10.0 ** math.floor(math.log10(most / TICKS))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor * TICKS >= most)
        parts = math.ceil(most / step - 1e-9)
        return cls(parts * step, [step * number for number in range(parts + 1)])

    def at(self, value: float) -> str:
        """Where a value lies on the axis, percent."""
        return f"{100 * value / self.top:.2f}"


def _lines(models: Sequence[Tried]) -> list[tuple[str, int]]:
    """The groups of session length that there are, and their test cases."""
    return [(name, part.cases) for name, part in models[0].by_length.items()] if models else []


def _columns(source: dict[str, object]) -> list[tuple[str, str, str]]:
    """What each field was read from, and as what."""
    columns, types = source.get("columns"), source.get("id_types")
    if not isinstance(columns, dict):
        return []
    types = types if isinstance(types, dict) else {}
    return [(str(name), str(column), str(types.get(name, ""))) for name, column in columns.items()]


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _size(number: float) -> str:
    return f"{number / 1e6:,.1f} MB" if number < 1e9 else f"{number / 1e9:,.2f} GB"
