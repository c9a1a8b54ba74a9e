"""The processes that are measured: how they are started, and the processor time they take. Linux only."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from service.live.deployment import FILE
from service.process.embedded_redis import EmbeddedRedis

READY_SECONDS = 60.0
STOP_SECONDS = 45.0  # the service itself gives requests in flight 15
LEFT_BEHIND_SECONDS = 10.0
REDIS = "redis-server"
# Where a service of the developer's own may keep its state: this one has state of its own.
ELSEWHERE = ("REDIS_URL", "NEXTCLICK_REDIS_URL", "NEXTCLICK_METRICS_DIR")


@dataclass(frozen=True)
class Cpu:
    """Seconds of processor time: user and system, all threads."""

    service: float
    redis: float
    generator: float

    def __sub__(self, earlier: Cpu) -> Cpu:
        return Cpu(
            self.service - earlier.service, self.redis - earlier.redis, self.generator - earlier.generator
        )


class CpuMeter:
    """Reads what some processes and all that they have started, and this process, have used so far."""

    def __init__(self, *pids: int) -> None:
        found = list(with_descendants(pids))
        self._redis = [pid for pid in found if stat(pid)[0] == REDIS]
        self._service = [pid for pid in found if pid not in self._redis]

    def read(self) -> Cpu:
        """Raises `RuntimeError` when one of the processes has ended."""
        return Cpu(
            sum(map(_cpu_seconds, self._service)), sum(map(_cpu_seconds, self._redis)), time.process_time()
        )


@dataclass(frozen=True)
class Running:
    """Something that answers on a port; to publish in its `artifacts` changes nothing elsewhere."""

    port: int
    pids: tuple[int, ...]
    artifacts: Path


@contextmanager
def service(artifacts: Path, workers: int, **settings: str) -> Iterator[Running]:
    """A service on what is live in `artifacts`, with state of its own; `settings` are NEXTCLICK_... names."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        own = Path(directory)
        (own / "bundles").symlink_to((artifacts / "bundles").resolve())
        shutil.copy(artifacts / FILE, own / FILE)
        environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
        environment |= {
            "NEXTCLICK_ARTIFACTS_DIR": directory,
            "NEXTCLICK_LOG_LEVEL": "warning",
            "NEXTCLICK_METRICS_PORT": "0",  # two services run side by side
            **settings,
        }
        command = [sys.executable, "-m", "service", "--port", str(port), "--workers", str(workers)]
        with started(command, environment, f"http://127.0.0.1:{port}/health/ready") as pid:
            yield Running(port, (pid,), own)


@contextmanager
def stub(bundle: Path, workers: int) -> Iterator[Running]:
    """The plain service of `benchmarks.load.stub`, with a Redis like the service's."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory, EmbeddedRedis(Path(directory)) as redis:
        environment = {**os.environ, "STUB_BUNDLE": str(bundle.resolve()), "STUB_REDIS_URL": redis.url}
        command = [
            *(sys.executable, "-m", "uvicorn", "benchmarks.load.stub:create_app", "--factory"),
            *("--port", str(port), "--workers", str(workers), "--loop", "uvloop", "--http", "httptools"),
            *("--log-level", "warning", "--no-access-log"),
        ]
        with started(command, environment, f"http://127.0.0.1:{port}/health/ready") as pid:
            yield Running(port, (pid, redis.pid), Path(directory))


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], ready_url: str, log_file: Path | None = None
) -> Iterator[int]:
    """Run a command until the block ends; its process id, once `ready_url` answers 200.

    With a `log_file`, it runs where that lies, and writes there. Raises `RuntimeError` when it ends first, or
    takes too long.
    """
    with ExitStack() as stack:
        log = None if log_file is None else stack.enter_context(log_file.open("w"))
        directory = None if log_file is None else log_file.parent
        process = subprocess.Popen(
            command, env=environment, cwd=directory, stdout=log, stderr=log, start_new_session=True
        )
        stack.callback(_stop, process)
        try:
            _wait_until_ready(process, ready_url)
        except RuntimeError as error:
            said = "" if log_file is None else f"; it wrote: {log_file.read_text()[-2000:]}"
            raise RuntimeError(f"{' '.join(command)}: {error}{said}") from None
        yield process.pid


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not _answers(url):
        if process.poll() is not None:
            raise RuntimeError(f"ended with status {process.returncode}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{url} did not answer 200 within {READY_SECONDS:g} s")
        time.sleep(0.2)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """First itself, so that it can stop in its own order, then whatever it left in its process group."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    deadline = time.monotonic() + LEFT_BEHIND_SECONDS
    with suppress(ProcessLookupError):  # nobody is left
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
    return True


def with_descendants(pids: Sequence[int]) -> Iterator[int]:
    """Processes, and all that they have started and that is there now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int(stat(int(entry.name))[1][1])
            except RuntimeError:  # one of the machine's other processes, which has just ended
                continue
            children.setdefault(parent, []).append(int(entry.name))
    left = list(pids)
    while left:
        pid = left.pop()
        yield pid
        left += children.get(pid, [])


def _cpu_seconds(pid: int) -> float:
    fields = stat(pid)[1]
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stat(pid: int) -> tuple[str, list[str]]:
    """Name and the fields behind it, of proc(5)'s stat; field n there is number n - 3 here."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        raise RuntimeError(f"process {pid} has ended") from None
    name, _, fields = text.partition("(")[2].rpartition(") ")
    return name, fields.split()
