"""Where artifacts lie: in a directory, which is the truth; or in an object store, which a directory mirrors.

Of a bundle the manifest is written last and taken away first, so nobody sees half a one: what lies in the
store without a manifest is no bundle, but what an upload that was cut off, or a prune, has left.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from service.live.object_store import ObjectStore
from service.process.settings import Settings, artifacts_url
from service.ranking.bundle import MANIFEST, VERSION_PATTERN, BundleError, check_sums, read_manifest

BUNDLES = "bundles"
LEFT_OVER = timedelta(days=1)  # an upload has ended long before


@dataclass(frozen=True)
class Artifacts:
    """A directory, and the URL of the store that it mirrors, if it does."""

    directory: Path
    url: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> Artifacts:
        """Those of a service, or of a command that reads its settings."""
        return cls(settings.artifacts_dir, settings.artifacts_url)

    @classmethod
    def at(cls, directory: Path) -> Artifacts:
        """Those of a command that reads no other setting. Raises `SettingsError`."""
        return cls(directory, artifacts_url())

    @cached_property
    def store(self) -> ObjectStore | None:
        """Raises `ObjectStoreError`."""
        return ObjectStore(self.url) if self.url is not None else None

    def bundle(self, version: str) -> Path:
        """Where a bundle lies on this machine."""
        return self.directory / BUNDLES / version


Place = Path | Artifacts  # a directory alone is the truth


def located(place: Place) -> Artifacts:
    """The artifacts of a place."""
    return place if isinstance(place, Artifacts) else Artifacts(place)


def fetch_bundle(place: Place, version: str) -> None:
    """Have a bundle on this machine if the store has it: downloaded beside, verified, then moved into place.

    Raises `BundleError` for one that is not as its manifest says, `ObjectStoreError`.
    """
    artifacts = located(place)
    store, final = artifacts.store, artifacts.bundle(version)
    if store is None or final.exists() or not VERSION_PATTERN.fullmatch(version):
        return
    manifest = store.read(_name(version, MANIFEST))
    if manifest is None:
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{version}.fetching-", dir=final.parent))
    try:
        (work / MANIFEST).write_bytes(manifest.content)
        for name in _files(work, version, f"{store.url}/{BUNDLES}/{version}"):
            store.download(_name(version, name), work / name)
        try:
            check_sums(work, read_manifest(work))
        except BundleError as error:
            problem = str(error).replace(str(work), f"{store.url}/{BUNDLES}/{version}")
            raise BundleError(problem) from None
        work.chmod(0o755)
        try:
            work.rename(final)
        except OSError:
            if not final.exists():  # else another process was faster
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def share_bundle(place: Place, version: str) -> None:
    """Have a bundle of this machine in the store, the manifest last; one that is there is let be.

    Raises `BundleError` when neither has it, or the store has another of that name; `ObjectStoreError`.
    """
    artifacts = located(place)
    store, path = artifacts.store, artifacts.bundle(version)
    if store is None:
        return
    there = store.read(_name(version, MANIFEST))
    if there is not None:
        if path.is_dir() and (path / MANIFEST).read_bytes() != there.content:
            raise BundleError(
                f"{store.url}: holds another bundle called {version}: versions are not replaced"
            )
        return
    if not path.is_dir():
        raise BundleError(f"{path}: there is no such bundle, neither here nor in {store.url}")
    names = _files(path, version, str(path))
    content = (path / MANIFEST).read_bytes()
    check_sums(path, read_manifest(path))
    for name in names:
        store.upload(_name(version, name), path / name)
    if not store.replace(_name(version, MANIFEST), content, None):
        share_bundle(place, version)  # another was faster: the same one, or it is told


def _files(path: Path, version: str, told: str) -> list[str]:
    """The files beside a bundle's manifest. Raises `BundleError`."""
    manifest = read_manifest(path)
    if manifest.version != version:
        raise BundleError(f"{told}: its manifest says version {manifest.version}")
    names = [name for name in manifest.files if name != MANIFEST]
    if strange := [name for name in names if Path(name).name != name or name.startswith(".")]:
        raise BundleError(f"{told}: {strange[0]!r} is no name of a bundle's file")
    return names


def take_away_bundles(store: ObjectStore, keep: int, needed: Collection[str]) -> dict[str, bytes]:
    """Take away the manifests of all bundles but the `needed` and the `keep` newest others; returns them.

    What they leave, as what uploads that were cut off have left, goes when this is called a day later: until
    then whoever puts a manifest back has the whole bundle.
    """
    manifests: dict[str, datetime] = {}
    newest: dict[str, datetime] = {}
    objects: dict[str, list[str]] = {}
    for each in store.list(BUNDLES):
        version, _, name = each.name.removeprefix(f"{BUNDLES}/").partition("/")
        objects.setdefault(version, []).append(each.name)
        newest[version] = max(each.modified, newest.get(version, each.modified))
        if name == MANIFEST:
            manifests[version] = each.modified
    for version in objects.keys() - manifests.keys() - set(needed):
        if datetime.now(UTC) - newest[version] > LEFT_OVER:
            store.delete(objects[version])
    spare = sorted(manifests.keys() - set(needed), key=lambda version: manifests[version], reverse=True)
    taken = {}
    for version in spare[keep:]:
        found = store.read(_name(version, MANIFEST))
        if found is not None:
            store.delete([_name(version, MANIFEST)])
            taken[version] = found.content
    return taken


def put_back(store: ObjectStore, version: str, manifest: bytes) -> None:
    """Let a bundle be one again whose manifest was taken away."""
    store.replace(_name(version, MANIFEST), manifest, None)


def remove_unfinished(directory: Path) -> None:
    """Delete what downloads have left that were cut off."""
    for path in (directory / BUNDLES).glob(".*.fetching-*"):
        age = datetime.now(UTC) - datetime.fromtimestamp(path.stat().st_mtime, UTC)
        if age > LEFT_OVER:
            shutil.rmtree(path, ignore_errors=True)


def _name(version: str, file: str) -> str:
    return f"{BUNDLES}/{version}/{file}"
