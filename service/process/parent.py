"""Children that do not outlive the service's parent process, however it ends.

Also a program of its own, which arranges that and then becomes another program. The usual place for this is
between fork and exec (`preexec_fn`), where Python promises nothing once there are threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def stop_with(parent: int) -> None:
    """Have the kernel send this process SIGTERM once `parent`, which made it, is dead.

    The kernel watches the thread that made the child: make it in the main thread. Linux only; elsewhere
    children of a killed parent live on until they are stopped by hand.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before this was arranged
            sys.exit(1)


def stopping_with_us(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` so that it stops with this process; it keeps its process id."""
    return [sys.executable, "-IS", __file__, str(os.getpid()), *command]


if __name__ == "__main__":
    stop_with(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
