"""`python -m training run`, as cron starts it: from a click log in Redis to a live bundle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest
from redis import Redis
from typer.testing import CliRunner, Result

from service.catalogue.attributes import Values
from service.live.artifacts import Artifacts
from service.live.deployment import bring_live_here, read_deployment
from service.live.object_store import ObjectStore
from service.process.settings import Settings
from service.state.items import ItemStore
from service.state.keys import Keys
from tests.object_stores import s3
from tests.training.interrupts import heed_interrupts
from tests.training.shop_clicks import DAYS, Files, read_clicks, write_shop
from tests.waiting import DEADLINE_SECONDS, until
from training.__main__ import app
from training.loop.click_source import CollectedClicks
from training.loop.run_record import read_record, run_lock

keys = Keys()

SMALL = """
[prepare]
min_sessions = 100
min_item_support = 2
[gate]
max_answer_ms = 10000
[train]
threads = 1
"""

# Runs the command line that it is given, and sends itself a signal when a function is called.
SIGNALLED = """
import os, sys
import training.loop.run  # before calls are looked at
from training.__main__ import app

name, number = sys.argv[1], int(sys.argv[2])
del sys.argv[1:3]

def look(frame, event, _):
    if frame.f_code.co_name == name:
        sys.settrace(None)
        os.kill(os.getpid(), number)

sys.settrace(look)
app()
"""


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_shop(tmp_path_factory.mktemp("shop") / "clicks", sessions=1200)


@pytest.fixture
def logged(clicks: Files, redis_url: str, redis_client: Redis, monkeypatch: pytest.MonkeyPatch) -> Redis:
    """A Redis with the shop's clicks in its log, in one shard."""
    monkeypatch.setenv("NEXTCLICK_REDIS_URL", redis_url)
    redis_client.set(keys.shards, 1)
    table = read_clicks(clicks.files(DAYS + 2))
    with redis_client.pipeline(transaction=False) as pipeline:
        for seq, row in enumerate(table.to_pylist(), start=1):
            _log(pipeline, seq, row["session_id"], row["item_id"], row["timestamp"])
        pipeline.execute()
    return redis_client


def _log(client: Redis, seq: int, session: str, item: str, timestamp: float) -> None:
    client.xadd(
        keys.click_log(0),
        {"seq": seq, "session": session, "item": item, "ts": timestamp, "type": "click", "event": ""},
    )


def run(artifacts: Path, config: str, *arguments: str) -> Result:
    file = artifacts.parent / "retrain.toml"
    file.write_text(config)
    return CliRunner().invoke(app, ["run", "--config", str(file), "--artifacts", str(artifacts), *arguments])


def test_from_the_log_to_a_live_bundle(artifacts: Path, logged: Redis) -> None:
    done = run(artifacts, SMALL + 'model = "vmis_knn"\n', "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert read_deployment(artifacts).champion == record["version"]
    assert record["steps"]["collect"]["outcome"]["clicks"] > 3000
    assert record["steps"]["collect"]["outcome"]["gaps"] == []
    assert record["steps"]["publish"]["outcome"]["role"] == "champion"

    _log(logged, 10**6, "s", "i", 1.0)
    again = run(artifacts, SMALL + 'model = "vmis_knn"\n', "--json")
    record = json.loads(again.stdout)
    (gap,) = record["steps"]["collect"]["outcome"]["gaps"]
    assert (record["status"], gap["next_seq"]) == ("published", 10**6), "what is there is learned from"
    assert again.exit_code == 1
    assert f"{10**6 - 1 - gap['after_seq']} entries of the click log are missing" in again.stderr


def test_a_refusal_is_exit_code_1_and_names_the_check(artifacts: Path, logged: Redis) -> None:
    config = SMALL.replace("[train]", "min_item_coverage = 1\n[train]") + 'model = "vmis_knn"\n'
    refused = run(artifacts, config)
    assert refused.exit_code == 1
    assert "is refused: gate: item coverage: 0." in refused.output
    assert read_deployment(artifacts).champion is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[prepare]\ndays = 0", "retrain.toml: [prepare] days: "),
        ('[publish]\nas = "challenger"', "there is no champion yet"),
    ],
)
def test_wrong_settings_are_exit_code_2(artifacts: Path, config: str, message: str) -> None:
    refused = run(artifacts, config)
    assert (refused.exit_code, message in refused.output) == (2, True), refused.output
    assert not (artifacts / "runs").exists()


def test_a_second_run_is_exit_code_1(artifacts: Path) -> None:
    with run_lock(artifacts):
        refused = run(artifacts, SMALL)
    assert (refused.exit_code, "another run is under way" in refused.output) == (1, True)


def test_no_redis_is_exit_code_1_and_the_run_goes_on_later(
    artifacts: Path, logged: Redis, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SMALL + 'model = "vmis_knn"\n'
    monkeypatch.setenv("NEXTCLICK_REDIS_URL", f"unix://{tmp_path}/nothing.sock")
    failed = run(artifacts, config)
    assert (failed.exit_code, "nothing.sock" in failed.output) == (1, True), failed.output
    (file,) = artifacts.glob("runs/run-*/run.json")
    assert (read_record(file).status, list(read_record(file).steps)) == ("failed", ["collect"])
    monkeypatch.setenv("NEXTCLICK_REDIS_URL", redis_url)
    assert run(artifacts, config).exit_code == 0
    assert read_record(file).status == "published"


def checkpoint(artifacts: Path) -> list[int]:
    """When the run's checkpoint was written; empty when there is none yet."""
    return [file.stat().st_mtime_ns for file in artifacts.glob("runs/run-*/checkpoints/select.pt")]


def has_trained(process: subprocess.Popen[bytes], artifacts: Path, before: list[int]) -> bool:
    """Whether it has written another checkpoint than `before`."""
    assert process.poll() is None, "it ended by itself"
    return checkpoint(artifacts) not in ([], before)


def test_signals_leave_a_run_that_goes_on(artifacts: Path, logged: Redis, tmp_path: Path) -> None:
    long = SMALL + 'model = "gru"\nset = ["dim=8", "batch_size=64", "epochs=5000", "patience=5000"]\n'
    (tmp_path / "retrain.toml").write_text(long)
    words = [sys.executable, "-m", "training", "run", "--config", str(tmp_path / "retrain.toml")]
    records = []
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        before = checkpoint(artifacts)
        process = subprocess.Popen(
            [*words, "--artifacts", str(artifacts)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
            preexec_fn=heed_interrupts,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            until(partial(has_trained, process, artifacts, before))
            process.send_signal(number)
            assert process.wait(DEADLINE_SECONDS) == code
        finally:
            process.kill()
            process.wait()
        (record,) = artifacts.glob("runs/run-*/run.json")
        records.append(read_record(record))
    first, second = records
    assert (first.status, second.status, second.id) == ("running", "running", first.id)
    assert second.steps["prepare"] == first.steps["prepare"]
    assert read_deployment(artifacts).champion is None


def test_a_run_that_is_stopped_in_the_gate_publishes_nothing_and_goes_on(
    artifacts: Path, logged: Redis
) -> None:
    """In the middle, and when all is judged and not told: what is live stays live."""
    config = SMALL + 'model = "vmis_knn"\n'
    live = json.loads(run(artifacts, config, "--json").stdout)["version"]
    before = read_deployment(artifacts)
    words = ["run", "--config", str(artifacts.parent / "retrain.toml"), "--artifacts", str(artifacts)]
    records = []
    for name, number, code, *options in (
        ("paired_difference", signal.SIGTERM, 143, "--new"),
        ("verdict", signal.SIGINT, 130),
        ("verdict", signal.SIGKILL, -9),
    ):
        stopped = subprocess.run(
            [sys.executable, "-c", SIGNALLED, name, str(int(number)), *words, *options],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
            preexec_fn=heed_interrupts,
            capture_output=True,
            check=False,
        )
        assert stopped.returncode == code, stopped.stderr
        record = read_record(max(artifacts.glob("runs/run-*/run.json")))
        assert (record.status, record.steps["gate"].status) == ("running", "running")
        assert "publish" not in record.steps
        assert (read_deployment(artifacts), before.champion) == (before, live)
        records.append(record)
    assert {each.id for each in records} == {record.id}
    assert not list(artifacts.glob("bundles/.*")), "nothing half-written"

    gone_on = run(artifacts, config, "--json")
    told = json.loads(gone_on.stdout)
    assert (told["id"], told["status"], gone_on.exit_code) == (record.id, "published", 0)
    assert told["steps"]["evaluate"] == json.loads(records[0].model_dump_json())["steps"]["evaluate"]
    after = read_deployment(artifacts)
    assert (after.champion, after.previous) == (record.version, live)


def test_a_run_learns_from_what_another_engine_wrote(artifacts: Path, clicks: Files) -> None:
    """No Redis, and nothing collected; the clicks after the run began are not for it."""
    data = f'[data]\nclicks = "{clicks.directory / "days"}"\ncollected = false\n'
    for number, file in enumerate(clicks.files(DAYS + 2)):
        place = clicks.directory / "days" / f"day={number}" / "part-0.parquet"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    done = run(artifacts, data + SMALL + 'model = "vmis_knn"\ncontent = false\n', "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert read_deployment(artifacts).champion == record["version"]
    told = record["steps"]["collect"]["outcome"]["partitioned"]
    table = read_clicks(clicks.files(DAYS + 2))
    assert (told["files"], told["rows"]) == (len(clicks.files(DAYS + 2)), len(table))
    last = max(table["timestamp"].to_pylist())
    assert datetime.fromisoformat(told["last"]).timestamp() == pytest.approx(last)


def test_attributes_are_those_of_the_live_catalogue(artifacts: Path, redis_url: str) -> None:
    settings = Settings(artifacts_dir=artifacts, redis_url=redis_url, redis_timeout_seconds=10.0)
    source = CollectedClicks(settings)
    assert source.attributes() is None
    items: list[tuple[str, Values]] = [(f"i{number}", {"price": float(number)}) for number in range(1500)]

    async def put() -> None:
        store = ItemStore(settings, redis_url)
        for start in range(0, len(items), 1000):
            await store.put(items[start : start + 1000])
        await store.delete(["i7"])
        await store.close()

    asyncio.run(put())
    found = source.attributes()
    assert found is not None
    assert dict(found.items) == {item_id: values for item_id, values in items if item_id != "i7"}
    assert found.kinds["price"] == "number"


def test_a_run_writes_into_the_store(artifacts: Path, logged: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clicks, bundle and what is live; a machine that has nothing gets all of it from there."""
    with s3() as server:
        server.make_bucket("shop")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("NEXTCLICK_ARTIFACTS_URL", "s3://shop/a")
        done = run(artifacts, SMALL + 'model = "vmis_knn"\n', "--json")
        assert done.exit_code == 0, done.output
        version = json.loads(done.stdout)["version"]
        elsewhere = Artifacts(artifacts.parent / "elsewhere", "s3://shop/a")
        assert read_deployment(elsewhere).champion == version
        bring_live_here(elsewhere)
        assert read_deployment(elsewhere.directory).champion == version
        assert ObjectStore("s3://shop/a").read("clicks/commit.json") is not None
