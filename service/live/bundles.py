"""Which bundles lie in artifacts/bundles, and what each manifest says of them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from service.live.deployment import bundle_path
from service.ranking.bundle import BundleError, Manifest, check_files, read_manifest


@dataclass(frozen=True)
class BundleFound:
    """A directory among the bundles; `problem` says why it cannot be served, as far as can be seen."""

    version: str
    manifest: Manifest | None
    problem: str | None
    size_bytes: int


def find_bundles(artifacts: Path) -> list[BundleFound]:
    """All of them, the newest first, those whose manifest cannot be read last.

    Files are looked for, and not read: what was altered since is found when a bundle is loaded. Raises
    `BundleError` when the directory itself cannot be read.
    """
    directory = artifacts / "bundles"
    try:
        # Those that begin with a dot are being written, or deleted.
        names = sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BundleError(f"{directory}: cannot be read: {error.strerror}") from error
    found = [_look_at(artifacts, name) for name in names]
    return sorted(found, key=_age)


def _look_at(artifacts: Path, name: str) -> BundleFound:
    path = bundle_path(artifacts, name)
    manifest = None
    try:
        manifest = read_manifest(path)
        if manifest.version != name:
            raise BundleError(f"{path}: its manifest says version {manifest.version}")
        check_files(path, manifest)
    except BundleError as error:
        return BundleFound(name, manifest, str(error), _size_bytes(path))
    return BundleFound(name, manifest, None, _size_bytes(path))


def _size_bytes(path: Path) -> int:
    with suppress(OSError):  # it is no directory, or was deleted meanwhile
        return sum(file.lstat().st_size for file in path.iterdir())
    return 0


def _age(bundle: BundleFound) -> tuple[bool, float]:
    if bundle.manifest is None:
        return True, 0.0
    return False, -bundle.manifest.created_at.timestamp()
