"""Several real, tiny bundles as one: it ranks by the weighted sum of their cosines."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from models.base import SessionEncoder
from service.live.deployment import publish
from service.ranking.bundle import Bundle, read_manifest
from service.ranking.ranker import NearestItems
from service.ranking.repeats import RepeatTable
from service.ranking.retriever import Items, Vectors
from tests.service.bundles import Shop, edit_manifest, normalised
from tests.service.serving import serving
from tests.training.planted import N_ITEMS, planted_dataset
from training.__main__ import app
from training.blending import blended
from training.bundling.blend import Blend, BlendError, best_weights, check_sum, is_new_to_validation
from training.bundling.export import ExportError, export_bundle, recent_sessions
from training.bundling.provenance import Provenance
from training.data.dataset import Dataset
from training.learn.hyper import resolve
from training.learn.registry import find_model

SETTINGS = {
    "gru": ["dim=8", "head=native"],
    "srgnn": ["dim=6"],
    "niser": ["dim=10", "max_length=4"],
}
LOOP = {"pen4rec": ["dim=6"]}  # its graph holds a loop, which reads what is outside of it


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, and bundles of untrained models of it, that have not seen its validation sessions."""
    path = tmp_path_factory.mktemp("place")
    data = planted_dataset(path / "data")
    for name, settings in (SETTINGS | LOOP).items():
        _, hyper = resolve(find_model(name), settings)
        torch.manual_seed(len(name))
        model: SessionEncoder = find_model(name).build(data.train, **hyper)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        export_bundle(
            model,
            data.items,
            recent_sessions(data.train),
            Provenance(name, 1, {"refit": False}, f"commit of {name}", data.info.fingerprint),
            path / "artifacts",
            f"{name}-v1",
            lambda bundle: {},
        )
    return path


def members(place: Path, *names: str) -> list[Bundle]:
    return [Bundle.load(place / f"artifacts/bundles/{name}-v1") for name in names or SETTINGS]


def data_of(place: Path) -> Dataset:
    return Dataset.load(place / "data")


SESSIONS = [[1], [2, 3], [5, 6, 5], [9, 1, 2, 7, 9, 30], list(range(1, 31)) * 3]


def cosines(bundle: Bundle, sessions: list[list[int]]) -> Vectors:
    """(B, n), by the member's own encoder and vectors."""
    vectors: Vectors = bundle.encoder.encode(sessions) @ bundle.retriever.vectors().T
    return vectors


def ranks_like(bundle: Bundle, expected: Vectors, sessions: list[list[int]]) -> None:
    assert isinstance(bundle.ranker, NearestItems)
    plain = replace(bundle.ranker, repeats=None)
    for row, (scores, items) in enumerate(plain.rank(sessions, [20] * len(sessions), [()] * len(sessions))):
        best = -np.sort(-expected[row])[:20]
        assert scores == pytest.approx(best, abs=2e-5)
        assert expected[row, items - 1] == pytest.approx(best, abs=2e-5)


@pytest.mark.parametrize("names", [("gru", "niser"), ("srgnn", "niser", "gru"), ("niser", "pen4rec")])
@pytest.mark.parametrize("weights", ["equal", "explicit"])
def test_it_ranks_by_the_weighted_sum(
    place: Path, tmp_path: Path, names: tuple[str, ...], weights: str
) -> None:
    bundles = members(place, *names)
    wanted = [1.0] * len(names) if weights == "equal" else [3.0, 1.0, 2.0][: len(names)]
    text = "equal" if weights == "equal" else ",".join(map(str, wanted))
    made = blended(bundles, data_of(place), tmp_path, weights=text)
    bundle = Bundle.load(made.bundle)
    shares = np.array(wanted) / sum(wanted)
    expected = sum(
        (share * cosines(each, SESSIONS) for share, each in zip(shares, bundles, strict=True)),
        np.zeros((len(SESSIONS), N_ITEMS), np.float32),
    )
    ranks_like(bundle, expected, SESSIONS)
    assert bundle.manifest.dim == sum(each.manifest.dim or 0 for each in bundles)
    assert bundle.manifest.max_length == 50 > min(each.manifest.max_length for each in bundles)
    assert np.linalg.norm(bundle.encoder.encode(SESSIONS), axis=1) == pytest.approx(1, abs=1e-5)


def test_padding_and_neighbours_in_a_batch_change_nothing(place: Path, tmp_path: Path) -> None:
    """Also where a member reads only four clicks."""
    encoder = Bundle.load(blended(members(place), data_of(place), tmp_path).bundle).encoder
    alone = np.concatenate([encoder.encode_padded(np.array([session[-50:]])) for session in SESSIONS])
    together = np.zeros((len(SESSIONS), 50), dtype=np.int64)
    for row, session in zip(together, SESSIONS, strict=True):
        row[: len(session[-50:])] = session[-50:]
    assert encoder.encode_padded(together) == pytest.approx(alone, abs=1e-5)
    one_click: Items = np.array([[1], [2], [3]], dtype=np.int64)
    by_itself = np.concatenate([encoder.encode_padded(one_click[i : i + 1]) for i in range(3)])
    assert encoder.encode_padded(one_click) == pytest.approx(by_itself, abs=1e-5)


def test_their_order_does_not_matter(place: Path, tmp_path: Path) -> None:
    """The same bytes."""
    names = list(SETTINGS)
    one = blended(members(place, *names), data_of(place), tmp_path / "a", weights="3,2,1")
    other = blended(members(place, *names[::-1]), data_of(place), tmp_path / "b", weights="1,2,3")
    assert one.weights == other.weights
    first, second = read_manifest(one.bundle), read_manifest(other.bundle)
    same = ["encoder.onnx", "encoder.onnx.data", "index.faiss", "items.txt"]
    assert [first.files[name] for name in same] == [second.files[name] for name in same]


def test_the_manifest_names_members_and_weights(place: Path, tmp_path: Path) -> None:
    made = blended(members(place, "niser", "gru"), data_of(place), tmp_path, weights="1,3")
    manifest = read_manifest(made.bundle)
    assert manifest.model == "blend"
    told = manifest.hyperparameters
    assert [told[f"member {number}"] for number in (1, 2)] == ["gru-v1", "niser-v1"]
    assert [told[f"member {number} weight"] for number in (1, 2)] == [0.75, 0.25]
    assert told["member 1 commit"] == "commit of gru"
    assert told["member 2 data"] == data_of(place).info.fingerprint
    assert told["refit"] is False
    assert set(manifest.metrics) == {"validation recall@20", "validation mrr@20"}


def test_a_blend_of_a_blend(place: Path, tmp_path: Path) -> None:
    inner = blended(members(place, "niser", "gru"), data_of(place), tmp_path, weights="equal")
    both = [Bundle.load(inner.bundle), *members(place, "srgnn")]
    bundle = Bundle.load(blended(both, data_of(place), tmp_path, weights="2,1").bundle)
    three = members(place, "niser", "gru", "srgnn")
    ranks_like(bundle, np.mean([cosines(each, SESSIONS) for each in three], axis=0), SESSIONS)


def test_fewer_dimensions(place: Path, tmp_path: Path) -> None:
    bundles = members(place, "niser", "gru")  # 10 and 8 + 2 dimensions
    made = blended(bundles, data_of(place), tmp_path, weights="equal", dim=12)
    bundle = Bundle.load(made.bundle)
    assert bundle.manifest.dim == 12
    joined = np.concatenate([each.retriever.vectors() for each in bundles[::-1]], axis=1) / np.sqrt(2)
    queries = np.concatenate([each.encoder.encode(SESSIONS) for each in bundles[::-1]], axis=1) / np.sqrt(2)
    _, _, directions = np.linalg.svd(joined.astype(np.float64), full_matrices=False)
    expected = normalised(queries @ directions[:12].T) @ normalised(joined @ directions[:12].T).T
    ranks_like(bundle, expected.astype(np.float32), SESSIONS)
    assert set(made.loses) == {
        *(f"{metric} {how} --dim" for metric in ("mrr@20", "recall@20") for how in ("with", "without")),
        "share of the 20 best that are the same",
    }
    assert 0 < made.loses["share of the 20 best that are the same"] <= 100


def shop_bundle(artifacts: Path, vectors: Vectors, version: str, **changes: object) -> Bundle:
    items = tuple(f"item-{item}" for item in range(1, N_ITEMS + 1))
    path = Shop(items, vectors).write(artifacts, version)
    edit_manifest(path, **changes)
    return Bundle.load(path)


def two_shops(place: Path, tmp_path: Path, **changes: object) -> list[Bundle]:
    """One whose vectors tell the next item, and one of noise."""
    angle = 2 * np.pi * np.arange(N_ITEMS) / N_ITEMS
    circle = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    noise = Shop.make(N_ITEMS, 16).vectors
    changes = {
        "data_fingerprint": data_of(place).info.fingerprint,
        "hyperparameters": {"refit": False},
    } | changes
    return [
        shop_bundle(tmp_path, circle, "circle", **changes),
        shop_bundle(tmp_path, noise, "noise", **changes),
    ]


def test_validation_chooses_the_weights(place: Path, tmp_path: Path) -> None:
    bundles = two_shops(place, tmp_path)
    made = blended(bundles, data_of(place), tmp_path)
    assert made.weights["circle"] > made.weights["noise"]
    equal = blended(bundles, data_of(place), tmp_path, weights="equal")
    assert made.validation["mrr@20"] > equal.validation["mrr@20"]


def test_equal_weights_win_ties(place: Path, tmp_path: Path) -> None:
    """Both members say the same."""
    vectors = Shop.make(N_ITEMS, 16).vectors
    same = [shop_bundle(tmp_path, vectors, "one"), shop_bundle(tmp_path, vectors, "two")]
    assert best_weights(same, data_of(place).validation) == [1.0, 1.0]


@pytest.mark.parametrize(
    "changes", [{"hyperparameters": {"refit": True}}, {"hyperparameters": {}}, {"data_fingerprint": "other"}]
)
def test_validation_does_not_choose_what_was_trained_on_it(
    place: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    """Nor does it fit a table for repeats: that is what the members' tables add up to."""
    bundles = two_shops(place, tmp_path, **changes)
    table = RepeatTable(by_distance=(0.4, 0.2), by_count=(0.0, 0.1, 0.3))
    edit_manifest(bundles[0].path, repeat=table.model_dump(exclude={"measured"}))
    bundles[0] = Bundle.load(bundles[0].path)
    told: list[str] = []
    made = blended(bundles, data_of(place), tmp_path, tell=told.append)
    assert made.weights == {"circle": 0.5, "noise": 0.5}
    assert any("circle and noise may have been trained on it" in line for line in told)
    repeat = read_manifest(made.bundle).repeat
    assert repeat is not None
    assert repeat.by_distance[:3] == (0.2, 0.1, 0.1)
    assert repeat.by_count[:4] == (0.0, 0.05, 0.15, 0.15)


def test_its_table_for_repeats_is_fitted_like_any_other(place: Path, tmp_path: Path) -> None:
    """In these sessions nothing comes again, and a mean of vectors does not know."""
    bundles, data = two_shops(place, tmp_path), data_of(place)
    made, without = blended(bundles, data, tmp_path), blended(bundles, data, tmp_path, repeats=False)
    repeat = read_manifest(made.bundle).repeat
    assert repeat is not None
    assert repeat.by_distance[0] < 0
    assert read_manifest(without.bundle).repeat is None
    assert made.validation["mrr@20"] > without.validation["mrr@20"] + 1


def test_what_cannot_be_blended(place: Path, tmp_path: Path) -> None:
    one, other = two_shops(place, tmp_path)
    items = tuple(f"item-{item}" for item in range(N_ITEMS, 0, -1))
    turned = Bundle.load(Shop(items, one.retriever.vectors()).write(tmp_path, "turned"))
    fewer = Bundle.load(Shop.make(20, 8).write(tmp_path, "fewer"))
    data = data_of(place)
    for bundles, weights, dim, message in (
        ([one], "auto", None, "two members at least"),
        ([one, one], "auto", None, "circle is named twice"),
        ([one, turned], "auto", None, r"turned and circle have .*the same items in another order"),
        ([one, fewer], "auto", None, r"fewer and circle have .*50 items are in one of them alone"),
        ([one, other], "1,2,3", None, "3 for 2 members"),
        ([one, other], "1,-1", None, "a number above 0"),
        ([one, other], "1,nan", None, "a number above 0"),
        ([one, other], "much", None, "neither auto nor equal"),
        ([one, other], "equal", 18, "have 18 dimensions"),
    ):
        with pytest.raises(BlendError, match=message):
            blended(bundles, data, tmp_path / "out", weights=weights, dim=dim)
    assert not list(tmp_path.glob("out/bundles/*"))


def test_a_graph_that_adds_up_otherwise_is_refused(place: Path, tmp_path: Path) -> None:
    bundles = members(place, "niser", "gru")
    bundle = Bundle.load(blended(bundles, data_of(place), tmp_path, weights="equal").bundle)
    sample = recent_sessions(data_of(place).train)
    check_sum(Blend.of(bundles, [1, 1]), bundle, sample)
    with pytest.raises(ExportError, match="vectors differ"):
        check_sum(Blend.of(bundles, [1, 2]), bundle, sample)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.anyio
async def test_the_command_and_the_service(place: Path, redis_url: str, tmp_path: Path) -> None:
    for name in ("niser", "srgnn"):
        shutil.copytree(place / f"artifacts/bundles/{name}-v1", tmp_path / f"bundles/{name}-v1")
    named = [
        word for name in ("niser", "srgnn") for word in ("--bundle", str(tmp_path / f"bundles/{name}-v1"))
    ]
    common = ["blend", *named, "--data", str(place / "data"), "--artifacts", str(tmp_path), "--threads", "1"]
    result = run(*common, "--test", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert set(told["weights"]) == {"niser-v1", "srgnn-v1"}
    path = tmp_path / "bundles" / told["bundle"]
    again = run("evaluate", "--bundle", str(path), "--data", str(place / "data"), "--threads", "1", "--json")
    assert json.loads(again.stdout)["metrics"] == pytest.approx(told["test"])
    publish(tmp_path, told["bundle"])
    bundle = Bundle.load(path)
    async with serving(tmp_path, redis_url) as service:
        await service.click("s", "item-3", "item-4", "item-3")
        answer = (await service.client.get("/recommend", params={"session_id": "s"})).json()
    assert answer["version"] == told["bundle"]
    assert answer["stage"] == "model"
    ((scores, items),) = bundle.ranker.rank([[3, 4, 3]], [20], [()])
    assert [item["item_id"] for item in answer["items"]] == [bundle.items[item] for item in items]
    assert [item["score"] for item in answer["items"]] == pytest.approx(scores.tolist(), abs=1e-5)
    refused = run(*common[:3], "--data", str(place / "data"), "--artifacts", str(tmp_path))
    assert (refused.exit_code, "two members" in refused.output) == (2, True)


def test_train_says_what_a_bundle_has_seen(place: Path, tmp_path: Path) -> None:
    quick = ["--set", "dim=8", "--set", "epochs=1", "--threads", "1", "--artifacts", str(tmp_path)]
    for refit in ([], ["--refit"]):
        result = run("train", "--data", str(place / "data"), "--model", "gru", *quick, *refit, "--json")
        bundle = Bundle.load(tmp_path / "bundles" / json.loads(result.stdout)["bundle"])
        assert is_new_to_validation(bundle) is not bool(refit)
