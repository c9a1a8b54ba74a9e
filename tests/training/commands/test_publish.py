"""publish, withdraw, rollback and prune, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from service.live.deployment import publish, read_deployment
from tests.service.bundles import Shop
from training.__main__ import app

ROOT = Path(__file__).parents[3]


@pytest.fixture
def bundles(artifacts: Path) -> Path:
    """Artifacts with v1 live, and v2 to v4 beside it."""
    for seed in range(1, 5):
        Shop.make(seed=seed).write(artifacts, f"v{seed}")
    publish(artifacts, "v1")
    return artifacts


def run(artifacts: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--artifacts", str(artifacts)])


def test_a_trial_begins_and_ends(bundles: Path) -> None:
    told = run(bundles, "publish", "--bundle", "v2", "--challenger", "--share", "0.25", "--json")
    assert json.loads(told.stdout) == read_deployment(bundles).model_dump(mode="json")
    assert run(bundles, "publish", "--bundle", "v3", "--shadow").exit_code == 0
    deployed = read_deployment(bundles)
    assert (deployed.champion, deployed.previous) == ("v1", None)
    assert (deployed.challenger, deployed.challenger_share) == ("v2", 0.25)
    assert (deployed.shadow, deployed.shadow_share) == ("v3", 0.1), "the default"

    assert "v2 is the challenger no longer" in run(bundles, "withdraw", "--challenger").output
    assert (read_deployment(bundles).challenger, read_deployment(bundles).shadow) == (None, "v3")
    assert run(bundles, "withdraw", "--shadow").exit_code == 0
    assert read_deployment(bundles).serving == ("v1",)


def test_who_must_go_back_waits_for_nothing_that_trains(bundles: Path) -> None:
    """A wrong model is live: seconds of imports are seconds of its answers. What is wrong is told as fast."""
    for command, status in (
        (["publish", "--bundle", "v2"], 0),
        (["rollback"], 0),
        (["withdraw", "--shadow"], 2),
    ):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "training", *command, "--artifacts", str(bundles)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "service.live.deployment" in imported, "what this test reads"
        assert not imported & {"torch", "duckdb", "optuna", "onnx", "pandas", "scipy", "sklearn", "pyarrow"}
    assert read_deployment(bundles).champion == "v1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["publish", "--bundle", "v2", "--challenger", "--shadow"], "a bundle has one role"),
        (["publish", "--bundle", "v2", "--share", "0.5"], "--share is for --challenger and --shadow"),
        (["publish", "--bundle", "v2", "--shadow", "--exclude-seen"], "are for all sessions"),
        (["publish", "--bundle", "v2", "--challenger", "--share", "1.5"], "up to 1"),
        (["publish", "--bundle", "v1", "--challenger"], "v1 is the champion: it cannot be the challenger"),
        (["publish", "--bundle", "v9", "--challenger"], "v9/manifest.json: missing"),
        (["withdraw"], "--challenger or --shadow"),
        (["withdraw", "--shadow"], "there is no shadow"),
    ],
)
def test_what_makes_no_sense_changes_nothing(bundles: Path, arguments: list[str], message: str) -> None:
    before = read_deployment(bundles)
    refused = run(bundles, *arguments)
    assert (refused.exit_code, message in refused.output) == (2, True), refused.output
    assert read_deployment(bundles) == before


def test_prune_leaves_what_is_deployed(bundles: Path) -> None:
    publish(bundles, "v2")
    assert json.loads(run(bundles, "prune", "--keep", "1", "--json").stdout) == {"deleted": ["v3"]}
    assert "deleted: v4" in run(bundles, "prune", "--keep", "0").output
    assert sorted(path.name for path in (bundles / "bundles").iterdir()) == ["v1", "v2"]


def test_it_says_what_is_live(bundles: Path) -> None:
    assert run(bundles, "publish", "--bundle", "v2").output == "v2 is live\n"
    assert run(bundles, "rollback").output == "v1 is live\n"
    assert json.loads(run(bundles, "rollback", "--json").stdout)["champion"] == "v2"
    assert read_deployment(bundles).champion == "v2"


class TestPlacements:
    def test_a_life(self, artifacts: Path, tmp_path: Path) -> None:
        file = tmp_path / "home.json"
        for k in (5, 6):
            file.write_text(json.dumps({"k": k, "filter": {"attribute": "price", "lt": 50}}))
            assert run(artifacts, "placements", "set", "home", str(file)).exit_code == 0
        assert json.loads(run(artifacts, "placements", "show", "home").output) == json.loads(file.read_text())
        assert "home is at version 3" in run(artifacts, "placements", "rollback", "home").output
        told = json.loads(run(artifacts, "placements", "list", "--json").stdout)
        assert [(each["name"], each["number"], each["placement"]["k"]) for each in told] == [("home", 3, 5)]
        assert "home" in run(artifacts, "placements", "list").output
        history = json.loads(run(artifacts, "placements", "history", "home", "--json").stdout)
        assert [(each["number"], each["by"], each["placement"]["k"]) for each in history] == [
            (3, "command", 5),
            (2, "command", 6),
            (1, "command", 5),
        ]
        assert run(artifacts, "placements", "rollback", "home", "--to", "2").exit_code == 0
        assert read_deployment(artifacts).placements["home"][-1].placement.k == 6
        assert run(artifacts, "placements", "delete", "home").exit_code == 0
        assert read_deployment(artifacts).placements == {}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "Invalid JSON"),
            ('{"k": 0}', "error: k: Input should be greater than"),
            ('{"colour": 1}', "error: colour: "),
            ('{"filter": {"attribute": "colour", "eq": "red"}}', "filter.attribute: there is no attribute"),
        ],
    )
    def test_what_is_wrong_is_one_line_and_changes_nothing(
        self, artifacts: Path, tmp_path: Path, content: str, message: str
    ) -> None:
        file = tmp_path / "home.json"
        file.write_text(content)
        refused = run(artifacts, "placements", "set", "home", str(file))
        assert (refused.exit_code, message in refused.output) == (2, True), refused.output
        assert read_deployment(artifacts).placements == {}
        for command in ("show", "history", "rollback", "delete"):
            unknown = run(artifacts, "placements", command, "cart")
            assert (unknown.exit_code, "there is no placement cart" in unknown.output) == (2, True)

    def test_an_attribute_that_the_shop_declares(self, artifacts: Path, tmp_path: Path) -> None:
        file, declared = tmp_path / "home.json", tmp_path / "catalogue.toml"
        file.write_text('{"filter": {"attribute": "colour", "eq": "red"}}')
        declared.write_text('[attributes]\ncolour = "string"\n')
        told = run(artifacts, "placements", "set", "home", str(file), "--catalogue", str(declared), "--json")
        assert json.loads(told.stdout)["number"] == 1
