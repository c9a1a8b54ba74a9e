"""What the benchmark of stock changes makes of what it saw, and a small run of it against a real service."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.load.client import FAILED, GOOD, SHED, UNANSWERED
from benchmarks.load.loops import Seen
from benchmarks.load.processes import Cpu
from benchmarks.stock import Phase, Stock, main, quantiles_of
from service.live.deployment import publish
from tests.service.bundles import Shop


def test_an_item_is_gone_when_the_last_worker_answers_without_it() -> None:
    stock = Stock((1, 2), ["a", "b", "c"])
    stock.hide("a", 10)
    assert stock.shown == ["b", "c"]
    stock.answered(1, asked=11, now=12, items={"b", "c"})
    stock.answered(2, asked=11, now=13, items={"a", "b", "c"})
    stock.answered(1, asked=13, now=14, items={"b", "c"})  # it alone has followed, however often it says so
    assert (stock.gone, stock.gone_seconds, stock.pending) == ([], [], 1)
    stock.answered(2, asked=14, now=15, items={"b", "c"})
    assert (stock.gone, stock.gone_seconds, stock.pending) == (["a"], [5], 0)
    assert stock.shown == ["b", "c"], "it is still to be made available"


def test_what_was_asked_before_a_change_says_nothing_of_it() -> None:
    stock = Stock((1,), ["a"])
    stock.hide("a", 10)
    stock.answered(1, asked=9, now=11, items=())
    assert stock.pending == 1
    stock.answered(1, asked=10, now=12, items=())
    assert stock.gone_seconds == [2]


def test_an_item_is_back_when_all_workers_answer_it_again() -> None:
    stock = Stock((1, 2), ["a"])
    stock.hide("a", 1)
    for worker in (1, 2):
        stock.answered(worker, asked=2, now=3, items=())
    stock.show("a", 4)
    stock.answered(1, asked=5, now=6, items={"a"})
    stock.answered(2, asked=5, now=7, items=())
    assert (stock.shown, stock.back_seconds, stock.pending) == ([], [], 1)
    stock.answered(2, asked=7, now=8, items={"a"})
    assert (stock.shown, stock.back_seconds, stock.pending) == (["a"], [4], 0)
    assert stock.gone_seconds == [2], "that it is back is no second change"


def test_several_changes_are_told_apart() -> None:
    stock = Stock((1,), ["a", "b"])
    stock.hide("a", 1)
    stock.hide("b", 2)
    stock.answered(1, asked=3, now=4, items={"a"})
    assert (stock.gone, stock.gone_seconds) == (["b"], [2])
    stock.answered(1, asked=5, now=6, items=())
    assert (stock.gone, stock.gone_seconds) == (["b", "a"], [2, 5])


def seen(start: float, outcome: list[int], took: list[float]) -> Seen:
    """One request a second."""
    due = np.arange(len(outcome), dtype=np.float64)
    kinds = np.array(outcome, np.uint8)
    late = np.full(len(due), 0.0005)
    return Seen(start, due, late, np.array(took), kinds, 1, Cpu(0, 0, 0), [f"of {start:g}"])


def test_a_phase_counts_what_was_due_in_it_in_all_its_parts() -> None:
    calm = Phase.of("calm", [seen(0, [GOOD] * 3, [0.001, 0.002, 0.003])])
    assert (calm.requests, calm.failed, calm.shed) == (3, 0, 0)
    assert calm.milliseconds["p50"] == 2
    assert calm.of_calm == {}
    parts = [
        seen(100, [FAILED, GOOD, SHED], [9, 0.004, 9]),
        seen(200, [GOOD, UNANSWERED, FAILED], [0.004, -9, 9]),
    ]
    phase = Phase.of("import", parts, start=101, end=201, calm=calm)
    assert (phase.requests, phase.failed, phase.shed) == (4, 1, 1)
    assert set(phase.milliseconds.values()) == {4}, "only good answers have latencies"
    assert phase.of_calm["p50"] == 2
    assert phase.late_milliseconds["p99"] == 0.5
    assert phase.complaints == ["of 100", "of 200"]


def test_quantiles_are_in_milliseconds_and_of_nothing_there_are_none() -> None:
    assert quantiles_of([]) == {}
    assert quantiles_of(number / 1000 for number in range(101)) == {"p50": 50, "p90": 90, "p99": 99}


def test_one_command_changes_the_stock_and_imports_beside_load(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    options = ["--bundle", str(bundle), "--workers", "2", "--rate", "50", "--seconds", "1", "--json"]
    options += ["--changes", "3", "--items", "500", "--others", "40"]
    status = main(options)
    said = capsys.readouterr()
    assert status == 0, said
    report = json.loads(said.out)
    assert [phase["what"] for phase in report["phases"]] == ["calm", "stock changes", "import"]
    for phase in report["phases"]:
        assert (phase["failed"], phase["shed"]) == (0, 0)
        assert phase["requests"] > 0
        assert phase["milliseconds"].keys() == {"p50", "p90", "p99"}
    assert report["changes"] >= 3
    assert report["gone_milliseconds"]["p99"] <= report["gone_most"]
    assert json.loads(report["import_said"])["stored"] == 501, "the last item comes twice"
    assert len(report["last_item_milliseconds"]) == 1
