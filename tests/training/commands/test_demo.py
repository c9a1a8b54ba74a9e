"""`nextclick demo` and `make demo`: however they end, nothing that they started is left."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from service.live.deployment import publish, read_deployment
from tests.service.bundles import Shop
from tests.service.processes import own_host
from tests.waiting import DEADLINE_SECONDS, alive, until
from training.commands.demo import Steps

ROOT = Path(__file__).parents[3]

Command = Callable[[Path], list[str]]


def nextclick_demo(_: Path) -> list[str]:
    return [sys.executable, "-m", "nextclick", "demo"]


def make_demo(place: Path) -> list[str]:
    """The Makefile's own recipe, in an environment that is installed already."""
    venv = place / "venv"
    (venv / "bin").mkdir(parents=True)
    command = venv / "bin/nextclick"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m nextclick "$@"\n')
    command.chmod(0o755)
    (venv / "demo.stamp").touch()
    return ["make", "-C", str(ROOT), f"VENV={venv}", "demo"]


@contextmanager
def running(command: list[str], place: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[int, str]]]:
    """The demo as a child, what it says in place/said; and a dictionary for the processes that it started.

    Those are killed at the end, and the demo with them.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    kept = {name: v for name, v in os.environ.items() if not name.startswith(("NEXTCLICK_", "REDIS", "MAKE"))}
    with (place / "said").open("wb") as said:
        process = subprocess.Popen(
            command,
            env=kept
            | {
                "PYTHONPATH": str(ROOT),
                "NEXTCLICK_ARTIFACTS_DIR": str(place / "artifacts"),
                "NEXTCLICK_PORT": str(port),
                "NEXTCLICK_METRICS_HOST": own_host(),
            },
            stdout=said,
            stderr=said,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # not so under nohup
        )
    started: dict[int, str] = {}
    try:
        yield process, started
    finally:
        for pid in {process.pid, *descendants(process.pid), *filter(alive, started)}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def descendants(pid: int) -> dict[int, str]:
    """The command lines of its children, theirs, and so on."""
    children: dict[int, list[int]] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            parent = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(directory.name))
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            with suppress(FileNotFoundError, ProcessLookupError):
                found[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                waiting.append(child)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a killed demo leaves the service running")
@pytest.mark.parametrize(
    ("command", "number"),
    [
        (nextclick_demo, signal.SIGTERM),
        (nextclick_demo, signal.SIGINT),
        (nextclick_demo, signal.SIGHUP),
        (nextclick_demo, signal.SIGKILL),
        (make_demo, signal.SIGTERM),
    ],
)
def test_the_service_ends_with_it(tmp_path: Path, command: Command, number: signal.Signals) -> None:
    if command is make_demo and not shutil.which("make"):
        pytest.skip("there is no make")
    Shop.make().write(tmp_path / "artifacts", "v1")
    publish(tmp_path / "artifacts", "v1")
    said = tmp_path / "said"
    with running(command(tmp_path), tmp_path) as (process, started):
        until(
            lambda: b"Nextclick serves v1" in said.read_bytes() or process.poll() is not None, said.read_text
        )
        assert process.poll() is None, said.read_text()
        assert "  the shop     http://127.0.0.1:" in said.read_text()
        started |= descendants(process.pid)
        for part in ("-m service", "spawn_main", "redis-server"):
            assert any(part in line for line in started.values()), (part, started)
        process.send_signal(number)
        code = process.wait(DEADLINE_SECONDS)
        until(
            lambda: not any(map(alive, started)), lambda: str({p: started[p] for p in filter(alive, started)})
        )
    if number != signal.SIGKILL and command is nextclick_demo:
        assert code == 0, said.read_text()


def test_asked_to_end_it_does_not_go_on_to_the_next_step(tmp_path: Path) -> None:
    said = tmp_path / "said"
    with running(nextclick_demo(tmp_path), tmp_path) as (process, started):
        until(lambda: descendants(process.pid) or process.poll() is not None, said.read_text)
        started |= descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 128 + signal.SIGTERM, said.read_text()
        until(lambda: not any(map(alive, started)), lambda: str(started))
    assert "$ nextclick train" not in said.read_text()
    assert read_deployment(tmp_path / "artifacts").champion is None


def test_whoever_is_not_waited_for_ends_with_the_rest() -> None:
    with Steps({**os.environ}) as steps:
        beside = steps.start("http.server", "--bind", own_host(), "0", end_seconds=DEADLINE_SECONDS)
        assert steps.finish(steps.start("timeit", "--number", "1")) == 0
        assert beside.poll() is None
    assert not alive(beside.pid)
