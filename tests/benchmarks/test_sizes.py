"""The service by size of the catalogue: real bundles are grown, served and measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.sizes import main
from service.live.deployment import publish
from service.ranking.bundle import Bundle
from tests.service.bundles import Shop


def test_one_command_measures_smaller_and_larger_catalogues(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Shop.make()
    shop.write(artifacts, "v1")
    publish(artifacts, "v1")
    arguments = ["--sizes", "25", "500", "--workers", "1", "--rate", "50", "--seconds", "0.4"]
    arguments += ["--sessions", "20"]
    for _ in range(2):  # the second time with the bundles that are there
        assert main(["--artifacts", str(artifacts), *arguments]) == 0, capsys.readouterr().err
    rows = json.loads((artifacts / "benchmarks" / "sizes.json").read_text())["rows"]
    assert [row["what"] for row in rows] == ["25", "500"]
    for row in rows:
        assert (row["requests"], row["errors"], row["shed"]) == (20, 0, 0)
        assert row["index"]["recall_at_20"] >= 0.99
    small, large = (
        Bundle.load(artifacts / "benchmarks" / f"items-{n}" / "bundles" / f"v1-{n}") for n in (25, 500)
    )
    own = Bundle.load(artifacts / "bundles" / "v1")
    assert list(small.items) == own.items[:26]
    assert large.items[: len(own.items)] == list(own.items)
    assert len(large.items) == 501
    assert large.retriever.vectors()[: len(own.items) - 1] == pytest.approx(own.retriever.vectors(), abs=1e-6)
