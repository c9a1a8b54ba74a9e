"""Waiting for a condition, with a deadline that only a failure meets; and what tests do to processes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar

DEADLINE_SECONDS = 240.0  # only what will never come to pass takes so long
T = TypeVar("T")


def until(probe: Callable[[], T | None], otherwise: Callable[[], str] = str) -> T:
    """What `probe` finds, once it finds something; a server that is not there yet is asked again.

    Raises `AssertionError` that says `otherwise` when it never does.
    """
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        with suppress(ConnectionError, HTTPException):
            if found := probe():
                return found
        assert time.monotonic() < deadline, otherwise() or "it did not come to pass"
        time.sleep(0.01)


async def eventually(condition: Callable[[], object]) -> None:
    """Let the event loop go on until something holds."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that hangs: it is there, and does not answer."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
