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
from training.data.reading.remote import LogFile, RemoteFile, is_mark, is_url, refuse_tables, remote_files


def log_files(
    paths: Sequence[str | LogFile], tell: Callable[[str], None] = lambda word: None
) -> list[LogFile]:
    """The files that `paths` name: a directory stands for all files in it, and `*` for those that match.

    A URL stands for all objects below it, which are Parquet.

    Of such, names that begin with `_` or `.` are marks of who wrote them; an empty part is told of
    and skipped. Raises `PrepareError`.
    """
    files: list[LogFile] = []
    for each in paths:
        if isinstance(each, RemoteFile):
            files.append(each)
            continue
        if is_url(each):
            files += remote_files(str(each))
            continue
        path = Path(each)
        # Of os.path, for which a name that is too long is one that does not exist.
        is_directory = path != Path() and os.path.isdir(path) and not (path / "commit.json").exists()
        if is_directory:
            refuse_tables(path, {part.name for part in path.iterdir() if part.is_dir()})
            parts = sorted(part for part in path.rglob("*") if part.is_file())
            parts = [part for part in parts if not is_mark(part.relative_to(path))]
        elif glob.has_magic(str(path)) and not os.path.exists(path):
            parts = [Path(part) for part in sorted(glob.glob(str(path), recursive=True))]
            parts = [part for part in parts if part.is_file() and not is_mark(Path(part.name))]
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


def check_file(file: LogFile) -> None:
    """Raises `PrepareError` that says why there is nothing to read."""
    if isinstance(file, RemoteFile):
        return  # it was listed, with its size
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
def reading(file: LogFile) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise PrepareError(f"{file}: cannot be read: {error}") from error  # how Arrow tells of damage
    except (duckdb.Error, pa.ArrowException, UnicodeDecodeError) as error:
        raise PrepareError(f"{file}: cannot be read: {str(error).splitlines()[0]}") from error
