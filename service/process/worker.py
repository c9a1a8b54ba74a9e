"""One worker as the parent process sees it: asked whether it answers, and never waited for."""

from __future__ import annotations

import os
import pickle
import signal
from contextlib import suppress
from socket import socket

import uvicorn
from uvicorn.supervisors.multiprocess import Process


class Worker(Process):
    """uvicorn's process, which answers pings on a pipe: its answer is looked for in a later round."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket]) -> None:
        super().__init__(config, sockets)
        self.serves = False  # whether it has said so
        self.killed = False
        self._asked = False
        self._silent_rounds = 0

    def start(self) -> None:
        """Start it, and let go of its end of the pipe: else a dead worker would look like one that hangs."""
        super().start()
        self.child_conn.close()

    def silent_rounds(self) -> int:
        """Called once a round: how many have passed since it was asked; 0 while it answers.

        Rounds and not seconds: after all of the service was stopped for a while, nobody is thought to hang.
        """
        self._silent_rounds += self._asked
        with suppress(OSError, EOFError, pickle.UnpicklingError):  # it is dying, which `alive` tells
            if self._asked and self.parent_conn.poll():
                self.serves = self.parent_conn.recv()
                self._asked, self._silent_rounds = False, 0
            if not self._asked:  # one ping at a time, so that the pipe never fills up
                self.parent_conn.send(b"ping")
                self._asked = True
        return self._silent_rounds

    @property
    def alive(self) -> bool:
        """Whether it runs, hanging or not; if not, it is reaped now."""
        return self.process.is_alive()

    def terminate(self) -> None:
        """Ask it to leave, and keep the pipe, by which it tells that it has not begun to hang meanwhile."""
        if self.alive:
            assert self.pid is not None
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it, without waiting until it has ended."""
        self.killed = True
        super().kill()
