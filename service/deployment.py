"""What is live: `deployment.json`, replaced atomically under the publisher's lock.

Bundles lie beside it, in `bundles/<version>/`. Publishing, rolling back and hiding items each rewrite this
one small file; every worker follows it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

FILE = "deployment.json"


class DeploymentError(ValueError):
    """deployment.json cannot be read or changed; the message says why."""


class Deployment(BaseModel):
    """The live version, the one before it, and the items that are never answered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    champion: str | None = None
    previous: str | None = None
    exclude_seen: bool = False
    hidden: tuple[str, ...] = ()


def bundle_path(artifacts: Path, version: str) -> Path:
    """Where a version's bundle lies."""
    return artifacts / "bundles" / version


def read_deployment(artifacts: Path) -> Deployment:
    """The current deployment; an empty one when nothing was published yet. Raises `DeploymentError`."""
    file = artifacts / FILE
    try:
        return Deployment.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return Deployment()
    except OSError as error:
        raise DeploymentError(f"{file}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise DeploymentError(f"{file}: {error.errors()[0]['msg']}") from error


def update_deployment(artifacts: Path, change: Callable[[Deployment], Deployment]) -> Deployment:
    """Read, change and replace deployment.json; concurrent publishers wait for each other.

    Raises `DeploymentError` when it cannot be read or written; the old one then stands.
    """
    try:
        artifacts.mkdir(parents=True, exist_ok=True)
        with _publisher_lock(artifacts):
            deployment = change(read_deployment(artifacts))
            replace_file(artifacts / FILE, deployment.model_dump_json(indent=2).encode() + b"\n")
    except OSError as error:
        raise DeploymentError(f"{artifacts / FILE}: cannot be written: {error.strerror}") from error
    return deployment


def publish(artifacts: Path, version: str, *, exclude_seen: bool | None = None) -> Deployment:
    """Make `version` the champion; the old champion becomes `previous`.

    `exclude_seen` says whether answers leave out what the session clicked; None keeps what was said before.
    """

    def change(old: Deployment) -> Deployment:
        return old.model_copy(
            update={
                "champion": version,
                "previous": old.previous if old.champion == version else old.champion,
                "exclude_seen": old.exclude_seen if exclude_seen is None else exclude_seen,
            }
        )

    return update_deployment(artifacts, change)


def rollback(artifacts: Path) -> Deployment:
    """Swap champion and previous. Raises `DeploymentError` when there is no previous version."""

    def change(old: Deployment) -> Deployment:
        if old.previous is None:
            raise DeploymentError(f"{artifacts / FILE}: there is no previous version to roll back to")
        return old.model_copy(update={"champion": old.previous, "previous": old.champion})

    return update_deployment(artifacts, change)


def hide(artifacts: Path, item_id: str) -> Deployment:
    """Never answer `item_id` again; it need not be an item of any bundle."""
    return update_deployment(
        artifacts, lambda old: old.model_copy(update={"hidden": tuple(sorted({*old.hidden, item_id}))})
    )


def unhide(artifacts: Path, item_id: str) -> Deployment:
    """Let `item_id` be answered again."""
    return update_deployment(
        artifacts, lambda old: old.model_copy(update={"hidden": tuple(sorted({*old.hidden} - {item_id}))})
    )


def replace_file(file: Path, content: bytes) -> None:
    """Write beside the target, sync, and rename over it: readers see the old file or the new one."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)


@contextmanager
def _publisher_lock(artifacts: Path) -> Iterator[None]:
    with (artifacts / ".deployment.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
