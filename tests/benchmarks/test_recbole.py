"""What `benchmarks/recbole.py` makes of what both sides have learned; RecBole itself is not run here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import recbole_ours
from benchmarks.recbole import Results, picture, table
from tests.training.planted import planted_sessions


def history(*mrr: float, every: float) -> dict[str, object]:
    """Looks at so many seconds of each other; a look's Recall@20 is twice its MRR@20."""
    looks = [
        {"epochs": n + 1, "seconds": (n + 1) * every, "recall@20": 2 * value, "mrr@20": value}
        for n, value in enumerate(mrr)
    ]
    return {"history": looks}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    held = {
        "narm": {"quality": {"recbole": history(10.0, 21.0, 20.0, every=100.0)}},
        "gru": {
            "throughput": {
                "recbole": {"examples_per_second": 800.0},
                "ours": {"examples_per_second": 9600.0},
            },
            "quality": {
                "recbole": history(10.0, 21.0, 20.0, every=100.0),
                "ours": history(19.0, 21.5, 21.2, 25.0, every=5.0),
            },
        },
    }
    file = tmp_path / "recbole.json"
    file.write_text(json.dumps(held))
    return Results(file)


def test_a_row_says_when_each_side_was_as_good_and_what_the_budget_gave(results: Results) -> None:
    _, _, gru, narm = table(results).splitlines()
    assert gru == ("| GRU4Rec | 800 | 9,600 | 12.0x | 42.00 / 21.00 | 200 s | 10 s | 20.0x | 50.00 / 25.00 |")
    assert narm == "| NARM | – | – | – | 42.00 / 21.00 | 200 s | – | – | – |"


def test_the_picture_has_a_panel_for_each_model(results: Results) -> None:
    drawn = picture(results).decode()
    assert drawn == picture(results).decode()
    for text in ("GRU4Rec", "NARM", "Nextclick", "RecBole 1.2.1", "seconds of training"):
        assert text in drawn
    assert drawn.count("STAMP") == 0


def test_ours_looks_four_times_an_epoch_and_stops_with_the_budget() -> None:
    train, validation = planted_sessions(200, seed=1), planted_sessions(20, seed=2)
    model = recbole_ours.build("gru", ("dim=8",), train, 1, epochs=2, batch_size=8)
    looks = recbole_ours.quality(model, train, validation, 1, budget_seconds=1e9)
    assert len(looks) == 8
    assert [look["epochs"] for look in looks] == pytest.approx([n / 4 for n in range(1, 9)], abs=0.1)
    assert looks[-1]["mrr@20"] > looks[0]["mrr@20"]
    assert len(recbole_ours.quality(model, train, validation, 1, budget_seconds=0)) == 1
