"""What cuts real training short in tests: at a place that it cannot get past on any machine."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import DEADLINE_SECONDS


def heed_interrupts() -> None:
    """For `preexec_fn`: a process inherits an ignored SIGINT, as tests have it in a shell's background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def no_further_checkpoint(file: Path) -> Iterator[Path]:
    """Training that would replace the checkpoint `file` waits forever: a pipe lies where it is to be written.

    Yields the pipe.
    """
    pipe = file.with_suffix(".writing")
    pipe.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(pipe)
    try:
        yield pipe
    finally:
        pipe.unlink()


@contextmanager
def being_written(pipe: Path) -> Iterator[None]:
    """Wait until someone writes to the pipe; what does not fit in waits on until the end."""
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert select.select([reader], [], [], DEADLINE_SECONDS)[0], "no checkpoint is written"
        yield
    finally:
        os.close(reader)
