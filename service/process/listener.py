"""The socket that shoppers connect to: one for all, or a port on which each worker has one of its own."""

from __future__ import annotations

import socket
import sys
from typing import Any

BACKLOG = 2048


class ListenError(RuntimeError):
    """The address cannot be listened on; the message names it."""


def listen(host: str, port: int, workers: int = 1) -> socket.socket:
    """The TCP socket to give to the workers: one that listens, or `Reserved`. Raises `ListenError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)  # at once: a port can be bound twice as long as nobody listens
        if workers > 1 and sys.platform == "linux":
            address = listener.getsockname()
            listener.close()
            listener = Reserved(family, address)
    except OSError as error:
        listener.close()
        raise ListenError(
            f"cannot listen on {host} port {port}: {error.strerror}: choose another by --host or --port"
        ) from error
    return listener


class Reserved(socket.socket):
    """A port that is kept, but not listened on; in each worker it becomes a socket of the worker's own.

    The kernel spreads connections over such sockets. On one that all workers share, the worker that has just
    been busy is the first to accept: with few connections one worker gets nearly all of them. A worker
    listens when it is ready, and a dead one is sent nothing. Linux only.
    """

    def __init__(self, family: int, address: Any) -> None:
        super().__init__(family)
        _bind_with_others(self, address)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # so that no other service can listen

    def __reduce__(self) -> tuple[Any, ...]:  # how it gets into a worker
        return _socket_of_worker, (self.family, self.getsockname())


def _socket_of_worker(family: int, address: Any) -> socket.socket:
    own = socket.socket(family)
    _bind_with_others(own, address)
    return own


def _bind_with_others(own: socket.socket, address: Any) -> None:
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    own.bind(address)
