"""Brings what is live from the object store into the directory that workers follow, in the parent process.

deployment.json and its history are asked for as often as workers look at the directory; a bundle is there,
verified, before the directory's deployment.json names it. What is hidden never waits for a bundle. A store
that does not answer changes nothing: what there is goes on serving.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from service.live import history
from service.live.artifacts import Artifacts, fetch_bundle, remove_unfinished
from service.live.deployment import (
    FILE,
    Deployment,
    DeploymentError,
    replace_file,
    write_mirrored,
)
from service.live.history import HistoryError
from service.live.object_store import ObjectStore, ObjectStoreError, State
from service.process.metrics import ARTIFACTS_BEHIND_SECONDS
from service.ranking.bundle import BundleError

STATUS = "mirror.json"  # beside deployment.json, for the workers
AGAIN_SECONDS = 30.0  # until a bundle that could not be fetched is asked for again
STALE_SECONDS = 30.0  # without a word of the mirror, which speaks about once a second
TELL_SECONDS = 1.0

log = structlog.get_logger()


class MirrorStatus(BaseModel):
    """How the mirror does; `answered_at` in epoch seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    started_at: float
    answered_at: float | None = None  # the store, last
    problem: str | None = None

    def behind_seconds(self) -> float:
        """Since the store answered, or since the mirror began, if it never did."""
        return max(0.0, time.time() - (self.answered_at or self.started_at))


class Mirror:
    """One directory's; `look` is called again and again by one thread, bundles are fetched by another."""

    def __init__(self, artifacts: Artifacts, again_seconds: float = AGAIN_SECONDS) -> None:
        """Raises `ObjectStoreError` when the store cannot be asked at all."""
        assert artifacts.store is not None, "there is a store to mirror"
        self._artifacts = artifacts
        self._store: ObjectStore = artifacts.store
        self._again_seconds = again_seconds
        self._seen: dict[str, State] = {}
        self._wanted = Deployment()
        self._status = MirrorStatus(started_at=time.time())
        self._failed: dict[str, float] = {}  # when each bundle may be asked for again
        self._fetching: threading.Thread | None = None
        self._fetched = threading.Event()

    def follow(self, stop: threading.Event, poll_seconds: float) -> None:
        """Look at the store until it is time to stop."""
        while True:
            self.look()
            if stop.wait(poll_seconds):
                return

    def look(self) -> None:
        """Follow what has changed in the store, and begin to fetch what is missing."""
        problem = None
        try:
            self._follow_changes()
        except (ObjectStoreError, OSError, DeploymentError, HistoryError) as error:
            problem = str(error)
        self._tell(problem)
        self._fetch_missing()

    def _follow_changes(self) -> None:
        found = {name: self._store.read_if_new(name, self._seen.get(name)) for name in (FILE, history.FILE)}
        news = {name: read.state for name, read in found.items() if read is not None}
        if news or self._fetched.is_set():
            self._fetched.clear()
            try:
                self._wanted = write_mirrored(self._artifacts, self._store)
            except BaseException:
                self._fetched.set()  # to be tried again
                raise
            if FILE in news:
                self._failed = {}
            self._seen |= news

    def _fetch_missing(self) -> None:
        if self._fetching is not None and self._fetching.is_alive():
            return
        wanted = [*self._wanted.serving, *filter(None, [self._wanted.previous])]
        for version in wanted:
            is_due = self._failed.get(version, 0.0) <= time.monotonic()
            if is_due and not self._artifacts.bundle(version).is_dir():
                # A daemon: the service does not wait for it when it leaves.
                self._fetching = threading.Thread(
                    target=self._fetch, args=(version,), name=f"fetch {version}", daemon=True
                )
                self._fetching.start()
                return

    def _fetch(self, version: str) -> None:
        began = time.monotonic()
        try:
            fetch_bundle(self._artifacts, version)
            if not self._artifacts.bundle(version).is_dir():
                raise BundleError(f"{self._store.url}: has no bundle {version}, or one that is not finished")
        except (BundleError, ObjectStoreError, OSError) as error:
            self._failed[version] = time.monotonic() + self._again_seconds
            log.error("bundle not mirrored", version=version, error=str(error))
        else:
            log.info("bundle mirrored", version=version, seconds=round(time.monotonic() - began, 1))
            self._fetched.set()

    def _tell(self, problem: str | None) -> None:
        before = self._status.problem
        now = time.time()
        self._status = self._status.model_copy(
            update={"problem": problem} | ({"answered_at": now} if problem is None else {})
        )
        if problem is not None and before is None:
            log.warning("artifacts cannot be followed: serving goes on with what there is", error=problem)
        if problem is None and before is not None:
            log.info("artifacts are followed again")
        try:
            replace_file(self._artifacts.directory / STATUS, self._status.model_dump_json().encode() + b"\n")
        except OSError as error:
            log.warning("mirror.json not written", error=str(error))


@contextmanager
def mirrored(artifacts: Artifacts, poll_seconds: float) -> Iterator[None]:
    """Meanwhile, the directory follows its store, if it has one. Raises `ObjectStoreError`."""
    if artifacts.store is None:
        yield
        return
    artifacts.directory.mkdir(parents=True, exist_ok=True)
    remove_unfinished(artifacts.directory)
    mirror, stop = Mirror(artifacts), threading.Event()
    thread = threading.Thread(target=mirror.follow, args=(stop, poll_seconds), name="mirror", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()


def read_status(directory: Path) -> MirrorStatus | None:
    """What the mirror last said; None if it has said nothing."""
    try:
        return MirrorStatus.model_validate_json((directory / STATUS).read_bytes())
    except (OSError, ValidationError):
        return None


def outage(directory: Path) -> str | None:
    """What whoever asks for readiness is told of a store that is not followed; it serves all the same."""
    status = read_status(directory)
    if status is None:
        return "artifacts: nothing is known yet of the object store"
    behind = status.behind_seconds()
    if status.problem is None and behind < STALE_SECONDS:
        return None
    return f"artifacts: the object store is not followed since {behind:.0f} seconds: what is live stays"


async def follow_mirror(directory: Path) -> None:
    """Tell for ever how far behind the store this machine is."""
    while True:
        status = await asyncio.to_thread(read_status, directory)
        if status is not None:
            ARTIFACTS_BEHIND_SECONDS.set(status.behind_seconds())
        await asyncio.sleep(TELL_SECONDS)
