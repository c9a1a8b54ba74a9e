"""What is live: follows deployment.json and swaps bundles between two requests.

A new bundle is loaded, proven and warmed in a thread beside the old one. A bad one is refused and reported,
and tried again only when deployment.json changes or `reload` is called; the old one goes on serving.

One that is not there in time is refused as well. An encoder that loops is interrupted; Python cannot end a
thread that waits for a disk, which is left behind, but no more than one for each version: none is begun again
before it has ended.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from service.catalogue.attributes import KNOWN, Kind
from service.catalogue.filters import Alignment, Filters
from service.catalogue.placements import Placement, Prepared, prepare, prepare_all
from service.live.artifacts import Place, fetch_bundle, located
from service.live.deployment import (
    COMMAND,
    FILE,
    Deployment,
    DeploymentError,
    Role,
    bundle_path,
    challenge,
    change_hidden,
    check_experiment,
    delete_placement,
    placements_of,
    publish,
    read_deployment,
    rollback,
    rollback_placement,
    set_placement,
    shadow,
    withdraw,
)
from service.live.snapshot import Snapshot
from service.process.metrics import BUNDLE_FAILURES, BUNDLE_LIVE
from service.ranking.bundle import VERSION_PATTERN, Bundle, BundleError
from service.ranking.encoder import Interrupt
from service.ranking.retriever import search_threads
from service.ranking.served import ServedBundle

WARM_K = 100  # the most that can be asked for
LOAD_TIMEOUT_SECONDS = 300.0

Load = Callable[[Path, str, Interrupt], Bundle]
T = TypeVar("T")

log = structlog.get_logger()


class DeploymentFollower:
    """What this worker serves now (`current`), and what was `refused`: reasons by version.

    `filters` are made ready for each bundle before it is served.
    """

    def __init__(
        self,
        artifacts: Place,
        poll_seconds: float,
        load_timeout_seconds: float = LOAD_TIMEOUT_SECONDS,
        load: Load | None = None,
        filters: Filters | None = None,
    ) -> None:
        self.current = Snapshot()
        self.filters = filters or Filters(KNOWN)
        self.refused: dict[str, str] = {}
        self._place = located(artifacts)  # which changes go to
        self._artifacts = self._place.directory  # which is followed
        self._poll_seconds = poll_seconds
        self._load_bundle = load or load_bundle
        self._load_timeout_seconds = load_timeout_seconds
        self._bundles: dict[str, Bundle] = {}
        self._begun: dict[str, Future[Bundle]] = {}  # loads that were not there in time
        self._unreadable: str | None = None
        self._seen: tuple[int, int] | None = None  # of deployment.json, when it was last read
        self._loading: asyncio.Task[None] | None = None
        # One change after the other is applied, in a thread that no bundle keeps busy: where many items are
        # hidden, each takes so long that requests would feel it.
        self._applying = asyncio.Lock()
        self._applier = ThreadPoolExecutor(1, "deployment")

    @property
    def error(self) -> str | None:
        """Why what is served is not what was asked for."""
        unprepared = (
            f"placement {each.name}: {each.problem}"
            for each in self.current.placements.values()
            if each.problem is not None
        )
        return self._unreadable or next(iter(self.refused.values()), None) or next(unprepared, None)

    async def follow(self) -> None:
        """Look at deployment.json for ever; never waits for a bundle, so hidden items are never late."""
        while True:
            await self.look()
            await asyncio.sleep(self._poll_seconds)

    async def look(self) -> None:
        """Read deployment.json if it changed: what is hidden holds then, new versions start to load."""
        async with self._applying:
            try:
                status = (self._artifacts / FILE).stat()
            except OSError as error:
                if self._seen is not None:  # else nothing was published yet
                    self._seen = None
                    self._report(error)
                return
            seen = (status.st_ino, status.st_mtime_ns)
            if self._seen == seen:
                return
            try:
                deployment = await self._apart(read_deployment, self._artifacts)
            except DeploymentError as error:
                self._seen, self.refused = seen, {}
                self._report(error)
                return
            await self._switch(deployment)
            self._seen, self._unreadable, self.refused = seen, None, {}
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._load())

    async def settle(self) -> None:
        """Wait until no bundle is loading."""
        if self._loading is not None:
            await asyncio.shield(self._loading)

    async def reload(self) -> None:
        """Read deployment.json again, and try a refused bundle again."""
        self._seen = None
        await self.look()
        await self.settle()

    async def activate(self, version: str, by: str = COMMAND) -> None:
        """Make `version` the champion of every worker. Raises `BundleError` and then changes nothing."""
        await self._prove(version)
        await self._change(partial(publish, by=by), version)
        await self.settle()

    async def try_out(self, role: Role, version: str, share: float, by: str) -> None:
        """Give `version` a share of the sessions of every worker, seen or unseen.

        Raises `BundleError` or `DeploymentError` and then changes nothing.
        """
        deployed = await asyncio.to_thread(read_deployment, self._place)
        check_experiment(deployed, role, version, share)
        await self._prove(version)
        await self._change(challenge if role == "challenger" else shadow, version, share, by)
        await self.settle()

    async def withdraw(self, role: Role, by: str) -> None:
        """End an experiment in every worker. Raises `DeploymentError` when there is none."""
        await self._change(withdraw, role, by)

    async def rollback(self, by: str = COMMAND) -> None:
        """Swap champion and previous. Raises `DeploymentError` or `BundleError` and then changes nothing."""
        previous = (await asyncio.to_thread(read_deployment, self._place)).previous
        if previous is not None:
            await self._prove(previous)
        await self._change(rollback, by)
        await self.settle()

    async def change_hidden(self, hide: Iterable[str] = (), unhide: Iterable[str] = ()) -> None:
        """Never answer some items again, and let others be, in any worker. Raises `DeploymentError`."""
        await self._change(change_hidden, hide, unhide)

    def prepared(self, name: str, placement: Placement, place: str = "") -> Prepared:
        """A placement whose rules are read; `place` is where it stands. Raises `PlacementError`."""
        return prepare(name, placement, self.filters.columns.kinds, place)

    async def set_placement(self, name: str, placement: Placement, by: str, place: str = "") -> None:
        """Let a placement be so in every worker. Raises `PlacementError`, `DeploymentError`."""
        self.prepared(name, placement, place)
        await self._change(set_placement, name, placement, by)

    async def rollback_placement(self, name: str, by: str, number: int | None = None) -> None:
        """Let a placement be what it was before. Raises `DeploymentError`."""
        await self._change(rollback_placement, name, by, number)

    async def delete_placement(self, name: str) -> None:
        """Forget a placement in every worker. Raises `DeploymentError`."""
        await self._change(delete_placement, name)

    async def _change(self, write: Callable[..., Deployment], *arguments: object) -> None:
        # In a thread: it may have to wait for another publisher's lock.
        await asyncio.to_thread(write, self._place, *arguments)
        await self.look()

    async def _prove(self, version: str) -> None:
        """Load a version that may lie in the store alone. Raises `BundleError`, `ObjectStoreError`."""
        await asyncio.to_thread(fetch_bundle, self._place, version)
        await asyncio.to_thread(self._load_in_time, version)

    async def _apart(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._applier, work, *arguments)

    async def _load(self) -> None:
        """Load one version after the other, the champion first, until each is there or refused."""
        while (version := self._missing()) is not None:
            load = self._load_in_turn if self.current.bundles else self._load_in_time
            try:
                bundle = await asyncio.to_thread(load, version)
            except Exception as error:  # whatever a library raises: what is loaded goes on serving
                self.refused[version] = str(error)
                BUNDLE_FAILURES.inc()
                log.error("bundle refused", version=version, error=str(error), serving=self._serving())
            else:
                async with self._applying:
                    self._bundles[version] = bundle
                    await self._switch(self.current.deployment)  # which may have changed meanwhile

    def _load_in_turn(self, version: str) -> Bundle:
        """One worker after the other: the rest keep the processor for their visitors."""
        with turn_to_load(self._artifacts):
            return self._load_in_time(version)

    def _load_in_time(self, version: str) -> Bundle:
        """`load_bundle` within its time. Raises `BundleError`."""
        late = self._begun.pop(version, None)
        if late is not None and not late.done():
            self._begun[version] = late
            raise BundleError(f"{version}: an earlier try to load it has not ended yet")
        loading: Future[Bundle] = Future()
        interrupt = Interrupt()

        def load() -> None:
            try:
                loading.set_result(self._load_bundle(self._artifacts, version, interrupt))
            except Exception as error:
                loading.set_exception(error)

        # A daemon, unlike the threads of a pool: the worker does not wait for it when it leaves.
        threading.Thread(target=load, name=f"load {version}", daemon=True).start()
        try:
            return loading.result(self._load_timeout_seconds)
        except TimeoutError:
            interrupt()
            self._begun[version] = loading
            raise BundleError(
                f"{version}: not loaded within {self._load_timeout_seconds:g} seconds: its encoder loops, "
                "or the disk does not answer"
            ) from None

    def _missing(self) -> str | None:
        wanted = self.current.deployment.serving
        return next((v for v in wanted if v not in self._bundles and v not in self.refused), None)

    async def _switch(self, deployment: Deployment) -> None:
        old = self.current.bundles
        before = old["champion"].version if "champion" in old else None
        # One assignment: an answer is made from the old one or from the new one, never from a mixture.
        alignments = self.filters.aligning(self._bundles.values())
        self.current = await self._apart(
            _made_ready, deployment, self._bundles, before, alignments, self.filters.columns.kinds
        )
        new = self.current.bundles
        self.filters.keep(list(new.values()), alignments)
        kept = {served.version for served in new.values()}
        self._bundles = {version: bundle for version, bundle in self._bundles.items() if version in kept}
        for role, served in old.items():
            BUNDLE_LIVE.labels(served.version, served.bundle.manifest.model, role).set(0)
        for role, served in new.items():
            BUNDLE_LIVE.labels(served.version, served.bundle.manifest.model, role).set(1)
        log.info(
            "deployment followed",
            champion=deployment.champion,
            serving=self._serving(),
            hidden=len(self.current.hidden),
        )

    def _serving(self) -> dict[str, str]:
        return {role: served.version for role, served in self.current.bundles.items()}

    def _report(self, error: Exception) -> None:
        self._unreadable = str(error)
        BUNDLE_FAILURES.inc()
        log.error("deployment refused", error=self._unreadable, serving=self._serving())


def snapshot_of(
    deployment: Deployment,
    bundles: Mapping[str, Bundle],
    before: str | None,
    kinds: Mapping[str, Kind] = KNOWN,
) -> Snapshot:
    """What answers by a deployment, as far as it is loaded: until its champion is, the one `before`."""
    hidden = frozenset(deployment.hidden)

    def serve(version: str | None) -> ServedBundle | None:
        bundle = bundles.get(version) if version is not None else None
        return ServedBundle.of(bundle, hidden) if bundle is not None else None

    champion = serve(deployment.champion) or serve(before)
    return Snapshot(
        deployment,
        hidden,
        champion,
        serve(deployment.challenger),
        serve(deployment.shadow),
        prepare_all(placements_of(deployment), kinds),
    )


def _made_ready(
    deployment: Deployment,
    bundles: Mapping[str, Bundle],
    before: str | None,
    alignments: Iterable[Alignment],
    kinds: Mapping[str, Kind],
) -> Snapshot:
    for alignment in alignments:
        alignment.fill()
    snapshot = snapshot_of(deployment, bundles, before, kinds)
    if any(each.placement.mmr is not None for each in snapshot.placements.values()):
        for served in snapshot.bundles.values():
            served.bundle.ready_vectors()
    return snapshot


@contextmanager
def turn_to_load(artifacts: Path) -> Iterator[None]:
    """Held by one process of this machine at a time.

    A file of this machine, not one beside the bundles: where many machines share those, their workers need
    not wait for each other, and NFS, which locks nothing that is not open for writing, is not asked at all.
    """
    name = hashlib.sha256(os.fsencode(artifacts.resolve())).hexdigest()[:16]
    file = Path(tempfile.gettempdir()) / f"nextclick-loading-{os.getuid()}-{name}.lock"
    turn = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)  # let go by closing, or by the end of a process that is killed
        yield
    finally:
        os.close(turn)


def load_bundle(artifacts: Path, version: str, interrupt: Interrupt | None = None) -> Bundle:
    """Load, prove and warm a version's bundle. Raises `BundleError`."""
    if not VERSION_PATTERN.fullmatch(version):
        raise BundleError("a version is made of letters, digits, '.', '_' and '-'")
    with search_threads(1):
        bundle = Bundle.load(bundle_path(artifacts, version), interrupt=interrupt)
        if bundle.manifest.version != version:
            raise BundleError(f"{bundle.path}: its manifest says version {bundle.manifest.version}")
        for length in sorted({1, min(5, bundle.ranker.max_length), bundle.ranker.max_length}):
            # Its pages are read and its memory is allotted now, not by the first visitor.
            bundle.ranker.rank([[1] * length], [WARM_K], [()])
    return bundle
