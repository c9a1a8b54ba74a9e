"""What lies in artifacts/bundles: told without loading it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from service.live.bundles import find_bundles
from service.live.deployment import bundle_path
from service.ranking.bundle import read_manifest, write_manifest
from tests.service.bundles import Shop

SHOP = Shop.make()


def test_none_yet(artifacts: Path) -> None:
    assert find_bundles(artifacts) == []


def test_each_with_what_is_wrong_with_it(artifacts: Path) -> None:
    for version in ("good", "cut", "other"):
        SHOP.write(artifacts, version)
    directory = bundle_path(artifacts, "good").parent
    (directory / "cut" / "index.faiss").unlink()
    (directory / "other").rename(directory / "renamed")
    (directory / ".good.deleted").mkdir()
    (directory / "empty").mkdir()
    (directory / "half").mkdir()
    (directory / "half" / "manifest.json").write_text('{"schema_version": 1, "ver')
    (directory / "notes.txt").write_text("no bundle")
    found = {bundle.version: bundle for bundle in find_bundles(artifacts)}
    assert set(list(found)[:3]) == {"cut", "good", "renamed"}, "those that can be read come first"
    assert list(found)[3:] == ["empty", "half", "notes.txt"]
    problems = {version: bundle.problem for version, bundle in found.items()}
    assert problems.pop("good") is None
    expected = {
        "cut": "index.faiss: missing",
        "renamed": "its manifest says version other",
        "empty": "not a bundle",
        "half": "not JSON",
        "notes.txt": "manifest.json: cannot be read",
    }
    assert {version: expected[version] in str(problem) for version, problem in problems.items()} == (
        dict.fromkeys(expected, True)
    ), problems
    files = list((directory / "good").iterdir())
    assert found["good"].size_bytes == sum(len(file.read_bytes()) for file in files)
    assert found["empty"].size_bytes == 0
    assert found["half"].manifest is None
    assert found["cut"].manifest is not None


def test_the_newest_is_first(artifacts: Path) -> None:
    for number, version in enumerate(("b", "a", "c")):
        path = SHOP.write(artifacts, version)
        made = datetime(2026, 11, number + 1, tzinfo=UTC)
        write_manifest(path, read_manifest(path).model_copy(update={"created_at": made}))
    assert [bundle.version for bundle in find_bundles(artifacts)] == ["c", "a", "b"]
