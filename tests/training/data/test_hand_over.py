"""What another engine hands over, in files or an object store: the same data set as from the log."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pa_fs
import pytest
from pyarrow import csv, parquet
from typer.testing import CliRunner, Result

from training.__main__ import app
from training.data.demo_store import write_demo_store

DOCS = Path(__file__).parents[3] / "docs" / "hand-over.md"
JOB = """
import sys

log, target = sys.argv[1:]
builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
builder = builder.config("spark.sql.session.timeZone", "UTC").config("spark.sql.shuffle.partitions", "2")
spark = builder.config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS").getOrCreate()
clicks = read_clicks(spark, log).cache()
write_clicks(clicks, f"{target}/clicks")
write_sessions(sessions_of(clicks), f"{target}/sessions")
write_split(clicks, f"{target}/split")
spark.stop()
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = tmp_path_factory.mktemp("shop") / "clicks.csv"
    write_demo_store(log, sessions=1_000, days=4, seed=3)
    return log


@pytest.fixture(scope="module")
def expected(log: Path) -> dict[str, Any]:
    """What `prepare` makes of the log."""
    return prepared(log.parent / "data", "--input", str(log))


def prepare(output: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["prepare", "--output", str(output), "--force", "--json", *arguments])


def prepared(output: Path, *arguments: str) -> dict[str, Any]:
    done = prepare(output, *arguments)
    assert done.exit_code == 0, done.output
    info: dict[str, Any] = json.loads(done.stdout)
    return info


def clicks_of(log: Path) -> pa.Table:
    """With times as an engine has them."""
    clicks = csv.read_csv(log)
    times = pc.cast(clicks["timestamp"], pa.timestamp("ms", tz="UTC"))
    return clicks.set_column(2, "timestamp", times)


def sessions_of(log: Path) -> list[dict[str, Any]]:
    """A session a row, in the order of their last clicks."""
    sessions: dict[str, list[tuple[datetime, str]]] = {}
    for click in clicks_of(log).to_pylist():
        sessions.setdefault(click["session_id"], []).append((click["timestamp"], click["item_id"]))
    rows = []
    for name, clicks in sessions.items():
        times, items = zip(*sorted(clicks, key=lambda click: click[0]), strict=True)
        rows.append({"session_id": name, "item_ids": [*items], "timestamps": [*times]})
    return sorted(rows, key=lambda row: max(row["timestamps"]))


def write_rows(file: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows, schema), file)


@pytest.fixture(scope="module")
def bucket() -> Iterator[pa_fs.FileSystem]:
    """An S3 of moto's, which the environment tells of, with the bucket `lake`."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        filesystem = pa_fs.S3FileSystem(
            endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True
        )
        filesystem.create_dir("lake")
        yield filesystem
    server.stop()


def test_an_object_store_holds_the_same_log(
    log: Path, expected: dict[str, Any], bucket: pa_fs.FileSystem, tmp_path: Path
) -> None:
    """Partitioned as engines do it, with their marks, a column more, and a part without a row."""
    clicks = clicks_of(log).append_column("price", pa.array([1.5] * len(csv.read_csv(log))))
    day = pc.strftime(clicks["timestamp"], "%Y-%m-%d")
    for name in pc.unique(day).to_pylist():
        folder = f"lake/clicks/day={name}"
        parquet.write_table(clicks.filter(pc.equal(day, name)), f"{folder}/part-0.parquet", filesystem=bucket)
    parquet.write_table(clicks.slice(0, 0), "lake/clicks/day=2024-01-01/part-0.parquet", filesystem=bucket)
    for mark in ("_SUCCESS", "_temporary/0/part-9.parquet"):
        with bucket.open_output_stream(f"lake/clicks/{mark}") as stream:
            stream.write(b"no Parquet")
    info = prepared(tmp_path / "data", "--input", "s3://lake/clicks")
    assert info["files"] == expected["files"]
    assert {source["path"].rpartition("day=")[0] for source in info["source"]} == {"s3://lake/clicks/"}
    assert sum(source["kept"] for source in info["source"]) == len(clicks)


def test_what_is_wrong_in_an_object_store_is_named(
    log: Path, bucket: pa_fs.FileSystem, tmp_path: Path
) -> None:
    clicks = clicks_of(log)
    parquet.write_table(clicks.drop(["item_id"]), "lake/bare/part.parquet", filesystem=bucket)
    parquet.write_table(clicks, "lake/table/_delta_log/0.parquet", filesystem=bucket)
    with bucket.open_output_stream("lake/text/clicks.csv") as stream:
        stream.write(b"session_id,item_id,timestamp\n")
    rows = clicks.slice(0, 300).to_pylist()
    rows[7]["item_id"] = rows[9]["session_id"] = None
    table = pa.Table.from_pylist(rows, clicks.schema)
    parquet.write_table(table, "lake/nulls/part.parquet", filesystem=bucket)
    for place, told in [
        ("s3://lake/bare", "s3://lake/bare/part.parquet: there is no column 'item_id'"),
        ("s3://lake/table", "is the directory of a Delta table"),
        ("s3://lake/text", "s3://lake/text/clicks.csv: cannot be read"),
        ("s3://lake/none", "s3://lake/none: there is no object that holds anything"),
        ("s3://gone/x", "s3://gone/x: "),
        ("ftp://lake/x", "ftp://lake/x: what is read is s3://"),
        ("s3:/lake/x", "s3:/lake/x: what is read is s3://"),
    ]:
        refused = prepare(tmp_path / "data", "--input", place)
        assert (refused.exit_code, told in refused.stderr) == (2, True), refused.stderr
    few = ("--min-item-support", "1", "--test-days", "0.1")
    prepared(tmp_path / "data", "--input", "s3://lake/nulls", *few)
    listed = (tmp_path / "data" / "rejected.csv").read_text().splitlines()[1:]
    assert [line.split(",")[:3] for line in listed] == [
        ["s3://lake/nulls/part.parquet", "8", "missing_item"],
        ["s3://lake/nulls/part.parquet", "10", "missing_session"],
    ]


def test_sessions_are_taken_as_they_are(log: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    """With times, they are filtered and split as clicks are; without, they come split."""
    rows = sessions_of(log)
    for part in (0, 1):
        write_rows(tmp_path / "sessions" / f"part-{part}.parquet", rows[part * 500 : (part + 1) * 500])
    info = prepared(tmp_path / "data", "--input", str(tmp_path / "sessions"))
    assert info["files"] == expected["files"]
    assert info["counts"]["read_clicks"] == expected["counts"]["read_clicks"]

    for row in rows:
        del row["timestamps"]
    write_rows(tmp_path / "train.parquet", rows[:800])
    write_rows(tmp_path / "test.parquet", rows[800:])
    split = ("--input", str(tmp_path / "train.parquet"), "--test", str(tmp_path / "test.parquet"))
    info = prepared(tmp_path / "split", *split)
    assert (info["counts"]["train_sessions"], info["counts"]["test_sessions"]) == (800, 200)
    lines = [" ".join(row["item_ids"]) for row in rows]
    (tmp_path / "train.txt").write_text("\n".join(lines[:800]))
    (tmp_path / "test.txt").write_text("\n".join(lines[800:]))
    text = (
        "--format",
        "sessions",
        "--input",
        str(tmp_path / "train.txt"),
        "--test",
        str(tmp_path / "test.txt"),
    )
    assert info["files"] == prepared(tmp_path / "text", *text)["files"]
    refused = prepare(tmp_path / "data", "--input", str(tmp_path / "train.parquet"))
    assert (refused.exit_code, "give the test sessions as --test" in refused.stderr) == (2, True)


def test_what_is_wrong_with_sessions_is_named(log: Path, tmp_path: Path) -> None:
    file, rows = tmp_path / "sessions.parquet", sessions_of(log)
    rows[3]["item_ids"] = None
    rows[5]["item_ids"] = []
    rows[7]["timestamps"] = rows[7]["timestamps"][1:]
    rows[9]["item_ids"][1] = None
    write_rows(file, rows)
    info = prepared(tmp_path / "data", "--input", str(file))
    listed = (tmp_path / "data" / "rejected.csv").read_text().splitlines()[1:]
    assert [line.split(",")[:3] for line in listed] == [
        [str(file), "4", "no_events"],
        [str(file), "6", "no_events"],
        [str(file), "8", "malformed_row"],
        [str(file), "10", "missing_item"],
    ]
    assert info["source"][0]["lines"] == len(rows)
    for column, values, told in [
        ("item_ids", [[1.5, 2.5]], "must be a list of text or whole numbers"),
        ("item_ids", ["a b"], "must be a list of text or whole numbers"),
        ("timestamps", [["2026-01-01"]], "must be a list of timestamps or numbers"),
        ("session_id", [0.5], "must be text or whole numbers"),
    ]:
        columns = {
            "session_id": ["s"],
            "item_ids": [["a"]],
            "timestamps": [[datetime.now(UTC)]],
            column: values,
        }
        parquet.write_table(pa.table(columns), file)
        refused = prepare(tmp_path / "data", "--format", "sessions", "--input", str(file))
        assert f"{file}: the column {column!r} is " in refused.stderr
        assert (refused.exit_code, told in refused.stderr) == (2, True), refused.stderr


@pytest.mark.skipif(find_spec("pyspark") is None, reason="pyspark is not installed: pip install -e .[spark]")
@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs a JRE")
def test_spark_hands_over_the_same_data_set(log: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    """The code is that of docs/hand-over.md."""
    [code] = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.S | re.M)
    (tmp_path / "job.py").write_text(code + JOB)
    words = [sys.executable, str(tmp_path / "job.py"), str(log), str(tmp_path)]
    alone = {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
    done = subprocess.run(words, env=os.environ | alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    split = ("--input", str(tmp_path / "split/train"), "--test", str(tmp_path / "split/test"))
    ways = {
        "clicks": prepared(tmp_path / "data", "--input", str(tmp_path / "clicks")),
        "sessions": prepared(tmp_path / "data", "--input", str(tmp_path / "sessions")),
        "split": prepared(tmp_path / "data", *split),
    }
    assert {way: info["files"] == expected["files"] for way, info in ways.items()} == dict.fromkeys(
        ways, True
    )
