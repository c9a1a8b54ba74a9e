"""The demo store: the same every time, shaped like a shop, and worth a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import csv
from typer.testing import CliRunner

from models.base import Sessions
from service.catalogue.attributes import Item, Schema
from service.ranking.bundle import item_id_problem
from training.__main__ import app
from training.data.dataset import Dataset
from training.data.demo_store import write_demo_store
from training.data.items import read_items

DAY = 86_400_000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("store")
    write_demo_store(directory / "clicks.csv", sessions=20_000, days=10, seed=7)
    return directory


@pytest.fixture(scope="module")
def clicks(store: Path) -> pa.Table:
    return csv.read_csv(store / "clicks.csv")


def test_the_same_seed_gives_the_same_store(store: Path, tmp_path: Path) -> None:
    write_demo_store(tmp_path / "same" / "clicks.csv", sessions=20_000, days=10, seed=7)
    write_demo_store(tmp_path / "other" / "clicks.csv", sessions=20_000, days=10, seed=8)
    for name in ("clicks.csv", "items.csv"):
        assert (tmp_path / "same" / name).read_bytes() == (store / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (store / name).read_bytes()


def test_the_catalogue_describes_every_item(store: Path, clicks: pa.Table) -> None:
    items, unknown = csv.read_csv(store / "items.csv"), list[str]()
    rows = list(read_items(store / "items.csv", Schema(), on_unknown=unknown.extend))
    assert unknown == []
    assert all(isinstance(row, Item) for row in rows), "each can be imported as it is"
    attributes = {"title", "categories", "brand", "price", "currency", "available"}
    assert all(row.values.keys() == attributes for row in rows if isinstance(row, Item))
    assert 0.9 < pc.mean(items["available"]).as_py() < 1
    ids = items["item_id"].to_pylist()
    assert len(set(ids)) == len(ids)
    assert not any(map(item_id_problem, ids))
    assert set(clicks["item_id"].to_pylist()) <= set(ids)
    assert pc.min(items["price"]).as_py() > 0


def test_the_log_is_in_time_order_with_pauses_below_half_an_hour(clicks: pa.Table) -> None:
    times = clicks["timestamp"].to_numpy()
    assert (np.diff(times) >= 0).all()
    assert len(clicks["session_id"].unique()) == 20_000
    order = clicks.append_column("row", pa.array(range(len(clicks)))).sort_by(
        [("session_id", "ascending"), ("row", "ascending")]
    )
    sessions = order["session_id"].to_numpy(zero_copy_only=False)
    pauses = np.diff(order["timestamp"].to_numpy())[sessions[1:] == sessions[:-1]]
    assert pauses.min() > 0
    assert pauses.max() < 30 * 60_000


def test_some_items_appear_late_and_popularity_drifts(clicks: pa.Table) -> None:
    day = (clicks["timestamp"].to_numpy() - clicks["timestamp"][0].as_py()) // DAY
    ids = clicks["item_id"].to_numpy(zero_copy_only=False)
    first_week, last_day = set(ids[day < 7]), set(ids[day == 9])
    assert len(last_day - first_week) > 20
    assert top(ids[day == 0]) != top(ids[day == 9])


def top(ids: npt.NDArray[np.object_]) -> list[str]:
    names, counts = np.unique(ids, return_counts=True)
    return list(names[np.argsort(-counts)[:50]])


def test_the_click_before_tells_far_more_than_popularity(store: Path, tmp_path: Path) -> None:
    """What followed an item most often in training, against the 20 most popular items: Recall@20."""
    result = CliRunner().invoke(
        app, ["prepare", "--input", str(store / "clicks.csv"), "--output", str(tmp_path / "data")]
    )
    assert result.exit_code == 0, result.stderr
    dataset = Dataset.load(tmp_path / "data")
    follows = np.zeros((dataset.info.n_items + 1, dataset.info.n_items + 1), np.float32)
    np.add.at(follows, transitions(dataset.train_all), 1)
    last, target = transitions(dataset.test)
    neighbours = np.argpartition(-follows, 20, axis=1)[:, :20]
    recall = (neighbours[last] == target[:, None]).any(axis=1).mean()
    popularity = (target <= 20).mean()
    assert 0.05 < popularity < 0.2
    assert recall > 0.5


def transitions(sessions: Sessions) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    inside = np.ones(len(sessions.items), bool)
    inside[sessions.offsets[1:] - 1] = False
    (at,) = np.nonzero(inside)
    return sessions.items[at], sessions.items[at + 1]


def test_the_command_writes_both_files(tmp_path: Path) -> None:
    arguments = [
        "demo-store",
        "--output",
        str(tmp_path / "demo" / "clicks.csv"),
        "--sessions",
        "100",
        "--days",
        "3",
    ]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0
    assert '"sessions": 100' in result.stdout
    assert {file.name for file in (tmp_path / "demo").iterdir()} == {"clicks.csv", "items.csv"}
