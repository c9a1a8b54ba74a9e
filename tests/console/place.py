"""A directory of artifacts with one of everything that the console shows, and of all that is broken."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from pydantic import JsonValue

from service.live.deployment import publish, replace_file
from tests.service.bundles import Shop
from training.data.clicks import ClickFile, Commit, Gap, Totals
from training.data.dataset import DatasetInfo, SourceFile
from training.loop.click_files import write_commit
from training.loop.run_record import RunPaths, RunRecord, Status, StepRecord, run_paths
from training.loop.schedule import LastRun
from training.measure.progress import FILE, TrainingProgress

BEGAN = datetime(2026, 11, 24, 3, tzinfo=UTC)
OLD, NEW = Shop.make(seed=1), Shop.make(seed=2)
BROKEN = '{"id": "run-2026'


def write_bundles(artifacts: Path) -> None:
    """v1 was live, v2 is, v3 lies beside them, and one is half written."""
    for version, shop in (("v1", OLD), ("v2", NEW), ("v3", OLD)):
        shop.write(artifacts, version)
    publish(artifacts, "v1")
    publish(artifacts, "v2")
    (artifacts / "bundles" / "half-written").mkdir()


def write_runs(artifacts: Path) -> None:
    """One of each end, the newest under way, and one whose run.json is cut off."""
    _run(artifacts, 0, "published", checks=True, passed=True)
    _run(artifacts, 1, "refused", "gate: mrr@20: -0.61, limit -0.5", checks=True)
    _run(artifacts, 2, "stopped", "train: training diverged in epoch 1, batch 7 of 100")
    _run(artifacts, 3, "running")
    broken = run_paths(artifacts, "run-20261124T020000")
    broken.directory.mkdir(parents=True)
    broken.record.write_text(BROKEN)


def _run(
    artifacts: Path,
    day: int,
    status: Status,
    reason: str | None = None,
    *,
    checks: bool = False,
    passed: bool = False,
) -> RunPaths:
    began = BEGAN + timedelta(days=day)
    stamp = f"{began:%Y%m%dT%H%M%S}"
    ended = {"running": "running", "stopped": "stopped"}.get(status, "done")
    steps = {
        "collect": StepRecord(status="done", started_at=began, seconds=4.2, outcome={"clicks": 1200}),
        "train": StepRecord.model_validate(
            {"status": ended, "started_at": began, "seconds": None if ended == "running" else 754.0}
        ),
    }
    if checks:
        told: dict[str, JsonValue] = {
            "passed": passed,
            "checks": [
                {"name": "loads", "passed": True, "measured": "yes", "limit": "yes", "detail": ""},
                {
                    "name": "mrr@20",
                    "passed": passed,
                    "measured": 0.1 if passed else -0.61,
                    "limit": -0.5,
                    "detail": "challenger 12.01, champion 12.4",
                    "verdict": "worse",
                },
                {"name": "answer ms, p90", "passed": True, "measured": 0.31415, "limit": 5.0, "detail": ""},
            ],
        }
        steps["gate"] = StepRecord(status="done", started_at=began, seconds=31.0, outcome=told)
    paths = run_paths(artifacts, f"run-{stamp}")
    paths.directory.mkdir(parents=True)
    paths.write(
        RunRecord(
            id=f"run-{stamp}",
            version=f"gru-{stamp}",
            config={},
            config_sha256="0",
            commit="0",
            warm_start_from=None,
            started_at=began,
            status=status,
            reason=reason,
            steps=steps,
        )
    )
    return paths


def write_trainings(artifacts: Path, now: datetime) -> None:
    """Under way, killed, done, failed, and cut off."""
    runs = artifacts / "runs"
    history = [
        {"epoch": n, "loss": 8.0 / n + 1, "mrr@20": 12 - 9 / n, "recall@20": 30 - 20 / n} for n in range(1, 8)
    ]
    half = timedelta(minutes=30)
    for place, updated_at, changed in (
        ("shop/niser-seed1", now, {"epoch": 8, "step": 120, "steps": 400, "loss": 2.01}),
        ("shop/narm-seed1", now - half, {"epoch": 8, "step": 20, "steps": 400, "loss": 2.2}),
        ("shop/sasrec-seed1", now - half, {"status": "failed", "reason": "DivergedError: the loss is nan"}),
        ("run-20261124T030000/checkpoints", now - half, {"status": "done"}),
    ):
        file = runs / place / FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        progress = TrainingProgress.model_validate(
            {
                "model": "gru" if place.startswith("run-") else place.partition("/")[2].partition("-")[0],
                "dataset": place.partition("/")[0],
                "started_at": now - 2 * half,
                "updated_at": updated_at,
                "phase": "select",
                "epochs": 30,
                "targets_per_second": 51234.0,
                "history": {"select": history, "refit": [{"epoch": 1, "loss": 3.0}]},
                **changed,
            }
        )
        replace_file(file, progress.model_dump_json().encode())
    broken = runs / "shop" / "tron-seed1" / FILE
    broken.parent.mkdir(parents=True)
    broken.write_text('{"model": "tron", "his')


def write_data(artifacts: Path) -> None:
    """A data set of a log with bad rows, one of before that was kept, and one that is cut off."""
    counts = {"rows": 1000, "rejected": 30, "read_clicks": 970, "train_clicks": 800, "train_sessions": 150}
    source = SourceFile(
        path="clicks/2026-11-24.csv",
        format="csv",
        lines=1001,
        kept=970,
        rejected={"no_item": 10, "bad_timestamp": 20},
        first_time="2026-11-20T00:00:03+00:00",
        last_time="2026-11-24T23:59:58+00:00",
    )
    for name, sources in (("shop", (source,)), ("older", ())):
        info = DatasetInfo(
            name=name, n_items=60, n_validation=15, counts=counts, options={}, files={}, source=sources
        )
        place = artifacts / "data" / name
        place.mkdir(parents=True)
        (place / "dataset.json").write_text(info.model_dump_json())
    broken = artifacts / "data" / "cut off"
    broken.mkdir()
    (broken / "dataset.json").write_text('{"schema_version": 1,')


def write_clicks(artifacts: Path) -> None:
    """Three days, of which one has two files, and a gap."""
    files = [
        ClickFile(
            path=f"day=2026-11-{day}/{n:08}-000.parquet",
            rows=1000 * day,
            bytes=30_000 * day,
            day=date(2026, 11, day),
        )
        for n, day in enumerate((22, 23, 23, 24))
    ]
    gap = Gap(shard=3, after_seq=41, next_seq=45, noticed_at=BEGAN)
    totals = Totals(clicks=92_000, duplicates=12, rejected=2, missing=3)
    commit = Commit(generation=7, shards=16, files=tuple(files), gaps=(gap,), totals=totals)
    (artifacts / "clicks").mkdir(parents=True)
    write_commit(artifacts / "clicks", commit)


def write_schedule(artifacts: Path) -> None:
    """One command whose last run was good, one that failed, one that is under way, and one cut off."""
    place = artifacts / "schedule"
    place.mkdir(parents=True)
    for command, ended, code in (("collect", True, 0), ("run", True, 1), ("prune", False, None)):
        last = LastRun(
            command=(command, "--json"),
            scheduled=BEGAN,
            started=BEGAN,
            ended=BEGAN + timedelta(minutes=5) if ended else None,
            exit_code=code,
        )
        (place / f"{command}.json").write_text(last.model_dump_json())
    (place / "export.json").write_text(json.dumps({"command": "?"}))


def write_everything(artifacts: Path, now: datetime) -> None:
    """All of it."""
    write_bundles(artifacts)
    write_runs(artifacts)
    write_trainings(artifacts, now)
    write_data(artifacts)
    write_clicks(artifacts)
    write_schedule(artifacts)
