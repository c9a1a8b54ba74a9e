"""deployment.json: replaced whole or not at all, however many publishers there are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.deployment import (
    FILE,
    Deployment,
    DeploymentError,
    hide,
    publish,
    read_deployment,
    replace_file,
    rollback,
    unhide,
)


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
    (tmp_path / "artifacts").touch()
    with pytest.raises(DeploymentError, match="cannot be"):
        publish(tmp_path / "artifacts", "v1")


def test_replacing_leaves_nothing_else_behind(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        replace_file(tmp_path / "file", content)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("file", b"new")]
