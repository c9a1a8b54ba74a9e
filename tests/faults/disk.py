"""A disk that is slow or full, for the files of Redis alone: `disk.c`, preloaded into a process."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


def compiled(directory: Path) -> Path | None:
    """The library, made in a directory; None where there is no compiler, or no Linux to preload it."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None or not Path("/proc/self/fd").is_dir():
        return None
    library = directory / "disk.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, SOURCE, "-ldl"], check=True)
    return library


def environment(
    library: Path, *, fsync_milliseconds: int = 0, full_while: Path | None = None, of: str = "appendonly"
) -> dict[str, str]:
    """What a process (and all that it starts) is to have in its environment.

    fsync of a file whose path holds `of` takes so much longer, and writing to one fails with ENOSPC while
    the file `full_while` exists.
    """
    variables = {
        "LD_PRELOAD": str(library),
        "DISK_OF": of,
        "DISK_FSYNC_MILLISECONDS": str(fsync_milliseconds),
    }
    return variables if full_while is None else variables | {"DISK_FULL_WHILE": str(full_while)}
