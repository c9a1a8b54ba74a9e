"""Popularity bias: figures against an item table of known lengths, and a picture that stays the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from models.base import SessionEncoder
from models.niser import NISER
from models.srgnn import SRGNN
from service.ranking.bundle import Bundle
from tests.training.planted import N_ITEMS, planted_dataset
from training.__main__ import app
from training.bundling.export import export_bundle
from training.bundling.provenance import Provenance
from training.data.dataset import Dataset
from training.report.popularity import Bias, measure


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, and bundles of an SR-GNN and a NISER+ whose items are longer the more they are clicked."""
    path = tmp_path_factory.mktemp("popularity")
    data = planted_dataset(path / "data")
    clicks = np.bincount(data.train_all.items, minlength=N_ITEMS + 1)
    models: dict[str, SessionEncoder] = {"srgnn": SRGNN(N_ITEMS, dim=8), "niser": NISER(N_ITEMS, dim=8)}
    for name, model in models.items():
        with torch.no_grad():
            table = torch.nn.functional.normalize(model.item_vectors(), dim=1)
            model.item_vectors().copy_(table * torch.from_numpy(clicks).log1p()[:, None])
        provenance = Provenance(name, 1, {}, "commit", "data")
        export_bundle(model, data.items, [[1, 2, 3], [4]], provenance, path, name, lambda bundle: {})
    return path


def bias_of(place: Path, name: str) -> Bias:
    return measure(Bundle.load(place / "bundles" / name), Dataset.load(place / "data"))


def test_lengths_are_those_of_the_scored_vectors(place: Path) -> None:
    data = Dataset.load(place / "data")
    clicks = np.bincount(data.train_all.items, minlength=N_ITEMS + 1)[1:]
    dot, cosine = bias_of(place, "srgnn"), bias_of(place, "niser")
    np.testing.assert_array_equal(dot.clicks, clicks)
    np.testing.assert_allclose(dot.lengths, np.log1p(clicks) / np.log1p(clicks).mean(), rtol=1e-5)
    np.testing.assert_allclose(cosine.lengths, 1, rtol=1e-5)
    of_dot, of_cosine = (bias.figures()["correlation_of_length_and_log_clicks"] for bias in (dot, cosine))
    assert of_dot == pytest.approx(1, abs=0.01)
    assert of_cosine == 0


def test_answers_are_counted_as_they_are_evaluated(place: Path) -> None:
    data, bias = Dataset.load(place / "data"), bias_of(place, "srgnn")
    cases = len(data.test.items) - len(data.test)
    assert bias.answered.sum() == 20 * cases
    assert bias.answered @ bias.clicks / bias.answered.sum() == pytest.approx(bias.metrics["popularity@20"])
    share = bias.answered[bias.clicks.argmax()] / bias.answered.sum()  # 1 % of 30 items is one item
    assert bias.figures()["answers_from_top_1_percent"] == pytest.approx(100 * share)


def test_the_command_draws_the_same_picture_again(place: Path) -> None:
    bundles = [word for name in ("srgnn", "niser") for word in ("--bundle", str(place / "bundles" / name))]
    pictures = []
    for results in (place / "first", place / "second"):
        words = ["popularity", *bundles, "--data", str(place / "data"), "--results", str(results), "--json"]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        written = json.loads((results / "planted/popularity.json").read_text())
        assert written == json.loads(result.stdout)
        assert set(written["models"]) == {"SR-GNN", "NISER+"}
        pictures.append((results / "planted/popularity.svg").read_bytes())
    assert pictures[0] == pictures[1]
    text = pictures[0].decode()
    for title, told in written["models"].items():
        assert f"{title}: {told['popularity@20']:.0f} clicks on average" in text
