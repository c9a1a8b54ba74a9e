"""run.json, the lock, which run is gone on with, and what is left of old ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.live.deployment import bundle_path, publish
from tests.service.bundles import Shop
from tests.training.shop_clicks import config
from training.loop.run_record import (
    KEPT_RUNS,
    RunError,
    RunLockedError,
    RunPaths,
    RunRecord,
    Status,
    begin_or_resume,
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
    """Two in the same second, and a bundle that `train` has just made: three names."""
    first = begun(artifacts)
    stamp = datetime.strptime(first.id, "run-%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    taken = f"vmis_knn-{stamp + timedelta(seconds=1):%Y%m%dT%H%M%S}"
    bundle_path(artifacts, taken).mkdir(parents=True)
    second = begin_or_resume(artifacts, config(), new=True)
    assert len({first.version, second.version, taken}) == 3
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
    cold = config(train={"warm_start": False, "model": "gru4rec"})
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


def test_the_checkpoint_is_that_of_the_bundle(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    paths.checkpoints.mkdir()
    assert paths.checkpoint.name == "select.pt"
    (paths.checkpoints / "refit.pt").touch()
    assert paths.checkpoint.name == "refit.pt"
