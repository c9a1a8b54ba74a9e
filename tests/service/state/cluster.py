"""A real Redis Cluster, as small as one can be: one node that holds all slots."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from service.process.embedded_redis import find_redis_server
from tests.waiting import DEADLINE_SECONDS

SLOTS = 16384
BUS = 10_000  # a node listens for other nodes this far above its port


@contextmanager
def one_node_cluster(directory: Path) -> Iterator[Redis]:
    """Start it, and end it; yields a plain client."""
    process, client = _started(directory)
    try:
        cluster(client, "ADDSLOTS", *range(SLOTS))
        deadline = time.monotonic() + DEADLINE_SECONDS
        while cluster(client, "INFO")["cluster_state"] != "ok":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait()


def url_of(client: Redis) -> str:
    return f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}"


def slot_of(client: Redis, key: str) -> int:
    """The slot that the server itself says."""
    return int(cluster(client, "KEYSLOT", key))


def cluster(client: Redis, command: str, *arguments: str | int) -> Any:
    """The reply to one of the CLUSTER commands."""
    return client.execute_command(f"CLUSTER {command}", *arguments)  # type: ignore[no-untyped-call]


def _started(directory: Path) -> tuple[subprocess.Popen[bytes], Redis]:
    while True:
        port = _free_port()
        command = [
            find_redis_server(),
            *("--cluster-enabled", "yes", "--cluster-config-file", str(directory / "nodes.conf")),
            *("--bind", "127.0.0.1", "--port", str(port)),
            *("--dir", str(directory), "--save", "", "--logfile", str(directory / "redis.log")),
        ]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        client = Redis(port=port, decode_responses=True, socket_timeout=DEADLINE_SECONDS)
        while process.poll() is None:
            with suppress(RedisError):
                client.ping()
                return process, client
            time.sleep(0.02)
        assert "already in use" in (directory / "redis.log").read_text(), "another process was quicker"
        client.close()


def _free_port() -> int:
    """A port that is free, and so is the one for other nodes."""
    while True:
        with ExitStack() as stack:
            port: int = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            try:
                stack.enter_context(socket.create_server(("127.0.0.1", port + BUS)))
            except (OSError, OverflowError):
                continue
            return port
