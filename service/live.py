"""The live bundle: follows deployment.json and swaps bundles between two requests.

A new bundle is loaded and proven in a thread beside the old one. A bad one is refused and reported, and tried
again only when deployment.json changes or `reload` is called; the old one goes on serving.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from service.bundle import VERSION_PATTERN, Bundle, BundleError
from service.deployment import (
    FILE,
    Deployment,
    DeploymentError,
    bundle_path,
    hide,
    publish,
    read_deployment,
    rollback,
    unhide,
)
from service.metrics import BUNDLE_FAILURES, BUNDLE_LIVE
from service.ranker import Ranker
from service.retriever import Items

log = structlog.get_logger()


@dataclass(frozen=True)
class Model:
    """A loaded bundle as it is served: hidden items are left out once per deployment, not per request."""

    bundle: Bundle
    ranker: Ranker
    visible: Items  # item indices that are not hidden, most popular first

    @classmethod
    def serve(cls, bundle: Bundle, hidden: frozenset[str]) -> Model:
        """Leave `hidden` out of a bundle."""
        items = {bundle.index_of[item_id] for item_id in hidden if item_id in bundle.index_of}
        ranker = bundle.ranker.without(items)
        return cls(bundle, ranker, ranker.visible())

    @property
    def version(self) -> str:
        """The bundle's version."""
        return self.bundle.manifest.version


@dataclass(frozen=True)
class Live:
    """All that an answer depends on besides the session; an answer is made from one of these."""

    deployment: Deployment
    hidden: frozenset[str]
    model: Model | None


class LiveBundle:
    """What this worker serves now (`current`), and why it may not be what was asked for (`error`)."""

    def __init__(self, artifacts: Path, poll_seconds: float) -> None:
        self.current = Live(Deployment(), frozenset(), None)
        self.error: str | None = None
        self._artifacts = artifacts
        self._poll_seconds = poll_seconds
        self._seen: tuple[int, int] | None = None  # of deployment.json, when it was last read
        self._refused: str | None = None
        self._loading: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        """Look at deployment.json for ever; never waits for a bundle, so hidden items are never late."""
        while True:
            self.look()
            await asyncio.sleep(self._poll_seconds)

    def look(self) -> None:
        """Read deployment.json if it changed: what is hidden holds at once, a new champion starts to load."""
        try:
            status = (self._artifacts / FILE).stat()
        except OSError as error:
            if self._seen is not None:  # else nothing was published yet
                self._seen = None
                self._report(error)
            return
        if self._seen == (status.st_ino, status.st_mtime_ns):
            return
        self._seen = (status.st_ino, status.st_mtime_ns)
        self.error = self._refused = None
        try:
            deployment = read_deployment(self._artifacts)
        except DeploymentError as error:
            self._report(error)
            return
        model = self.current.model
        self._switch(deployment, model.bundle if model else None)
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._load())

    async def settle(self) -> None:
        """Wait until no bundle is loading."""
        if self._loading is not None:
            await asyncio.shield(self._loading)

    async def reload(self) -> None:
        """Read deployment.json again, and try a refused bundle again."""
        self._seen = None
        self.look()
        await self.settle()

    async def activate(self, version: str) -> None:
        """Make `version` the champion of every worker. Raises `BundleError` and then changes nothing."""
        await asyncio.to_thread(load_bundle, self._artifacts, version)
        await self._change(publish, version)
        await self.settle()

    async def rollback(self) -> None:
        """Swap champion and previous. Raises `DeploymentError` or `BundleError` and then changes nothing."""
        previous = read_deployment(self._artifacts).previous
        if previous is not None:
            await asyncio.to_thread(load_bundle, self._artifacts, previous)
        await self._change(rollback)
        await self.settle()

    async def hide(self, item_id: str) -> None:
        """Never answer `item_id` again, in any worker. Raises `DeploymentError`."""
        await self._change(hide, item_id)

    async def unhide(self, item_id: str) -> None:
        """Let `item_id` be answered again. Raises `DeploymentError`."""
        await self._change(unhide, item_id)

    async def _change(self, write: Callable[..., Deployment], *arguments: str) -> None:
        # In a thread: it may have to wait for another publisher's lock.
        await asyncio.to_thread(write, self._artifacts, *arguments)
        self.look()

    async def _load(self) -> None:
        while (version := self.current.deployment.champion) not in (None, self._refused, self._version()):
            try:
                bundle = await asyncio.to_thread(load_bundle, self._artifacts, version)
            except Exception as error:  # whatever a library raises: the old bundle goes on serving
                self._refused = version
                self._report(error)
            else:
                if self.current.deployment.champion == version:  # it may have changed meanwhile
                    self._switch(self.current.deployment, bundle)

    def _switch(self, deployment: Deployment, bundle: Bundle | None) -> None:
        hidden = frozenset(deployment.hidden)
        old, new = self.current.model, Model.serve(bundle, hidden) if bundle else None
        # One assignment: an answer is made from the old one or from the new one, never from a mixture.
        self.current = Live(deployment, hidden, new)
        if old and (new is None or old.version != new.version):
            BUNDLE_LIVE.labels(old.version, old.bundle.manifest.model).set(0)
        if new:
            BUNDLE_LIVE.labels(new.version, new.bundle.manifest.model).set(1)
        log.info(
            "deployment followed",
            champion=deployment.champion,
            serving=new.version if new else None,
            hidden=len(hidden),
        )

    def _version(self) -> str | None:
        return self.current.model.version if self.current.model else None

    def _report(self, error: Exception) -> None:
        self.error = str(error)
        BUNDLE_FAILURES.inc()
        log.error("deployment refused", error=self.error, serving=self._version())


def load_bundle(artifacts: Path, version: str) -> Bundle:
    """Load and prove a version's bundle. Raises `BundleError`."""
    if not VERSION_PATTERN.fullmatch(version):
        raise BundleError("a version is made of letters, digits, '.', '_' and '-'")
    bundle = Bundle.load(bundle_path(artifacts, version))
    if bundle.manifest.version != version:
        raise BundleError(f"{bundle.path}: its manifest says version {bundle.manifest.version}")
    return bundle
