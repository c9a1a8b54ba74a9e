"""A model that begins with another's weights is that other model, on the items they share."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from models.base import SessionEncoder
from service.live.deployment import bundle_path
from tests.training.planted import N_ITEMS, planted_dataset, planted_sessions, write_dataset
from tests.training.shop_clicks import Silent
from training.data.dataset import Dataset
from training.fit import FitOptions, fit
from training.learn import checkpoint
from training.learn.checkpoint import CheckpointError, RunConfig, load, load_trained
from training.learn.hyper import resolve
from training.learn.registry import find_model, model_names
from training.learn.train import train_phase
from training.learn.warm_start import ColdStart, WarmStart, probe, warm_start

NEW = ["item-new", *(f"item-{i}" for i in range(N_ITEMS, 3, -1)), "item-newer"]  # three are gone
SMALL: dict[str, tuple[str, ...]] = {
    "gru": ("dim=8",),
    "srgnn": ("dim=8",),
    "bert4rec": ("dim=8",),
    "niser": ("dim=8",),
}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return planted_dataset(tmp_path_factory.mktemp("old") / "data")


@pytest.fixture(scope="module")
def trained(old: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Artifacts with the bundle `v1` of one epoch of a model, and its checkpoint."""

    @cache
    def train(model: str) -> Path:
        artifacts = tmp_path_factory.mktemp(model)
        recipe, hyper = resolve(find_model(model), [*SMALL[model], "epochs=1"])
        options = FitOptions(recipe, hyper, 1, "32", 1, artifacts, checkpoints=artifacts, version="v1")
        fit(model, old, options, Silent(), "test")
        return artifacts

    return train


def start_of(model: str, artifacts: Path, *sets: str, items: list[str] = NEW) -> WarmStart:
    _, hyper = resolve(find_model(model), [*SMALL[model], *sets])
    return warm_start(artifacts, "v1", artifacts / "select.pt", model, hyper, items)


def new_model(model: str, n_items: int = len(NEW)) -> SessionEncoder:
    torch.manual_seed(9)
    _, hyper = resolve(find_model(model), SMALL[model])
    sessions = planted_sessions(20)
    return find_model(model).build(dataclasses.replace(sessions, n_items=n_items), **hyper).eval()


@pytest.mark.parametrize("model", SMALL)
def test_begins_as_the_old_model_on_known_items(
    model: str, old: Dataset, trained: Callable[[str], Path]
) -> None:
    before, _ = load_trained(trained(model) / "select.pt", old)
    fresh, warm = new_model(model), new_model(model)
    start = start_of(model, trained(model))
    start(warm)
    assert (start.fresh, start.new_items) == ((), 2)

    known = ["item-9", "item-4", "item-30", "item-9"]
    old_session = torch.tensor([[old.items.index(item_id) + 1 for item_id in known]])
    new_session = torch.tensor([[NEW.index(item_id) + 1 for item_id in known]])
    with torch.no_grad():
        assert torch.equal(warm(new_session), before(old_session))
        assert not torch.allclose(fresh(new_session), before(old_session), atol=1e-3)
    rows = [old.items.index(item_id) + 1 for item_id in NEW[1:-1]]
    assert torch.equal(warm.item_vectors()[2 : len(NEW)], before.item_vectors()[rows])
    for row in (1, len(NEW)):
        assert torch.equal(warm.item_vectors()[row], fresh.item_vectors()[row]), "a new item keeps its own"
    bias, old_bias = warm.item_bias(), before.item_bias()
    if bias is not None and old_bias is not None:
        assert torch.equal(bias[2 : len(NEW)], old_bias[rows])


def test_as_many_items_in_another_order_are_still_told_apart(
    old: Dataset, trained: Callable[[str], Path]
) -> None:
    """30 items and 30 items: the tables have the same shape, and no row may be taken as it stands."""
    start = start_of("gru", trained("gru"), items=old.items[::-1])
    warm = new_model("gru", N_ITEMS)
    start(warm)
    before, _ = load_trained(trained("gru") / "select.pt", old)
    assert torch.equal(warm.item_vectors()[1:], before.item_vectors()[1:].flip(0))


@pytest.mark.parametrize("model", model_names())
def test_the_item_tables_of_every_model_are_found(model: str) -> None:
    _, hyper = resolve(find_model(model), [])
    torch.manual_seed(1)
    expected = torch.get_rng_state()
    shapes, rows = probe(model, hyper)
    assert torch.equal(torch.get_rng_state(), expected), "the run's random numbers were drawn"
    assert rows["items.weight"] == "items"
    for name, kind in rows.items():
        assert (kind == "items") == (name in ("items.weight", "inputs.weight", "clicks.weight", "bias")), name
        assert kind != "items" or shapes[name][0] == 4 + (model == "bert4rec" and name == "items.weight")
    assert [name for name, kind in rows.items() if kind == "sessions"] == (
        ["sessions.weight"] if find_model(model).batching == "interactions" else []
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model", "v1 is of the model gru, not srgnn"),
        ("hyper", "v1 has another dim"),
        ("gone", r"there is no checkpoint of v1: .*select\.pt is missing"),
        ("data", r"select\.pt is of other clicks than v1"),
    ],
)
def test_what_cannot_be_begun_with(
    trained: Callable[[str], Path], tmp_path: Path, change: str, message: str
) -> None:
    artifacts = shutil.copytree(trained("gru"), tmp_path / "artifacts")
    file = artifacts / "select.pt"
    if change == "gone":
        file.unlink()
    if change == "data":
        saved = checkpoint.load(file)
        saved["identity"]["data_fingerprint"] = "of yesterday"
        checkpoint.save(file, saved)
    with pytest.raises(ColdStart, match=message):
        start_of("srgnn" if change == "model" else "gru", artifacts, f"dim={16 if change == 'hyper' else 8}")


def test_training_begins_there_and_the_checkpoint_says_so(
    old: Dataset, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "new", planted_sessions(60), planted_sessions(10, seed=1), 10)
    start = start_of("gru", trained("gru"), items=data.items)
    recipe, hyper = resolve(find_model("gru"), [*SMALL["gru"], "epochs=1", "lr=1e-12"])
    options = FitOptions(
        recipe,
        hyper,
        2,
        "32",
        1,
        tmp_path,
        refit=True,
        checkpoints=tmp_path / "warm",
        version="v2",
        start=start,
    )
    fit("gru", data, options, Silent(), "test")
    before, _ = load_trained(trained("gru") / "select.pt", old)
    for phase in ("select", "refit"):
        after, config = load_trained(tmp_path / "warm" / f"{phase}.pt", data)
        assert config.started_from == "v1"
        torch.testing.assert_close(after.item_vectors(), before.item_vectors(), rtol=0, atol=1e-6)
    assert bundle_path(tmp_path, "v2").is_dir()


def test_a_resumed_phase_keeps_what_it_learned(tmp_path: Path) -> None:
    """`initial` is for the beginning: applied again it would throw the finished epoch away."""
    recipe, hyper = resolve(find_model("gru"), ["dim=8", "epochs=2", "patience=9"])
    train = planted_sessions(60)
    calls = []

    def zero(model: SessionEncoder) -> None:
        calls.append(model)
        torch.nn.init.zeros_(next(model.parameters()))

    def phase() -> int:
        config = RunConfig("gru", "planted", 1, "32", 1, recipe, hyper, "v1")
        done = train_phase(
            config,
            find_model("gru"),
            train,
            None,
            phase="refit",
            file=tmp_path / "refit.pt",
            resume=True,
            on_progress=lambda progress: None,
            on_epoch=lambda record: None,
            initial=zero,
        )
        return len(done.history)

    assert (phase(), len(calls)) == (2, 1), "nothing to resume: it begins"
    assert (phase(), len(calls)) == (2, 1)


def test_the_rows_are_those_of_the_items(trained: Callable[[str], Path]) -> None:
    start = start_of("gru", trained("gru"))
    np.testing.assert_array_equal(start.row_of, [0, -1, *range(N_ITEMS, 3, -1), -1])


def test_a_checkpoint_of_a_model_that_is_another_now_is_refused(
    trained: Callable[[str], Path], old: Dataset, tmp_path: Path
) -> None:
    """As one of `gru4rec`, of when that was the GRU with cosines."""
    saved = load(trained("gru") / "select.pt")
    saved["identity"] |= {"model": "gru4rec", "hyper": {**saved["identity"]["hyper"], "head": "niser"}}
    torch.save(saved, tmp_path / "select.pt")
    with pytest.raises(CheckpointError, match="gru4rec has no head, scale any more"):
        load_trained(tmp_path / "select.pt", old)


def test_a_checkpoint_from_before_positions_were_reversed_is_what_it_was(
    trained: Callable[[str], Path], old: Dataset, tmp_path: Path
) -> None:
    """It has no name for how they are counted; and what is made anew does not begin with it."""
    artifacts = shutil.copytree(trained("niser"), tmp_path / "artifacts")
    clicks = torch.tensor([[3, 1, 3, 7]])
    reversed_, _ = load_trained(artifacts / "select.pt", old)
    saved = load(artifacts / "select.pt")
    del saved["identity"]["hyper"]["positions"]
    checkpoint.save(artifacts / "select.pt", saved)
    forward, _ = load_trained(artifacts / "select.pt", old)
    assert not torch.allclose(forward(clicks), reversed_(clicks))
    _, hyper = resolve(find_model("niser"), [*SMALL["niser"], "positions=forward"])
    expected = find_model("niser").build(old.train, **hyper).eval()
    expected.load_state_dict(reversed_.state_dict())
    torch.testing.assert_close(forward(clicks), expected(clicks))
    with pytest.raises(ColdStart, match="v1 has another positions"):
        start_of("niser", artifacts)
    start_of("niser", artifacts, "positions=forward")
