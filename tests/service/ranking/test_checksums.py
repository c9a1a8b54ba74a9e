"""Checksums are read once for all workers, and again for whatever is not what it was."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from service.live.follower import load_bundle
from service.process.settings import CHECKED_DIRECTORY
from service.ranking import checksums
from service.ranking.bundle import ENCODER_DATA, ITEMS, LOOKUP, BundleError
from tests.service.bundles import Shop


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read, in order."""
    names = []

    def counted(file: Path) -> str:
        names.append(file.name)
        return real(file)

    real = checksums.file_sha256
    monkeypatch.setattr(checksums, "file_sha256", counted)
    return names


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "checked").mkdir()
    monkeypatch.setenv(CHECKED_DIRECTORY, str(tmp_path / "checked"))
    return tmp_path / "checked"


def test_without_a_parent_process_each_load_reads_all(artifacts: Path, read: list[str]) -> None:
    Shop.make().write(artifacts)
    load_bundle(artifacts, "v1")
    once = len(read)
    load_bundle(artifacts, "v1")
    assert {ITEMS, LOOKUP, ENCODER_DATA} <= set(read)
    assert len(read) == 2 * once


def test_the_second_worker_reads_none(artifacts: Path, read: list[str], checked: Path) -> None:
    Shop.make().write(artifacts)
    load_bundle(artifacts, "v1")
    once = list(read)
    load_bundle(artifacts, "v1")
    assert {ITEMS, LOOKUP, ENCODER_DATA} <= set(read)
    assert read == once
    Shop.make(seed=2).write(artifacts, "v2")
    load_bundle(artifacts, "v2")
    assert read == once * 2


def _as_before(file: Path, change: Callable[[Path], object]) -> None:
    """Of the same size, and with the same time of its last change."""
    status = file.stat()
    change(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size


def _in_place(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.write(b"\xff")


def _by_another(file: Path) -> None:
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(b"\xff" + content[1:])


@pytest.mark.parametrize("change", [_in_place, _by_another])
def test_what_was_altered_since_is_refused(
    artifacts: Path, checked: Path, change: Callable[[Path], object]
) -> None:
    path = Shop.make().write(artifacts)
    load_bundle(artifacts, "v1")
    _as_before(path / ENCODER_DATA, change)
    for _ in range(2):  # what is wrong leaves no stamp
        with pytest.raises(BundleError, match=r"encoder\.onnx\.data: sha256 differs"):
            load_bundle(artifacts, "v1")


def test_one_reads_and_the_others_wait(artifacts: Path, read: list[str], checked: Path) -> None:
    Shop.make().write(artifacts)
    load_bundle(artifacts, "v1")
    once = list(read)
    (stamp,) = checked.iterdir()
    content = stamp.read_bytes()
    with stamp.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as a worker that is still reading
        held.truncate()
        waiting = threading.Thread(target=load_bundle, args=(artifacts, "v1"))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        held.write(content)
    waiting.join(60)
    assert not waiting.is_alive()
    assert read == once


def test_where_the_directory_was_tidied_away_all_is_read(
    artifacts: Path, read: list[str], checked: Path
) -> None:
    Shop.make().write(artifacts)
    load_bundle(artifacts, "v1")
    once = list(read)
    for stamp in checked.iterdir():
        stamp.unlink()
    checked.rmdir()
    load_bundle(artifacts, "v1")
    assert read == once * 2


def test_a_link_is_no_stamp(artifacts: Path, read: list[str], checked: Path, tmp_path: Path) -> None:
    Shop.make().write(artifacts)
    load_bundle(artifacts, "v1")
    once = list(read)
    (stamp,) = checked.iterdir()
    stamp.rename(tmp_path / "stamp")
    stamp.symlink_to(tmp_path / "stamp")
    load_bundle(artifacts, "v1")
    assert read == once * 2
