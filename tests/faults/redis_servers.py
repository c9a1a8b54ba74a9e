"""Redis servers of a test's own, as somebody else would run them: any options, a TCP port, sentinels."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from service.process.embedded_redis import find_redis_server
from tests.waiting import DEADLINE_SECONDS, until

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Server:
    """A running one."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    def client(self, password: str | None = None) -> Redis:
        """A plain client."""
        return Redis(
            HOST,
            self.port,
            password=password,
            decode_responses=True,
            socket_timeout=DEADLINE_SECONDS,
            protocol=2,
        )

    def kill(self) -> None:
        """As a machine that is gone."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running_redis(
    directory: Path, *lines: str, password: str | None = None, is_sentinel: bool = False
) -> Iterator[Server]:
    """Start one with the lines of a redis.conf, in a directory of its own, and end it."""
    server = _started(directory, lines, password, is_sentinel)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait()


def _started(directory: Path, lines: tuple[str, ...], password: str | None, is_sentinel: bool) -> Server:
    directory.mkdir(parents=True)
    file, log = directory / "redis.conf", directory / "redis.log"
    while True:
        port = free_port()
        own = (f"bind {HOST}", f"port {port}", f"dir {directory}", f"logfile {log}")
        file.write_text("\n".join([*own, *([] if is_sentinel else ['save ""']), *lines, ""]))
        command = [find_redis_server(), str(file), *(["--sentinel"] if is_sentinel else [])]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        server = Server(port, process)
        try:
            if until(partial(_outcome, server, password)) == "answers":
                return server
        except BaseException:
            server.kill()
            raise
        if is_sentinel and "already in use" not in log.read_text():
            pytest.skip(f"{command[0]} is no sentinel: failovers are NOT tested")
        assert "already in use" in log.read_text(), log.read_text()


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _outcome(server: Server, password: str | None) -> str | None:
    if server.process.poll() is not None:
        return "ended"
    with suppress(RedisError), server.client(password) as client:
        client.ping()
        return "answers"
    return None
