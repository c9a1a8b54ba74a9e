"""A service that is started again whenever it ends, as systemd would, and its processes to be killed."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.processes import ELSEWHERE, REDIS, free_port, stat, with_descendants
from service.live.deployment import FILE

KINDS = {"worker": 5, "redis": 5, "parent": 3, "all": 2}  # how often, about
MIN_ANSWERS, MAX_ANSWERS = 50, 1000
LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Kill:
    """Who is killed, and after how many more answers: no clock decides what a run is like."""

    kind: str
    after_answers: int


def plan(kills: int, seed: int) -> list[Kill]:
    """Each kind at least once, if there are so many kills; some of them in quick succession."""
    rng = random.Random(seed)
    kinds = [*KINDS][:kills]
    kinds += rng.choices([*KINDS], [*KINDS.values()], k=kills - len(kinds))
    rng.shuffle(kinds)
    gaps = [0 if rng.random() < 0.2 else rng.randint(MIN_ANSWERS, MAX_ANSWERS) for _ in kinds]
    return [Kill(kind, gap) for kind, gap in zip(kinds, gaps, strict=True)]


class Service:
    """The service, in a directory of its own."""

    def __init__(self, artifacts: Path, own: Path, workers: int, environment: Mapping[str, str]) -> None:
        own.mkdir()
        (own / "bundles").symlink_to((artifacts / "bundles").resolve())
        shutil.copy(artifacts / FILE, own / FILE)
        self.own, self.port = own, free_port()
        self._command = [sys.executable, "-m", "service", "--port", str(self.port), "--workers", str(workers)]
        kept = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
        own_names = {"NEXTCLICK_ARTIFACTS_DIR": str(own), "NEXTCLICK_METRICS_PORT": "0", "TMPDIR": str(own)}
        self._environment = {**kept, **own_names, **environment}
        self._log = (own / "service.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    async def keep_running(self) -> None:
        """Start it whenever it is not there, for ever."""
        while True:
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(
                    self._command, env=self._environment, stdout=self._log, stderr=self._log
                )
            await asyncio.sleep(LOOK_SECONDS)

    def processes(self) -> dict[str, list[int]]:
        """Process ids by kind; of those that are there at this moment."""
        found: dict[str, list[int]] = {"redis": [], "worker": [], "parent": []}
        if self._process is None or self._process.poll() is not None:
            return found
        for pid in with_descendants([self._process.pid]):
            with suppress(RuntimeError, OSError):
                kind = _kind(pid, self._process.pid)
                if kind:
                    found[kind].append(pid)
        return found

    def kill(self, kind: str, rng: random.Random) -> bool:
        """kill -9 one process of a kind, or all at once; whether there was one."""
        processes = self.processes()
        if kind == "all":
            victims = [pid for pids in processes.values() for pid in pids]
            if not all(processes.values()):
                return False
        else:
            victims = [rng.choice(processes[kind])] if processes[kind] else []
        for pid in victims:
            _kill(pid)
        return bool(victims)

    def wrote(self) -> str:
        """The end of its log."""
        return Path(self._log.name).read_text()[-2000:]

    def end(self) -> None:
        """kill -9 of all that is left, until nothing is: what only a process knows is lost now."""
        while left := self._ours():
            for pid in left:
                _kill(pid)
            if self._process is not None:
                self._process.wait()
            time.sleep(LOOK_SECONDS)
        self._log.close()

    def _ours(self) -> list[int]:
        """All processes that know our directory: a Redis whose parent is dead is nobody's child."""
        found = []
        for file in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # it has ended, or is not ours to look at
                if os.fsencode(self.own) in file.read_bytes():
                    found.append(int(file.parent.name))
        return found


def _kind(pid: int, parent: int) -> str | None:
    if pid == parent:
        return "parent"
    if stat(pid)[0] == REDIS:
        return "redis"
    return "worker" if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes() else None


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
