"""Running processes: the service as its users start it, and who of its workers answers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from random import randrange
from typing import Any

from tests.waiting import DEADLINE_SECONDS, until

ROOT = Path(__file__).parents[2]


def peer(connection: socket.socket) -> int | None:
    """Who has accepted a connection within this machine: the process id; None before anybody has."""
    ours, theirs = connection.getsockname()[1], connection.getpeername()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, *rest = line.split()
        if [int(address.rpartition(":")[2], 16) for address in (local, remote)] == [theirs, ours]:
            inode = rest[6]
            for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
                with suppress(OSError):  # it was closed, or is not ours to look at
                    if descriptor.readlink() == Path(f"socket:[{inode}]"):
                        return int(descriptor.parts[2])
    return None


@dataclass(frozen=True)
class Answer:
    """An answer, and the worker that gave it; None if that has left the connection by then."""

    pid: int | None
    status: int
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True)
class Service:
    """A program that serves, in its own process, and what it has logged so far."""

    process: subprocess.Popen[bytes]
    log: Path
    workers: int = 1
    metrics_host: str = "127.0.0.1"

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The entries of an event; the last line may be half written."""
        lines = [line for line in self.log.read_text().split("\n")[:-1] if line.startswith("{")]
        return [entry for entry in map(json.loads, lines) if entry["event"] == event]

    @property
    def port(self) -> int:
        """The port that it has taken."""
        return int(until(self._listening)[0]["port"])

    def _listening(self) -> list[dict[str, Any]]:
        assert self.process.poll() is None, self.log.read_text()
        return self.logged("listening")

    def warnings(self, about: str) -> list[str]:
        """Those of `/health/ready` that say this; others may stand beside them while something is away."""
        return [line for line in self.ask("GET", "/health/ready").json().get("warnings", ()) if about in line]

    def metrics(self) -> str:
        """What it tells Prometheus."""
        with closing(HTTPConnection(self.metrics_host, 9464, timeout=DEADLINE_SECONDS)) as connection:
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            assert answer.status == 200
            return answer.read().decode()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """Ask the worker that the kernel gives a new connection to."""
        content = None if body is None else json.dumps(body)
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)) as connection:
            connection.request(method, path, content, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            text = answer.read().decode()
            pid = peer(connection.sock) if connection.sock else None
        return Answer(pid, answer.status, text)

    def each(self, path: str) -> list[Answer]:
        """GET a path from every worker: new connections until each has answered one; each must say 200."""
        answers: dict[int, Answer] = {}

        def all_have_answered() -> bool:
            answer = self.ask("GET", path)
            assert answer.status == 200, answer
            if answer.pid is not None:
                answers[answer.pid] = answer
            return len(answers) == self.workers

        until(all_have_answered)
        return list(answers.values())

    def refuses_connections(self) -> bool:
        """Whether nobody listens any more: what every worker does first when it is told to leave."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_SECONDS).close()
        except ConnectionRefusedError:
            return True
        return False

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_SECONDS)


@contextmanager
def running(directory: Path, *command: str, workers: int = 1, **environment: str) -> Iterator[Service]:
    """Run a program that serves, by default `python -m service`, on a free port, and stop it at the end."""
    log, metrics_host = directory / "service.log", own_host()
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, *(command or ("-m", "service"))],
            cwd=directory,
            env=clean_environment()
            | {"NEXTCLICK_PORT": "0", "NEXTCLICK_WORKERS": str(workers), "TMPDIR": str(directory)}
            | {"NEXTCLICK_METRICS_HOST": metrics_host}
            | environment,
            stdout=stream,
            stderr=stream,
        )
    try:
        yield Service(process, log, workers, metrics_host)
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE_SECONDS)
        finally:
            process.kill()
            process.wait()
            print(log.read_text())


def own_host() -> str:
    """An address of this machine that no other service has, so that it can have any port. Linux only."""
    return f"127.{randrange(1, 255)}.{randrange(256)}.{randrange(1, 255)}"


def clean_environment() -> dict[str, str]:
    """This one without its settings of the service."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("NEXTCLICK_", "REDIS_URL"))
    }
    return kept | {"PYTHONPATH": str(ROOT)}
