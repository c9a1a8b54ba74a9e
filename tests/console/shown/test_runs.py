"""Runs and trainings as the console shows them, of files as training writes them."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from console.shown.runs import CheckRow, RunRow, StepRow, find_runs, find_trainings
from tests.console.place import write_runs, write_trainings
from training.loop.run_record import run_paths

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def test_nothing_yet(tmp_path: Path) -> None:
    assert find_runs(tmp_path) == []
    assert find_trainings(tmp_path) == []


def test_runs_with_their_steps_and_what_the_gate_said(tmp_path: Path) -> None:
    write_runs(tmp_path)
    running, stopped, refused, published, broken = find_runs(tmp_path)
    assert (running.status, running.reason, running.checks) == ("running", None, ())
    assert running.steps == (StepRow("collect", "done", "4 s"), StepRow("train", "running", "–"))
    assert stopped.reason == "train: training diverged in epoch 1, batch 7 of 100"
    assert (refused.id, refused.version) == ("run-20261125T030000", "gru-20261125T030000")
    assert refused.started == "2026-11-25 03:00 UTC"
    assert refused.steps[1:] == (StepRow("train", "done", "13 min"), StepRow("gate", "done", "31 s"))
    assert refused.checks == (
        CheckRow("loads", True, "yes", "yes", ""),
        CheckRow("mrr@20", False, "-0.61", "-0.5", "challenger 12.01, champion 12.4"),
        CheckRow("answer ms, p90", True, "0.3141", "5", ""),
    )
    assert (published.status, [check.passed for check in published.checks]) == ("published", [True] * 3)
    assert (broken.id, broken.status, broken.version) == ("run-20261124T020000", "unreadable", "–")
    assert broken.reason is not None
    assert "run.json" in broken.reason


def test_a_run_that_cannot_be_read_is_a_row(tmp_path: Path) -> None:
    paths = run_paths(tmp_path, "run-20261124T030000")
    for content in (b"", b"\xff\xfe", b"[]", b'{"id": 3}'):
        paths.directory.mkdir(parents=True, exist_ok=True)
        paths.record.write_bytes(content)
        (row,) = find_runs(tmp_path)
        assert row == RunRow("run-20261124T030000", "unreadable", row.reason)
    paths.record.unlink()
    paths.record.mkdir()
    assert find_runs(tmp_path)[0].status == "unreadable"


def test_each_of_several_models_that_were_trained_together_is_a_row(tmp_path: Path) -> None:
    write_trainings(tmp_path, NOW)
    runs = tmp_path / "runs"
    places = {"shop/auto-seed1/niser": "shop/auto-seed1/niser", "run-x/niser": "run-x/checkpoints/niser"}
    for place in places.values():
        shutil.copytree(runs / "shop/niser-seed1", runs / place)
    assert places.keys() < {row.place for row in find_trainings(tmp_path, NOW)}


def test_trainings_with_their_curves(tmp_path: Path) -> None:
    write_trainings(tmp_path, NOW)
    rows = {row.place: row for row in find_trainings(tmp_path, NOW)}
    assert list(rows)[:2] == ["shop/niser-seed1", "shop/narm-seed1"], "those under way first"
    assert list(rows)[-1] == "shop/tron-seed1"
    running = rows["shop/niser-seed1"]
    assert (running.status, running.reason, running.model, running.dataset) == (
        "running",
        None,
        "niser",
        "shop",
    )
    assert running.at == "select: epoch 8 of at most 30, batch 120 of 400, loss 2.010, 51,234 targets/s"
    assert running.best == "MRR@20 10.71 %, Recall@20 27.14 % in epoch 7"
    assert set(running.curves) == {"loss", "validation MRR@20", "validation Recall@20", "loss, refit"}
    assert running.curves["loss"][:2] == ((1, 9.0), (2, 5.0))
    assert running.curves["loss, refit"] == ((1, 3.0),)
    killed = rows["shop/narm-seed1"]
    assert (killed.status, killed.reason) == ("running", "no sign of it for 30 min: it may have been killed")
    failed = rows["shop/sasrec-seed1"]
    assert (failed.status, failed.reason) == ("failed", "DivergedError: the loss is nan")
    done = rows["run-20261124T030000"]
    assert (done.status, done.at) == ("done", "select: 7 epochs, refit: 1 epochs")
    broken = rows["shop/tron-seed1"]
    assert (broken.status, broken.curves) == ("unreadable", {})
