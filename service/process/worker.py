"""One worker as the parent process sees it: asked whether it answers, and never waited for."""

from __future__ import annotations

import os
import pickle
import signal
from contextlib import suppress
from socket import socket

import structlog
import uvicorn
from uvicorn.supervisors.multiprocess import Process

log = structlog.get_logger()


class Worker(Process):
    """uvicorn's process, which answers pings on a pipe: not waited for, but looked for in a later round."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket]) -> None:
        super().__init__(config, sockets)
        self.ready = False  # whether it has said that it serves
        self._asked = False
        self._silent_rounds = 0

    def start(self) -> None:
        """Start it, and let go of its end of the pipe: else a dead worker would look like one that hangs."""
        super().start()
        self.child_conn.close()

    def silent_rounds(self) -> int:
        """How many times in a row it was asked here and has not answered yet; 0 while it answers.

        Rounds and not seconds: after this process itself was stopped, with its workers or without, they get
        as long as ever.
        """
        self._silent_rounds += self._asked
        with suppress(OSError, EOFError, pickle.UnpicklingError):  # it is dying: that is looked at elsewhere
            if self._asked and self.parent_conn.poll():
                self.ready = self.parent_conn.recv()
                self._asked, self._silent_rounds = False, 0
            if not self._asked:
                self._asked = True
                self.parent_conn.send(b"ping")
        return self._silent_rounds

    @property
    def alive(self) -> bool:
        """Whether it runs, hanging or not; if not, it is reaped now."""
        return self.process.is_alive()

    def terminate(self) -> None:
        """Ask it to leave, and go on asking whether it answers: what uvicorn's own closes the pipe for."""
        if self.alive:
            assert self.pid is not None
            os.kill(self.pid, signal.SIGTERM)
            log.info("worker asked to leave", pid=self.pid)
