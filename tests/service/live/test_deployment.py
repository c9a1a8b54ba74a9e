"""deployment.json: replaced whole or not at all, however many publishers there are."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog

from service.catalogue.placements import Placement
from service.live import history
from service.live.deployment import (
    FILE,
    Deployment,
    DeploymentError,
    UnknownPlacement,
    bundle_path,
    challenge,
    delete_placement,
    hide,
    prune,
    publish,
    read_deployment,
    replace_file,
    rollback,
    rollback_placement,
    set_placement,
    shadow,
    unhide,
    withdraw,
)
from service.live.history import Change, HistoryError, read_history


@pytest.fixture(autouse=True)
def bundles(artifacts: Path) -> None:
    """Their content is not for this module."""
    for number in range(1, 6):
        bundle_path(artifacts, f"v{number}").mkdir(parents=True)


def test_nothing_published_yet(artifacts: Path) -> None:
    assert read_deployment(artifacts) == Deployment()
    with pytest.raises(DeploymentError, match="there is no previous version"):
        rollback(artifacts)


def test_publish_and_roll_back(artifacts: Path) -> None:
    publish(artifacts, "v1")
    assert publish(artifacts, "v2") == Deployment(champion="v2", previous="v1")
    assert publish(artifacts, "v2") == Deployment(champion="v2", previous="v1")
    assert rollback(artifacts) == Deployment(champion="v1", previous="v2")
    assert rollback(artifacts) == read_deployment(artifacts) == Deployment(champion="v2", previous="v1")


def test_what_is_said_of_seen_items_holds_until_it_is_said_otherwise(artifacts: Path) -> None:
    assert not publish(artifacts, "v1").exclude_seen
    assert publish(artifacts, "v2", exclude_seen=True).exclude_seen
    assert publish(artifacts, "v3").exclude_seen
    assert rollback(artifacts).exclude_seen
    assert not publish(artifacts, "v4", exclude_seen=False).exclude_seen


def test_hidden_items_outlive_a_publication(artifacts: Path) -> None:
    hide(artifacts, "b")
    hide(artifacts, "a")
    hide(artifacts, "a")
    assert publish(artifacts, "v1").hidden == ("a", "b")
    assert unhide(artifacts, "a").hidden == ("b",)
    assert unhide(artifacts, "never hidden").hidden == ("b",)


def test_experiments_begin_and_end(artifacts: Path) -> None:
    publish(artifacts, "v1")
    challenge(artifacts, "v2", 0.1)
    found = shadow(artifacts, "v3", 0.5)
    assert (found.champion, found.challenger, found.challenger_share) == ("v1", "v2", 0.1)
    assert (found.shadow, found.shadow_share) == ("v3", 0.5)
    assert found.serving == ("v1", "v2", "v3")
    assert challenge(artifacts, "v2", 0.2).challenger_share == 0.2
    assert withdraw(artifacts, "shadow").serving == ("v1", "v2")
    promoted = publish(artifacts, "v2")
    assert (promoted.champion, promoted.previous, promoted.challenger) == ("v2", "v1", None)
    assert promoted.challenger_share == 0


def test_a_challenger_that_becomes_the_champion_by_rollback_is_one_no_longer(artifacts: Path) -> None:
    publish(artifacts, "v1")
    publish(artifacts, "v2")
    challenge(artifacts, "v1", 0.1)
    assert rollback(artifacts) == Deployment(champion="v1", previous="v2")


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_an_experiment_needs_a_share(artifacts: Path, share: float) -> None:
    with pytest.raises(DeploymentError, match="must lie above 0, up to 1"):
        challenge(artifacts, "v2", share)


def test_one_version_has_one_role(artifacts: Path) -> None:
    publish(artifacts, "v1")
    challenge(artifacts, "v2", 0.1)
    for version, role in (("v1", "champion"), ("v2", "challenger")):
        with pytest.raises(DeploymentError, match=f"{version} is the {role}: it cannot be the shadow"):
            shadow(artifacts, version, 0.1)
    with pytest.raises(DeploymentError, match="there is no shadow"):
        withdraw(artifacts, "shadow")


def test_a_bundle_that_is_gone_is_not_published(artifacts: Path) -> None:
    publish(artifacts, "v1")
    with pytest.raises(DeploymentError, match="bundles/v9: there is no such bundle"):
        publish(artifacts, "v9")
    assert read_deployment(artifacts).champion == "v1"


def test_prune_spares_what_is_in_use_and_the_newest_of_the_rest(artifacts: Path) -> None:
    for age, version in enumerate(["v5", "v4", "v3", "v2", "v1"]):
        os.utime(bundle_path(artifacts, version), (1e9 - age, 1e9 - age))
    publish(artifacts, "v1")
    publish(artifacts, "v2")
    challenge(artifacts, "v3", 0.1)
    (artifacts / "bundles" / ".v6.writing").mkdir()
    assert prune(artifacts, keep=1, also=["v4"]) == []
    assert prune(artifacts, keep=1) == ["v4"]
    left = {path.name for path in (artifacts / "bundles").iterdir()}
    assert left == {"v1", "v2", "v3", "v5", ".v6.writing"}
    assert prune(artifacts, keep=0) == ["v5"]
    assert prune(artifacts, keep=0) == []


def test_concurrent_changes_are_all_kept(artifacts: Path) -> None:
    items = [f"i{i}" for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item_id: hide(artifacts, item_id), items))
    assert set(read_deployment(artifacts).hidden) == set(items)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"champion": 1}', b'{"color": "red"}', b"\xff"])
def test_a_damaged_file_is_reported_and_left_alone(artifacts: Path, content: bytes) -> None:
    (artifacts / FILE).write_bytes(content)
    with pytest.raises(DeploymentError, match=FILE):
        read_deployment(artifacts)
    with pytest.raises(DeploymentError, match=FILE):
        publish(artifacts, "v1")
    assert (artifacts / FILE).read_bytes() == content


def test_a_directory_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(DeploymentError, match="cannot be"):
        publish(tmp_path / "a file", "v1")


def test_replacing_leaves_nothing_else_behind(tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    for content in (b"old", b"new"):
        replace_file(directory / "file", content)
    assert [(file.name, file.read_bytes()) for file in directory.iterdir()] == [("file", b"new")]


class TestPlacements:
    """Their history, in the same file as what is live."""

    def test_each_change_is_a_version(self, artifacts: Path) -> None:
        for k in (5, 6, 6, 7):
            set_placement(artifacts, "home", Placement(k=k), "admin")
        history = read_deployment(artifacts).placements["home"]
        assert [(each.number, each.by, each.placement.k) for each in history] == [
            (1, "admin", 5),
            (2, "admin", 6),
            (3, "admin", 7),
        ], "what changes nothing is none"
        assert history[0].at <= history[1].at <= history[2].at

    def test_rollback_goes_to_the_version_before_and_back(self, artifacts: Path) -> None:
        for k in (5, 6, 7):
            set_placement(artifacts, "home", Placement(k=k), "admin")
        told = [rollback_placement(artifacts, "home", "command") for _ in range(2)]
        assert [each.placements["home"][-1].placement.k for each in told] == [6, 7]
        deployed = rollback_placement(artifacts, "home", "command", 1)
        assert [each.placement.k for each in deployed.placements["home"]] == [5, 6, 7, 6, 7, 5]
        for number in (6, 9):
            with pytest.raises(DeploymentError, match=f"no version {number} to roll back to; it has: 1, 2"):
                rollback_placement(artifacts, "home", "command", number)
        set_placement(artifacts, "new", Placement(), "admin")
        with pytest.raises(DeploymentError, match="it has: none"):
            rollback_placement(artifacts, "new", "command")

    def test_the_newest_20_versions_are_kept(self, artifacts: Path) -> None:
        for k in range(1, 31):
            set_placement(artifacts, "home", Placement(k=k), "admin")
        history = read_deployment(artifacts).placements["home"]
        assert [each.number for each in history] == list(range(11, 31))

    def test_there_are_32_at_most(self, artifacts: Path) -> None:
        for number in range(32):
            set_placement(artifacts, f"p{number}", Placement(), "admin")
        with pytest.raises(DeploymentError, match="there are 32 placements"):
            set_placement(artifacts, "p32", Placement(), "admin")
        set_placement(artifacts, "p31", Placement(k=1), "admin")
        delete_placement(artifacts, "p0")
        set_placement(artifacts, "p32", Placement(), "admin")

    @pytest.mark.parametrize("name", ["", "Home", "a" * 33, "a b", "../a", "a\n"])
    def test_a_name_is_a_word(self, artifacts: Path, name: str) -> None:
        with pytest.raises(DeploymentError, match="a placement's name is"):
            set_placement(artifacts, name, Placement(), "admin")

    def test_an_unknown_one_is_told_with_those_that_there_are(self, artifacts: Path) -> None:
        set_placement(artifacts, "home", Placement(), "admin")
        with pytest.raises(UnknownPlacement, match="there is no placement cart; there are: home"):
            delete_placement(artifacts, "cart")
        with pytest.raises(UnknownPlacement, match="there is no placement cart; there are: home"):
            rollback_placement(artifacts, "cart", "admin")

    def test_bundles_come_and_go_beside_them(self, artifacts: Path) -> None:
        for version in ("v1", "v2"):
            publish(artifacts, version)
        set_placement(artifacts, "home", Placement(k=5), "admin")
        before = read_deployment(artifacts).placements
        rollback(artifacts)
        hide(artifacts, "i1")
        publish(artifacts, "v2")
        deployed = read_deployment(artifacts)
        assert (deployed.champion, deployed.placements) == ("v2", before)

    def test_files_of_before_are_read_and_one_without_them_is_such_a_file(self, artifacts: Path) -> None:
        artifacts.mkdir(exist_ok=True)
        (artifacts / FILE).write_text('{"champion": "v1", "hidden": ["i1"]}')
        assert read_deployment(artifacts).placements == {}
        set_placement(artifacts, "home", Placement(k=5), "admin")
        assert "placements" in (artifacts / FILE).read_text()
        assert read_deployment(artifacts).champion == "v1"
        delete_placement(artifacts, "home")
        assert "placements" not in (artifacts / FILE).read_text()

    def test_a_file_that_says_what_none_may_is_refused_with_its_place(self, artifacts: Path) -> None:
        set_placement(artifacts, "home", Placement(k=5), "admin")
        text = (artifacts / FILE).read_text()
        (artifacts / FILE).write_text(text.replace('"k": 5', '"k": 500'))
        with pytest.raises(DeploymentError, match=r"placements\.home\.0\.placement\.k"):
            read_deployment(artifacts)


def test_the_history_says_who_gave_which_version_which_role(artifacts: Path) -> None:
    assert read_history(artifacts) == ([], 0)
    publish(artifacts, "v1")
    publish(artifacts, "v2", by="web-2026")
    publish(artifacts, "v2")  # it is live
    challenge(artifacts, "v3", 0.25, "run-1")
    shadow(artifacts, "v4", 0.5)
    hide(artifacts, "a")  # is no change of who answers
    withdraw(artifacts, "challenger")
    withdraw(artifacts, "shadow")
    rollback(artifacts)
    changes, unreadable = read_history(artifacts)
    assert unreadable == 0
    assert [(each.action, each.version, each.by, each.share) for each in changes] == [
        ("rollback", "v1", "command", None),
        ("withdraw shadow", "v4", "command", None),
        ("withdraw challenger", "v3", "command", None),
        ("shadow", "v4", "command", 0.5),
        ("challenger", "v3", "run-1", 0.25),
        ("publish", "v2", "web-2026", None),
        ("publish", "v1", "command", None),
    ]
    assert [each.at for each in changes] == sorted((each.at for each in changes), reverse=True)


def test_the_history_forgets_the_oldest_and_tells_of_what_is_damaged(artifacts: Path) -> None:
    lines = [Change(at=n, by="b", action="publish", version=f"v{n}").model_dump_json() for n in range(600)]
    file = artifacts / history.FILE
    file.write_text("\n".join([*lines, '{"at": 3']))  # half written
    publish(artifacts, "v1")
    changes, unreadable = read_history(artifacts)
    assert (len(changes), unreadable, changes[-1].version) == (history.KEPT - 1, 1, "v102")
    assert changes[0].version == "v1"
    file.write_bytes(b"\xff\n")
    assert read_history(artifacts) == ([], 1)


def test_a_history_that_cannot_be_written_stops_nobody(artifacts: Path) -> None:
    (artifacts / history.FILE).mkdir(parents=True)
    with structlog.testing.capture_logs() as logs:
        assert publish(artifacts, "v1").champion == "v1"
    assert [(each["event"], each["version"]) for each in logs] == [("history not written", "v1")]
    assert read_deployment(artifacts).champion == "v1"
    with pytest.raises(HistoryError, match="cannot be read"):
        read_history(artifacts)
