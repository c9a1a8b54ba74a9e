"""Every lock of the project is held on a file that is open for writing: NFS locks nothing else (EBADF)."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from service.live.deployment import _publisher_lock
from service.live.follower import turn_to_load
from service.process.embedded_redis import EmbeddedRedis
from service.ranking.checksums import stamped
from training.learn.checkpoint import alone_in
from training.loop.collect import _locked
from training.loop.run_record import run_lock
from training.loop.schedule import schedule_lock
from training.search.study import open_study

ROOT = Path(__file__).parents[1]

LOCKS: dict[str, Callable[[Path], AbstractContextManager[object]]] = {
    "service/live/deployment.py": _publisher_lock,
    "service/live/follower.py": turn_to_load,
    "service/process/embedded_redis.py": EmbeddedRedis,
    "service/ranking/checksums.py": lambda place: stamped(place, place),
    "training/learn/checkpoint.py": alone_in,
    "training/loop/collect.py": _locked,
    "training/loop/run_record.py": run_lock,
    "training/loop/schedule.py": lambda place: schedule_lock(place, ["run"]),
    "training/search/study.py": lambda place: open_study(place, {}),
}


def locked_here() -> list[int]:
    """The descriptors by which this process holds locks."""
    return [int(info.name) for info in Path("/proc/self/fdinfo").iterdir() if "FLOCK" in _text(info)]


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:  # it was the one by which the directory was listed
        return ""


@pytest.mark.skipif(not Path("/proc/self/fdinfo").is_dir(), reason="descriptors cannot be looked at")
@pytest.mark.parametrize("module", LOCKS)
def test_it_is_a_file_that_is_open_for_writing(tmp_path: Path, module: str) -> None:
    before = locked_here()  # such as the Redis of these tests
    with LOCKS[module](tmp_path):
        held = [descriptor for descriptor in locked_here() if descriptor not in before]
        assert held
        for descriptor in held:
            flags = re.search(
                r"^flags:\s+(\d+)$", _text(Path(f"/proc/self/fdinfo/{descriptor}")), re.MULTILINE
            )
            assert flags is not None
            assert int(flags[1], 8) & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR)
            assert stat.S_ISREG(os.fstat(descriptor).st_mode)


def test_these_are_all_of_them() -> None:
    sources = [
        file
        for place in ("service", "training", "models", "nextclick")
        for file in (ROOT / place).rglob("*.py")
    ]
    found = {
        str(file.relative_to(ROOT)) for file in sources if re.search(r"\b(flock|lockf)\(", file.read_text())
    }
    assert found == LOCKS.keys()
