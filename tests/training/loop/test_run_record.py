"""run.json, the lock, which run is gone on with, and what is left of old ones."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import JsonValue
from typer.testing import CliRunner

from service.live.deployment import bundle_path, publish
from service.ranking.bundle import Bundle
from tests.service.bundles import Shop
from tests.training.shop_clicks import config
from training.__main__ import app
from training.loop.run_record import (
    KEPT_RUNS,
    RunError,
    RunLockedError,
    RunPaths,
    RunRecord,
    Status,
    StepRecord,
    anchors,
    begin_or_resume,
    held_out_from,
    newest_drift_days,
    paths_of_version,
    read_record,
    run_lock,
    run_paths,
    tidy,
)


def begun(artifacts: Path, status: Status = "running", *, hours_ago: float = 0) -> RunRecord:
    """A new run of the default config, as it was left."""
    new = begin_or_resume(artifacts, config(), new=True)
    started_at = new.started_at - timedelta(hours=hours_ago)
    record = new.model_copy(update={"status": status, "reason": "why", "started_at": started_at})
    written(artifacts, record)
    return record


def written(artifacts: Path, record: RunRecord) -> RunPaths:
    paths = run_paths(artifacts, record.id)
    paths.directory.mkdir(parents=True, exist_ok=True)
    paths.write(record)
    return paths


def test_a_new_run_has_a_name_of_its_own(artifacts: Path) -> None:
    """Two in the same second, and a bundle that `train` has just made, of any model: three names."""
    first = begun(artifacts)
    stamp = datetime.strptime(first.id, "run-%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    taken = f"niser-{stamp + timedelta(seconds=1):%Y%m%dT%H%M%S}"
    bundle_path(artifacts, taken).mkdir(parents=True)
    second = begin_or_resume(artifacts, config(), new=True)
    assert len({each.partition("-")[2] for each in (first.version, second.version, taken)}) == 3
    assert second.version == f"vmis_knn-{second.id.removeprefix('run-')}"
    assert paths_of_version(artifacts, first.version, "vmis_knn") == run_paths(artifacts, first.id)


@pytest.mark.parametrize("status", ["running", "failed"])
def test_an_unfinished_run_goes_on(artifacts: Path, status: Status) -> None:
    left = begun(artifacts, status, hours_ago=11.9)
    again = begin_or_resume(artifacts, config(), new=False)
    assert again == left.model_copy(update={"status": "running", "reason": None})


@pytest.mark.parametrize("status", ["published", "refused", "stopped"])
def test_a_finished_run_does_not(artifacts: Path, status: Status) -> None:
    left = begun(artifacts, status)
    assert begin_or_resume(artifacts, config(), new=False).id != left.id


def test_what_else_is_not_gone_on_with(artifacts: Path) -> None:
    left = begun(artifacts)
    assert begin_or_resume(artifacts, config(), new=True).id != left.id
    assert begin_or_resume(artifacts, config(publish={"keep": 9}), new=False).id != left.id
    finished = begun(artifacts, "published")
    newer = begin_or_resume(artifacts, config(), new=False)
    assert newer.id not in (left.id, finished.id), "its clicks are older than those of a finished run"


def test_a_run_of_yesterday_is_left(artifacts: Path) -> None:
    left = begun(artifacts, hours_ago=12.1)
    assert begin_or_resume(artifacts, config(), new=False).id != left.id


def test_an_unfinished_run_of_another_config_is_no_hindrance(artifacts: Path) -> None:
    left = begun(artifacts)
    other = begin_or_resume(artifacts, config(publish={"keep": 9}), new=False)
    written(artifacts, other)
    assert begin_or_resume(artifacts, config(), new=False).id == left.id


def test_what_it_starts_from_is_decided_when_it_begins(artifacts: Path) -> None:
    for version in ("v1", "v2"):
        Shop.make().write(artifacts, version)
    publish(artifacts, "v1")
    left = begun(artifacts)
    publish(artifacts, "v2")
    assert begin_or_resume(artifacts, config(), new=False).warm_start_from == left.warm_start_from == "v1"
    cold = config(train={"warm_start": False, "model": "gru"})
    assert begin_or_resume(artifacts, cold, new=True).warm_start_from is None


def test_a_damaged_record_is_named(artifacts: Path) -> None:
    file = run_paths(artifacts, begun(artifacts).id).record
    file.write_text("{")
    with pytest.raises(RunError, match=r"run\.json: .*move its directory away"):
        begin_or_resume(artifacts, config(), new=False)


def test_one_at_a_time(artifacts: Path) -> None:
    with (
        run_lock(artifacts),
        pytest.raises(RunLockedError, match=r"another run is under way.*\.run\.lock"),
        run_lock(artifacts),
    ):
        pass
    refused = pytest.raises(RunLockedError, match=r"another run is under way.*\.run\.lock")
    with run_lock(artifacts), refused, run_lock(artifacts):
        pass
    with run_lock(artifacts):
        assert (artifacts / ".run.lock").exists()


def test_old_runs_keep_their_records_and_deployed_versions_their_checkpoints(artifacts: Path) -> None:
    runs = []
    for version in ("v1", "v2", *(f"later-{number}" for number in range(KEPT_RUNS))):
        record = begun(artifacts, "published").model_copy(update={"version": version})
        runs.append(written(artifacts, record))
        for directory in (runs[-1].data, runs[-1].day, runs[-1].checkpoints):
            directory.mkdir()
        runs[-1].evaluation.touch()
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    tidy(artifacts)
    left = [sorted(path.name for path in each.directory.iterdir()) for each in runs]
    assert left[:2] == [["checkpoints", "run.json"], ["run.json"]]
    assert left[2:] == [["checkpoints", "data", "day", "evaluation.npz", "run.json"]] * KEPT_RUNS
    assert read_record(runs[1].record).version == "v2"


def published(artifacts: Path, version: str, days_ago: int, role: str = "champion") -> None:
    """A run that ended well, so many days ago."""
    record = begun(artifacts, "published", hours_ago=24 * days_ago)
    step = StepRecord(status="done", started_at=record.started_at, outcome={"role": role})
    written(artifacts, record.model_copy(update={"version": version, "steps": {"publish": step}}))


def test_nights_are_held_to_what_was_live_long_ago(artifacts: Path) -> None:
    assert anchors(artifacts, 30) == []
    begun(artifacts, "refused", hours_ago=24 * 200)
    published(artifacts, "trial", 100, role="challenger")
    for days_ago in range(75, -1, -1):
        published(artifacts, f"of-{days_ago}", days_ago)
    assert anchors(artifacts, 30) == ["of-45", "of-15"], "of 75, 45 and 15 days ago"
    assert anchors(artifacts, 60) == ["of-75", "of-15"]
    assert anchors(artifacts, 100) == ["of-75"], "of a younger loop, the first"


def test_prune_keeps_what_the_configured_gate_compares_with(artifacts: Path, tmp_path: Path) -> None:
    """As the newest run was configured, or as a file says."""
    assert newest_drift_days(artifacts) == 30, "there is no run"
    for days_ago in range(9, -1, -1):
        Shop.make().write(artifacts, f"of-{days_ago}")
        published(artifacts, f"of-{days_ago}", days_ago)
    publish(artifacts, "of-0")

    def pruned(*options: str) -> list[str]:
        words = ["prune", "--keep", "0", "--artifacts", str(artifacts), "--json", *options]
        return list(json.loads(CliRunner().invoke(app, words).stdout)["deleted"])

    newest = begin_or_resume(artifacts, config(gate={"drift_days": 2}), new=True)
    written(artifacts, newest)
    assert sorted(pruned()) == ["of-2", "of-4", "of-5", "of-6", "of-7", "of-8", "of-9"], "3 is, and 1 will be"
    file = tmp_path / "retrain.toml"
    file.write_text("[gate]\ndrift_days = 1\n")
    assert pruned("--config", str(file)) == ["of-3"], "of 1 day ago is what is compared with now"
    file.write_text("[gate]\ndrift_days = 0\n")
    refused = CliRunner().invoke(
        app, ["prune", "--keep", "0", "--artifacts", str(artifacts), "--config", str(file)]
    )
    assert (refused.exit_code, "drift_days" in refused.output) == (2, True)


def test_a_bundle_was_trained_on_nothing_that_its_run_held_out(artifacts: Path) -> None:
    Shop.make().write(artifacts, "v1")
    made = Bundle.load(bundle_path(artifacts, "v1")).manifest
    assert held_out_from(artifacts, "v1") == made.created_at, "no run is known to have made it"
    begin = made.created_at - timedelta(days=3)
    outcome: dict[str, JsonValue] = {
        "held_out": {"days": 2.0, "begin": begin.isoformat(), "end": "2026-01-01T00:00:00Z"}
    }
    step = StepRecord(status="done", started_at=begin, outcome=outcome)
    new = begin_or_resume(artifacts, config(), new=True)
    record = new.model_copy(update={"id": "run-v1", "steps": {"prepare": step}})
    written(artifacts, record)
    assert held_out_from(artifacts, "v1") == begin
    step = step.model_copy(update={"outcome": {"items": 3}})
    written(artifacts, record.model_copy(update={"steps": {"prepare": step}}))
    assert held_out_from(artifacts, "v1") == made.created_at, "the run did not tell yet what it held out"


def test_the_checkpoint_is_that_of_the_bundle(tmp_path: Path) -> None:
    """Of several models each has its own."""
    paths = RunPaths(tmp_path)
    paths.checkpoints.mkdir()
    assert paths.checkpoint_of("niser") == paths.checkpoints / "select.pt"
    (paths.checkpoints / "refit.pt").touch()
    assert paths.checkpoint_of("niser") == paths.checkpoints / "refit.pt"
    (paths.checkpoints / "niser").mkdir()
    assert paths.checkpoint_of("niser") == paths.checkpoints / "niser/select.pt"
    (paths.checkpoints / "niser/refit.pt").touch()
    assert paths.checkpoint_of("niser") == paths.checkpoints / "niser/refit.pt"
