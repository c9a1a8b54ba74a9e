"""The demo store: the same every time, shaped like a shop, and worth a model."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import csv
from typer.testing import CliRunner

from models.sessions import Sessions
from service.catalogue.attributes import Item, Schema
from service.ranking.item_ids import item_id_problem
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
    attributes = {"title", "categories", "brand", "tags", "price", "currency", "available", "image_url"}
    assert all(row.values.keys() == attributes for row in rows if isinstance(row, Item))
    assert 0.9 < pc.mean(items["available"]).as_py() < 1
    ids = items["item_id"].to_pylist()
    assert len(set(ids)) == len(ids)
    assert not any(map(item_id_problem, ids))
    assert set(clicks["item_id"].to_pylist()) <= set(ids)
    assert pc.min(items["price"]).as_py() > 0


def test_every_item_has_a_small_picture_of_its_category_in_the_colours_of_its_brand(store: Path) -> None:
    items = csv.read_csv(store / "items.csv").to_pylist()
    assert max(len(item["image_url"]) for item in items) < 3000
    drawn: dict[str, set[str]] = {}
    for item in items:
        kind, _, encoded = item["image_url"].partition(",")
        assert kind == "data:image/svg+xml"
        assert not re.search(r"[\s\"'<>#]", encoded), "it stands in any attribute, and in a URL"
        (svg, *_) = elements = list(ElementTree.fromstring(unquote(encoded)).iter())
        assert {each.tag.partition("}")[0] for each in elements} == {"{http://www.w3.org/2000/svg"}
        assert svg.attrib == {"viewBox": "0 0 100 100"}
        shapes = "".join(each.get("d", each.tag) for each in elements)
        drawn.setdefault(item["categories"], set()).add(shapes)
    assert [len(shapes) for shapes in drawn.values()] == [1] * 24
    assert len(set.union(*drawn.values())) == 24
    same_brand_and_line = {(item["categories"], item["brand"], item["tags"]) for item in items}
    pictures = {item["image_url"] for item in items}
    assert len(same_brand_and_line) <= len(pictures) <= 2 * len(same_brand_and_line), "some are mirrored"


def test_what_is_compared_is_alike(store: Path, clicks: pa.Table) -> None:
    """Two clicks in a row on one shelf are of one line, and of one brand, more often than chance has it."""
    items = csv.read_csv(store / "items.csv")
    at = {item_id: row for row, item_id in enumerate(items["item_id"].to_pylist())}
    order = clicks.sort_by([("session_id", "ascending"), ("timestamp", "ascending")])
    rows = np.array([at[item_id] for item_id in order["item_id"].to_pylist()])
    sessions = order["session_id"].to_numpy(zero_copy_only=False)
    category, brand, line = (
        items[name].to_numpy(zero_copy_only=False) for name in ("categories", "brand", "tags")
    )
    before, after = rows[:-1], rows[1:]
    pair = (sessions[:-1] == sessions[1:]) & (before != after) & (category[before] == category[after])
    assert (line[before] == line[after])[pair].mean() > 2 / 10
    assert (brand[before] == brand[after])[pair].mean() > 1.5 / 8


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
