"""Waits, and runs one command at a time, until SIGTERM or SIGINT.

Each command is a child process with low priority. A signal is passed on to it, and it gets a while to end.
Orphans are not ours to reap: in a container, process 1 is tini.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType, TracebackType
from typing import Self

from service.process.parent import stopping_with_us
from training.loop.cron import ScheduleError

NICENESS = 10
TRAINING = (sys.executable, "-m", "training")


class Runner:
    """A context manager that owns its process's signals; for the main thread.

    Not `threading.Event`: a handler that sets one deadlocks when it interrupts its wait at the wrong moment.
    Here every signal leaves a byte in a pipe, and waiting is reading from that.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        say: Callable[[str], None],
        *,
        program: Sequence[str] = TRAINING,
        grace_seconds: float = 30.0,
    ) -> None:
        """Raises `ScheduleError`."""
        nice = shutil.which("nice")
        if nice is None:
            raise ScheduleError("there is no `nice` on PATH: install coreutils, or busybox")
        self._program = [nice, "-n", str(NICENESS), *program]
        self._environment = dict(environment)
        self._say = say
        self._grace_seconds = grace_seconds
        self._stopping = False
        self.killed = False  # whether the last command had to be

    def __enter__(self) -> Self:
        self._signalled, self._signal = os.pipe()
        os.set_blocking(self._signal, False)  # as Python asks of it
        self._wakeup_before = signal.set_wakeup_fd(self._signal, warn_on_full_buffer=False)
        self._handlers_before = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, self._stop),
            signal.SIGINT: signal.signal(signal.SIGINT, self._stop),
            signal.SIGCHLD: signal.signal(signal.SIGCHLD, _wake),
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._signalled)
        os.close(self._signal)

    def wait(self, seconds: float) -> bool:
        """Wait for so long, or less when a signal comes; returns whether it is time to stop."""
        if not self._stopping:
            self._sleep(seconds)
        return self._stopping

    def run(self, command: Sequence[str]) -> int | None:
        """Run a command to its end. Returns its exit code, or minus the signal that ended it.

        None when it was cut off, because it is time to stop.
        """
        child = subprocess.Popen(
            stopping_with_us([*self._program, *command]),
            env=self._environment,
            # Ctrl-C in a terminal would reach it directly, as SIGINT, and once more from us.
            start_new_session=True,
        )
        while child.poll() is None and not self._stopping:
            self._sleep(None)
        if child.poll() is None:
            self._end(child)
        return None if self._stopping and child.returncode != 0 else child.returncode

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        child.terminate()
        deadline = time.monotonic() + self._grace_seconds
        while child.poll() is None and (rest := deadline - time.monotonic()) > 0:
            self._sleep(rest)
        if child.poll() is None:
            self._say(f"does not end within {self._grace_seconds:g} s of SIGTERM: killed")
            os.killpg(child.pid, signal.SIGKILL)  # and what it started
            child.wait()
            self.killed = True

    def _stop(self, number: int, _: FrameType | None) -> None:
        self._stopping = True

    def _sleep(self, seconds: float | None) -> None:
        """Until a signal comes, or came since the last sleep; the end of a child is one, too."""
        if select.select([self._signalled], [], [], seconds)[0]:
            os.read(self._signalled, 4096)


def _wake(number: int, _: FrameType | None) -> None:
    """The byte in the pipe is all that is wanted."""
