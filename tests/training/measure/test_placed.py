"""Metrics under a placement, against rankings of all items, case by case."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from models.sessions import Sessions
from service.catalogue.attributes import KNOWN
from service.catalogue.filters import Filters
from service.catalogue.placements import Placement, prepare
from service.live.deployment import set_placement
from service.ranking.bundle import Bundle
from tests.service.bundles import Shop
from tests.training.planted import N_ITEMS, planted_sessions, write_dataset
from training.__main__ import app
from training.data.dataset import Dataset
from training.measure.evaluate import evaluate
from training.measure.metrics import MISSED, ranking_metrics
from training.measure.placed import evaluate_placed

CHEAP = {"attribute": "price", "lt": N_ITEMS / 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Test sessions with items that the bundle does not know (0) as first click, in the middle, as target."""
    plain = [[3, 4, 3, 6], [0, 7, 8], [0, 0, 9], [5, 0, 5, 6, 0], [1, 2], [9, 2, 7, 4, 11]]
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in plain])])
    test = Sessions(np.array([i for s in plain for i in s], dtype=np.int32), offsets, N_ITEMS)
    return write_dataset(tmp_path_factory.mktemp("data") / "d", planted_sessions(80), test, n_validation=8)


@pytest.fixture(scope="module")
def shop(data: Dataset) -> Shop:
    """The items of the data set, in another order."""
    vectors = Shop.make(len(data.items), seed=4).vectors
    return Shop(tuple(data.items[::-1]), vectors)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory, shop: Shop) -> Path:
    artifacts = tmp_path_factory.mktemp("artifacts")
    shop.write(artifacts, "v1")
    return artifacts


@pytest.fixture(scope="module")
def bundle(artifacts: Path) -> Bundle:
    return Bundle.load(artifacts / "bundles" / "v1")


def price_of(data: Dataset) -> dict[str, float]:
    return {item_id: float(number) for number, item_id in enumerate(data.items)}


def measured(bundle: Bundle, data: Dataset, **placement: object) -> tuple[dict[str, float], list[int]]:
    filters = Filters(KNOWN)
    filters.apply([(item_id, {"price": price}) for item_id, price in price_of(data).items()])
    prepared = prepare("home", Placement.model_validate(placement), KNOWN)
    found = evaluate_placed(bundle, data, data.test, filters, prepared)
    return found.metrics, found.ranks.tolist()


def test_a_placement_that_says_nothing_measures_what_evaluate_does(bundle: Bundle, data: Dataset) -> None:
    metrics, ranks = measured(bundle, data)
    plain = evaluate(bundle, data, data.test)
    assert ranks == np.where(plain.ranks > 20, MISSED, plain.ranks).tolist()
    names = metrics.keys()
    assert metrics == pytest.approx({name: plain.unmasked[name] for name in names})


def test_a_filter_boosts_pins_and_seen_items(bundle: Bundle, data: Dataset, shop: Shop) -> None:
    price = price_of(data)
    pinned = data.items[3]
    metrics, ranks = measured(
        bundle,
        data,
        k=6,
        filter=CHEAP,
        boosts=[{"rule": {"attribute": "price", "lt": 4}, "factor": 0.0}],
        pins=[{"item_id": pinned, "position": 2}],
        exclude_seen=True,
    )
    expected = []
    names = ["", *data.items]
    for start, end in zip(data.test.offsets[:-1], data.test.offsets[1:], strict=True):
        session = [names[item] for item in data.test.items[start:end]]
        for length in range(1, len(session)):
            known = [item_id for item_id in session[:length] if item_id]
            nearest = shop.nearest(known, N_ITEMS) if known else list(shop.items)
            allowed = [each for each in nearest if price[each] < N_ITEMS / 2 and each not in known]
            ranked = [each for each in allowed if each != pinned]
            if known:  # what is only popular has no relevance, and a factor nothing to multiply
                ranked.sort(key=lambda each: price[each] < 4)
            if pinned in allowed:
                ranked.insert(1, pinned)
            answer, target = ranked[:6], session[length]
            expected.append(answer.index(target) + 1 if target in answer else MISSED)
    assert ranks == expected
    assert any(rank != MISSED for rank in ranks), "else this test would measure nothing"
    assert metrics == pytest.approx(ranking_metrics(np.array(expected)))


def test_the_command(artifacts: Path, data: Dataset, bundle: Bundle, tmp_path: Path) -> None:
    set_placement(artifacts, "home", Placement(k=6, filter=CHEAP), "admin")
    items = tmp_path / "items.csv"
    rows = [f"{item_id},{price}" for item_id, price in price_of(data).items()]
    items.write_text("\n".join(["item_id,price", *rows]) + "\n")
    arguments = [
        *("evaluate", "--bundle", str(artifacts / "bundles" / "v1"), "--data", str(data.path), "--json"),
        *("--artifacts", str(artifacts), "--items", str(items), "--threads", "1"),
    ]
    told = CliRunner().invoke(app, [*arguments, "--placement", "home"])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)["placement"]
    assert found["metrics"] == pytest.approx(measured(bundle, data, k=6, filter=CHEAP)[0])
    assert (found["name"], found["number"], found["catalogue_items"]) == ("home", 1, len(data.items))
    assert found["items_answered"] == 6
    unknown = CliRunner().invoke(app, [*arguments, "--placement", "cart"])
    assert (unknown.exit_code, "there is no placement cart" in unknown.output) == (2, True)
    alone = CliRunner().invoke(app, arguments)
    assert (alone.exit_code, "--items is for --placement" in alone.output) == (2, True)
    items.write_text("item_id,price\na,cheap\n")
    wrong = CliRunner().invoke(app, [*arguments, "--placement", "home"])
    assert (wrong.exit_code, "items.csv:2" in wrong.output) == (2, True), wrong.output


def test_the_catalogue_in_redis(artifacts: Path, data: Dataset, tmp_path: Path, redis_url: str) -> None:
    set_placement(artifacts, "home", Placement(k=6, filter=CHEAP), "admin")
    items = tmp_path / "items.csv"
    rows = [f"{item_id},{price}" for item_id, price in price_of(data).items()]
    items.write_text("\n".join(["item_id,price", *rows]) + "\n")
    shop = {"NEXTCLICK_REDIS_URL": redis_url, "NEXTCLICK_ARTIFACTS_DIR": str(artifacts)}
    stored = CliRunner().invoke(app, ["items", "import", str(items)], env=shop)
    assert stored.exit_code == 0, stored.output
    bundle = str(artifacts / "bundles" / "v1")
    arguments = ["evaluate", "--bundle", bundle, "--data", str(data.path), "--placement", "home", "--json"]
    from_redis = CliRunner().invoke(app, arguments, env=shop)
    from_file = CliRunner().invoke(app, [*arguments, "--items", str(items)], env=shop)
    assert from_redis.exit_code == 0, from_redis.output
    assert json.loads(from_redis.stdout) == json.loads(from_file.stdout)
