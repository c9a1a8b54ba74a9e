"""The files that a log is in, by the names that people give, and why one cannot be read."""

from __future__ import annotations

import glob
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from training.data.reading.lines import PrepareError, is_empty


def log_files(paths: Sequence[Path], tell: Callable[[str], None] = lambda word: None) -> list[Path]:
    """The files that `paths` name: a directory stands for all files in it, and `*` for those that match.

    Of such, names that begin with `_` or `.` are marks of who wrote them; an empty part is told of
    and skipped. Raises `PrepareError`.
    """
    files: list[Path] = []
    for path in paths:
        # Of os.path, for which a name that is too long is one that does not exist.
        is_directory = path != Path() and os.path.isdir(path) and not (path / "commit.json").exists()
        if is_directory:
            parts = sorted(part for part in path.rglob("*") if part.is_file())
            parts = [part for part in parts if not _is_mark(part.relative_to(path))]
        elif glob.has_magic(str(path)) and not os.path.exists(path):
            parts = [Path(part) for part in sorted(glob.glob(str(path), recursive=True))]
            parts = [part for part in parts if part.is_file() and not _is_mark(Path(part.name))]
            if not parts:
                raise PrepareError(f"{path}: no file matches")
        else:
            files.append(path)
            continue
        empty = [part for part in parts if is_empty(part)]
        for part in empty:
            tell(f"{part}: is empty, and skipped")
        if parts and len(empty) == len(parts):
            raise PrepareError(f"{path}: every file of it is empty")
        files += [part for part in parts if part not in empty] or [path]
    for file, times in Counter(files).items():
        if times > 1:
            tell(f"{file}: is named {times} times, and read once")
    return list(dict.fromkeys(files))


def _is_mark(path: Path) -> bool:
    return any(part.startswith(("_", ".")) for part in path.parts)


def check_file(file: Path) -> None:
    """Raises `PrepareError` that says why there is nothing to read."""
    try:
        status = file.stat()
        if stat.S_ISDIR(status.st_mode):
            empty_name = ", which an empty name stands for, too" if file == Path() else ""
            raise PrepareError(
                f"{file}: is a directory{empty_name or ' without a log'}: name the files; what `collect` "
                "wrote is read with --format clicks"
            )
        if not stat.S_ISREG(status.st_mode):
            raise PrepareError(f"{file}: is a pipe or a device, and a log is read twice: write it to a file")
        with file.open("rb"):
            pass
    except FileNotFoundError:
        if file.is_symlink():
            raise PrepareError(f"{file}: is a link to {file.readlink()}, which does not exist") from None
        raise PrepareError(f"{file}: there is no such file") from None
    except NotADirectoryError:
        above = next(parent for parent in file.parents if parent.is_file())
        raise PrepareError(f"{file}: there is no such file: {above} is a file, not a directory") from None
    except OSError as error:
        raise PrepareError(f"{file}: cannot be read: {error.strerror}") from error
    if is_empty(file):
        raise PrepareError(f"{file}: the file is empty")


@contextmanager
def reading(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise PrepareError(f"{file}: cannot be read: {error}") from error  # how Arrow tells of damage
    except (duckdb.Error, pa.ArrowException, UnicodeDecodeError) as error:
        raise PrepareError(f"{file}: cannot be read: {str(error).splitlines()[0]}") from error
