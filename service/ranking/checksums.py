"""Checksums of a bundle's files, which all workers of a service share: the first to load it reads them.

What was read is stamped in a directory that the service's parent process makes for its own lifetime, and for
its own user alone (`CHECKED_DIRECTORY`): with the inode, size and times of each file, so that one that was
replaced or written to since is read again. Who has no such directory reads the files each time.

This is against copies that were cut off and disks that go bad. It is not against somebody who may write into
the artifacts: he could change the manifest with the files, and could before. Nor does anybody but the
service's own user gain a way in: the stamps lie where only he can write.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import structlog

from service.process.settings import CHECKED_DIRECTORY

log = structlog.get_logger()


def file_sha256(file: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def first_that_differs(path: Path, files: Mapping[str, str]) -> str | None:
    """The first of `files`, sha256 by name, that is not what it should be, or None.

    Each is known to be a plain file under `path`. Of workers that ask for the same at once, one reads, and
    the others wait. Raises `OSError`.
    """
    directory = os.environ.get(CHECKED_DIRECTORY)
    if directory is None:
        return _read(path, files)
    with ExitStack() as held:
        try:
            stream = held.enter_context(stamped(Path(directory), path))
        except OSError as error:  # somebody tidied up
            log.warning("each worker reads all of a bundle", directory=directory, error=error.strerror)
            return _read(path, files)
        before = _state(path, files)
        if stream.read() == before:
            return None
        different = _read(path, files)
        if different is None and _state(path, files) == before:
            stream.seek(0)
            stream.truncate()
            stream.write(before)
        return different


@contextmanager
def stamped(directory: Path, path: Path) -> Iterator[BinaryIO]:
    """The stamp of a bundle at `path`, meanwhile for this process alone. Raises `OSError`."""
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(directory / name, flags, 0o600), "r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # let go by closing, or by the end of a process that is killed
        yield stream


def _read(path: Path, files: Mapping[str, str]) -> str | None:
    return next((name for name, sha256 in files.items() if file_sha256(path / name) != sha256), None)


def _state(path: Path, files: Mapping[str, str]) -> bytes:
    """What would not be the same if a file had been written to; its `ctime` nobody can set."""
    found = []
    for name, sha256 in sorted(files.items()):
        status = (path / name).stat()
        times = (status.st_mtime_ns, status.st_ctime_ns)
        found.append([name, sha256, status.st_dev, status.st_ino, status.st_size, *times])
    return json.dumps(found).encode()
