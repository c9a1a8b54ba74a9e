"""Where the microseconds go: every part is measured, and together they are the whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.parts import lines, main
from service.live.deployment import publish
from tests.service.bundles import Shop


def test_one_command_takes_a_recommendation_apart(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    arguments = ["--workers", "1", "--closed", "2", "--seconds", "0.02", "--whole", "0.3", "--sessions", "20"]
    assert main(["--artifacts", str(artifacts), *arguments]) == 0
    printed = capsys.readouterr().out
    found = json.loads((artifacts / "benchmarks" / "parts.json").read_text())["microseconds"]
    measured = {"http", "whole", "round_trip", "read", "recommend", "request", "encode", "search", "rank"}
    assert found.keys() == measured
    assert all(microseconds > 0 for microseconds in found.values())
    assert sum(microseconds for _, microseconds, _ in lines(found)) == pytest.approx(found["whole"])
    for what, _, _ in lines(found):
        assert what in printed
