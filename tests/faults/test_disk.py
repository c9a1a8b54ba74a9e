"""The disk that faults are tested with: slow and full where it is meant to be, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.disk import compiled, environment
from tests.waiting import DEADLINE_SECONDS

LONGER_THAN_ANY_TEST = 10_000_000
SYNC = """
import os, sys, time
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
begin = time.monotonic()
getattr(os, sys.argv[2])(file)
print(time.monotonic() - begin)
"""
WRITE = """
import os, sys
from pathlib import Path
full, *files = map(Path, sys.argv[1:])
files = [os.open(file, os.O_CREAT | os.O_WRONLY) for file in files]
calls = [lambda f: os.write(f, b"x"), lambda f: os.writev(f, [b"x"]), lambda f: os.pwrite(f, b"x", 0)]

def told(file, call):
    try:
        return str(call(file))
    except OSError as error:
        return os.strerror(error.errno)

for full_now in (False, True, False):
    full.touch() if full_now else full.unlink(missing_ok=True)
    print([{told(file, call) for call in calls} for file in files])
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = compiled(tmp_path_factory.mktemp("disk"))
    if found is None:
        pytest.skip("no C compiler (or no Linux): a slow and a full disk cannot be tested here")
    return found


def _run(program: str, *arguments: object, **variables: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_SECONDS,
    ).stdout


@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
def test_a_slow_disk_takes_its_time_for_the_files_that_are_meant(
    library: Path, tmp_path: Path, call: str
) -> None:
    slow = environment(library, fsync_milliseconds=300)
    assert float(_run(SYNC, tmp_path / "appendonly.aof", call, **slow)) >= 0.3
    slowest = environment(library, fsync_milliseconds=LONGER_THAN_ANY_TEST)
    assert _run(SYNC, tmp_path / "other", call, **slowest), "it would not have come back"


def test_a_full_disk_refuses_what_is_meant_while_it_is_full(library: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    told = _run(
        WRITE, full, tmp_path / "appendonly.aof", tmp_path / "other", **environment(library, full_while=full)
    )
    assert told.splitlines() == ["[{'1'}, {'1'}]", "[{'No space left on device'}, {'1'}]", "[{'1'}, {'1'}]"]
