"""The append-only files of the private Redis: brought to the disk beside it, and repaired before it.

Redis itself is told never to sync (`appendfsync no`): it then hands each write to the kernel before it
answers, whatever the disk does, so an acknowledged click outlives Redis. A thread of the service's parent
brings the files to the disk once a second, for the case that the machine itself dies.
docs/decisions/0018-kept.md says what the other ways cost.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

SYNC_SECONDS = 1.0
SLOW_SECONDS = 5.0  # a disk that takes longer is told of
SINGLE = "appendonly.aof"  # Redis 6 writes one file,
SEVERAL = "appendonlydir"  # later ones several, and a manifest
MANIFEST = f"{SEVERAL}/{SINGLE}.manifest"
_UNKNOWN = re.compile(rb"Unknown command '([^']*)' reading the append only file")
DAMAGED = "damaged-"  # what the directories are called that keep what could not be read

log = structlog.get_logger()


class Syncing:
    """A thread that brings the files to the disk once a second."""

    def __init__(self, data: Path, fsync: Callable[[int], None] = os.fsync) -> None:
        self._data = data
        self._fsync = fsync
        self._sizes: dict[Path, int] = {}  # as they are on the disk
        self._failure: str | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sync", daemon=True)

    def start(self) -> None:
        """Begin; a second time is an error."""
        self._thread.start()

    def stop(self) -> None:
        """Have it end; a disk that hangs is not waited for."""
        self._end.set()

    def _run(self) -> None:
        while not self._end.wait(SYNC_SECONDS):
            begin = time.monotonic()
            try:
                self.sync()
            except OSError as error:
                self._failed(str(error))
            else:
                self._failure = None
            if (seconds := time.monotonic() - begin) > SLOW_SECONDS:
                log.warning(
                    "the disk is slow: a power loss now would cost as much", seconds=round(seconds, 1)
                )

    def sync(self) -> None:
        """Bring to the disk what was written since the last time. Raises `OSError`."""
        sizes = {}
        for file in files_of(self._data):
            try:
                descriptor = os.open(file, os.O_RDONLY)
            except FileNotFoundError:  # Redis has rewritten it
                continue
            try:
                sizes[file] = os.fstat(descriptor).st_size  # before: what comes meanwhile is the next one's
                if self._sizes.get(file) != sizes[file]:
                    self._fsync(descriptor)
            finally:
                os.close(descriptor)
        self._sizes = sizes

    def _failed(self, reason: str) -> None:
        if reason != self._failure:
            log.error(
                "the click log cannot be brought to the disk: a power loss would cost it", reason=reason
            )
        self._failure = reason


def files_of(data: Path) -> Iterator[Path]:
    """All that Redis has written, in either way."""
    yield from data.glob(SINGLE)
    yield from data.glob(f"{SEVERAL}/*")


def damaged(data: Path) -> list[Path]:
    """The directories that keep what could not be read, oldest first. Delete them once they are looked at."""
    return sorted(data.glob(f"{DAMAGED}*"))


def repaired(redis_server: str, data: Path, said: bytes) -> bool:
    """Whether something was wrong with the files, and is no more; what they were is kept beside them.

    As much is saved as `redis-check-aof` can: what comes before the damage. `said`: what Redis logged when it
    could not start; it finds a command that there is not, where that tool sees none. Raises `OSError`.
    """
    files = list(files_of(data))
    checked = data / (MANIFEST if (data / MANIFEST).exists() else SINGLE)
    if not checked.exists():
        return False
    unknown = _UNKNOWN.search(said)
    if unknown is None and _check(redis_server, checked):
        return False
    kept = data / f"{DAMAGED}{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    _keep(files, data, kept)
    before = sum(file.stat().st_size for file in files)
    if unknown is not None:
        _cut_before(unknown[1], files)
    saved = _check(redis_server, checked) or (
        _check(redis_server, checked, "--fix") and _check(redis_server, checked)
    )
    if not saved:
        begin_anew(data)
    left = sum(file.stat().st_size for file in files_of(data))
    log.error(
        "the private Redis's data was damaged, and is cut off there: clicks are lost",
        kept=str(kept),
        bytes_before=before,
        bytes_left=left,
    )
    return True


def begin_anew(data: Path) -> None:
    """Delete the files, of which nothing can be read; what they were is kept by then."""
    for file in list(files_of(data)):
        file.unlink()


def _cut_before(name: bytes, files: Sequence[Path]) -> None:
    """End the file that holds a command of this name, as the first of a line, before it."""
    command = re.compile(rb"\*\d+\r\n\$%d\r\n%b\r\n" % (len(name), re.escape(name)))
    for file in files:
        if found := command.search(file.read_bytes()):
            os.truncate(file, found.start())


def _keep(files: Sequence[Path], data: Path, kept: Path) -> None:
    """All of it or nothing."""
    unfinished = data / f".{kept.name}"
    try:
        for file in files:
            copy = unfinished / file.relative_to(data)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, copy)
        unfinished.rename(kept)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _check(redis_server: str, file: Path, *options: str) -> bool:
    """Whether Redis could read it. Raises `OSError` when that cannot be found out."""
    tool = shutil.which("redis-check-aof", path=str(Path(redis_server).parent)) or redis_server
    done = subprocess.run(
        ["redis-check-aof", *options, str(file)],  # a redis-server that is called by this name is one
        executable=tool,
        input=b"y\n",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if b"CONFIG FILE ERROR" in done.stdout:  # it took the file for a configuration, as a redis-server does
        raise OSError(f"{tool} does not check append-only files")
    return done.returncode == 0
