"""Processor time of other processes, and that none outlives its benchmark."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from benchmarks.load.processes import CpuMeter, free_port, started
from benchmarks.load.torchserve import torchserve
from service.process.embedded_redis import EmbeddedRedis
from tests.waiting import alive, until

# It serves from a child, as TorchServe does, and leaves it alone when it is stopped.
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "http.server", sys.argv[1], "--bind", "127.0.0.1"])
print(child.pid, flush=True)
child.wait()
"""
BUSY = """
import signal, time
while time.process_time() < 0.3:
    pass
print("done", flush=True)
signal.pause()
"""
PARENT_OF_BUSY = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}])"


def test_processor_time_of_descendants_counts_and_that_of_redis_apart(
    redis_server: EmbeddedRedis, redis_client: Redis
) -> None:
    def redis_has_worked() -> bool:
        for _ in range(100):
            redis_client.ping()
        return CpuMeter(redis_server.pid).read().redis > 0  # counted in hundredths of a second

    until(redis_has_worked)
    command = [sys.executable, "-c", PARENT_OF_BUSY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"done\n"
            used = CpuMeter(process.pid, redis_server.pid).read()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert used.service >= 0.28
    assert used.redis > 0
    assert CpuMeter(redis_server.pid).read().service == 0
    with pytest.raises(RuntimeError, match=f"process {process.pid} has ended"):
        CpuMeter(process.pid)


def test_what_a_command_has_started_ends_with_it(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    with started([sys.executable, "-c", PARENT, str(port)], os.environ, f"http://127.0.0.1:{port}/", log):
        child = int(log.read_text().split()[0])
        assert Path(f"/proc/{child}").exists()
    until(lambda: not alive(child))


def test_a_command_that_ends_is_refused_with_its_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no such model'); raise SystemExit(3)"]
    url = f"http://127.0.0.1:{free_port()}/"
    with (
        pytest.raises(RuntimeError, match="ended with status 3; it wrote: no such model"),
        started(command, os.environ, url, tmp_path / "log"),
    ):
        pass


def test_torchserve_says_what_it_misses(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="bin/torchserve: missing: install torchserve"),
        torchserve(tmp_path, workers=1),
    ):
        pass
