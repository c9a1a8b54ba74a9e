"""What is live: `deployment.json`, replaced atomically under the publisher's lock.

Bundles lie beside it, in `bundles/<version>/`. Publishing, rolling back, experiments, hiding items and
placements each rewrite this one small file; every worker follows it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.catalogue.placements import (
    MAX_PLACEMENTS,
    MAX_VERSIONS,
    NAME,
    History,
    Placement,
    PlacementVersion,
)
from service.live import history
from service.live.artifacts import (
    Artifacts,
    Place,
    fetch_bundle,
    located,
    put_back,
    share_bundle,
    take_away_bundles,
)
from service.live.history import Action, Change, HistoryError
from service.live.object_store import ObjectStore, ObjectStoreError, attempts

FILE = "deployment.json"
COMMAND = "command"  # whose change it was, unless another is named

Role = Literal["challenger", "shadow"]

log = structlog.get_logger()


class DeploymentError(ValueError):
    """deployment.json cannot be read or changed; the message says why."""


class DeploymentConflict(DeploymentError):  # noqa: N818
    """Others changed deployment.json at each try; nothing was changed."""


class UnknownPlacement(DeploymentError):  # noqa: N818
    """There is no placement of that name, or it has a `problem`; `known` are those that there are."""

    def __init__(self, name: str, known: list[str], problem: str | None = None) -> None:
        named = f"placement {name}" if NAME.fullmatch(name) else "placement of that name"
        if problem is not None:
            super().__init__(f"nothing can be answered in {named}: {problem}")
        else:
            super().__init__(f"there is no {named}; there are: {', '.join(known) or 'none'}")
        self.known = known


class Deployment(BaseModel):
    """What answers whom, and the items that are never answered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    champion: str | None = None
    previous: str | None = Field(default=None, description="the champion before; `rollback` returns to it")
    challenger: str | None = Field(default=None, description="answers `challenger_share` of the sessions")
    challenger_share: float = Field(default=0.0, ge=0, le=1)
    shadow: str | None = Field(default=None, description="scored on `shadow_share` of the sessions, unseen")
    shadow_share: float = Field(default=0.0, ge=0, le=1)
    exclude_seen: bool = False
    hidden: tuple[str, ...] = ()
    placements: dict[str, History] = Field(default={}, description="every version of each that is kept")

    @property
    def serving(self) -> tuple[str, ...]:
        """The versions that a worker must have loaded, the champion first."""
        named = (self.champion, self.challenger, self.shadow)
        return tuple(dict.fromkeys(version for version in named if version is not None))

    @property
    def needed(self) -> frozenset[str]:
        """The versions whose bundles may not be deleted."""
        return frozenset(self.serving) | ({self.previous} if self.previous is not None else set())


def bundle_path(artifacts: Path, version: str) -> Path:
    """Where a version's bundle lies."""
    return artifacts / "bundles" / version


def read_deployment(artifacts: Place) -> Deployment:
    """The current deployment, in a store if there is one; an empty one when nothing was published yet.

    Raises `DeploymentError`, `ObjectStoreError`.
    """
    place = located(artifacts)
    if place.store is not None:
        found = place.store.read(FILE)
        if found is not None:
            return parsed(found.content, f"{place.store.url}/{FILE}")
    file = place.directory / FILE
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return Deployment()
    except OSError as error:
        raise DeploymentError(f"{file}: cannot be read: {error.strerror}") from error
    return parsed(content, str(file))


def parsed(content: bytes, told: str) -> Deployment:
    """What deployment.json says, which is `told` of where it lies. Raises `DeploymentError`."""
    try:
        return Deployment.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DeploymentError(f"{told}: {place + ': ' if place else ''}{first['msg']}") from error


def update_deployment(
    artifacts: Place,
    change: Callable[[Deployment], Deployment],
    needs: str | None = None,
    told: Callable[[Deployment, Deployment], Change] | None = None,
) -> Deployment:
    """Read, change and replace deployment.json; concurrent publishers wait for each other.

    What was changed, as `told` makes it of before and after, goes into the history. Raises `DeploymentError`
    when the file cannot be read or written, or when the bundle of the version `needs` was deleted; the old
    one then stands. In a store publishers try again instead of waiting, `change` may be called several times,
    and what fails raises `ObjectStoreError`, `BundleError` or `DeploymentConflict`.
    """
    place = located(artifacts)
    directory = place.directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if place.store is not None:
            return _update_in_store(place, place.store, change, needs, told)
        with _publisher_lock(directory):
            old = read_deployment(directory)
            new = change(old)
            if needs is not None and not bundle_path(directory, needs).is_dir():
                raise DeploymentError(f"{bundle_path(directory, needs)}: there is no such bundle")
            replace_file(directory / FILE, _written(new))
            if told is not None and new != old:
                _remember(directory, told(old, new))
    except OSError as error:
        raise DeploymentError(f"{directory / FILE}: cannot be written: {error.strerror}") from error
    return new


def _update_in_store(
    place: Artifacts,
    store: ObjectStore,
    change: Callable[[Deployment], Deployment],
    needs: str | None,
    told: Callable[[Deployment, Deployment], Change] | None,
) -> Deployment:
    if needs is not None:
        share_bundle(place, needs)
    for _ in attempts():
        found = store.read(FILE)
        if found is None:  # the first one goes on from what the directory says
            old = read_deployment(place.directory)
            for version in sorted(old.needed):
                share_bundle(place, version)
        else:
            old = parsed(found.content, f"{store.url}/{FILE}")
        new = change(old)
        if store.replace(FILE, _written(new), found):
            break
    else:
        raise DeploymentConflict(f"{store.url}/{FILE}: others change it all the time: nothing was changed")
    if needs is not None:
        share_bundle(place, needs)  # a prune may have begun to take it away just before
    if told is not None and new != old:
        _remember_in_store(place, store, told(old, new))
    try:
        write_mirrored(place, store)
    except (HistoryError, ObjectStoreError) as error:  # the change itself is made
        log.warning("directory not brought up to date", error=str(error))
    return new


def write_mirrored(place: Artifacts, store: ObjectStore) -> Deployment:
    """Let the directory say what the store says, as far as the bundles are there; returns what that says.

    Under the lock, and read within it: two writers of the directory never take it back in time.
    """
    with _publisher_lock(place.directory):
        wanted, local = read_deployment(place), read_deployment(place.directory)
        shown = as_far_as_there(wanted, local, lambda version: place.bundle(version).is_dir())
        if shown != local:
            replace_file(place.directory / FILE, _written(shown))
        past = store.read(history.FILE)
        if past is not None and past.content != history.read_bytes(place.directory):
            replace_file(place.directory / history.FILE, past.content)
    return wanted


def bring_live_here(artifacts: Place) -> None:
    """Have all that is live, and the version before, in the directory, if that mirrors a store.

    Raises `ObjectStoreError`, `DeploymentError`, `HistoryError`, and `BundleError` for an altered bundle.
    """
    place = located(artifacts)
    if place.store is not None:
        for version in sorted(read_deployment(place).needed):
            fetch_bundle(place, version)
        write_mirrored(place, place.store)


def as_far_as_there(wanted: Deployment, local: Deployment, there: Callable[[str], bool]) -> Deployment:
    """`wanted`, but no role is given to a bundle that is not there: the champion stays who it was."""
    kept: dict[str, object] = {}
    if wanted.champion is not None and not there(wanted.champion):
        kept |= local.model_dump(include={"champion", "previous", "exclude_seen"})
    for role in ("challenger", "shadow"):
        version = getattr(wanted, role)
        if version is not None and not there(version):
            kept |= {role: None, f"{role}_share": 0.0}
    return wanted.model_copy(update=kept)


def _written(deployment: Deployment) -> bytes:
    # A service of before there were placements still reads a file that has none.
    unused = None if deployment.placements else {"placements"}
    return deployment.model_dump_json(indent=2, exclude=unused).encode() + b"\n"


def _told(artifacts: Place) -> str:
    """deployment.json, by where it is the truth."""
    place = located(artifacts)
    return f"{place.url or place.directory}/{FILE}"


def publish(
    artifacts: Place, version: str, *, exclude_seen: bool | None = None, by: str = COMMAND
) -> Deployment:
    """Make `version` the champion; the old champion becomes `previous`, and an experiment with it ends.

    `exclude_seen` says whether answers leave out what the session clicked; None keeps what was said before.
    """

    def change(old: Deployment) -> Deployment:
        return _without_experiments(old, version).model_copy(
            update={
                "champion": version,
                "previous": old.previous if old.champion == version else old.champion,
                "exclude_seen": old.exclude_seen if exclude_seen is None else exclude_seen,
            }
        )

    return update_deployment(artifacts, change, version, lambda _, __: _change("publish", version, by))


def challenge(artifacts: Place, version: str, share: float, by: str = COMMAND) -> Deployment:
    """Let `version` answer a share of the sessions, beside the champion. Raises `DeploymentError`."""
    return _experiment(artifacts, "challenger", version, share, by)


def shadow(artifacts: Place, version: str, share: float, by: str = COMMAND) -> Deployment:
    """Score `version` on a share of the sessions, never answering. Raises `DeploymentError`."""
    return _experiment(artifacts, "shadow", version, share, by)


def withdraw(artifacts: Place, role: Role, by: str = COMMAND) -> Deployment:
    """End the experiment with the challenger or the shadow. Raises `DeploymentError` if there is none."""

    def change(old: Deployment) -> Deployment:
        if getattr(old, role) is None:
            raise DeploymentError(f"{_told(artifacts)}: there is no {role}")
        return old.model_copy(update={role: None, f"{role}_share": 0.0})

    def told(old: Deployment, _: Deployment) -> Change:
        action: Action = "withdraw challenger" if role == "challenger" else "withdraw shadow"
        return _change(action, getattr(old, role), by)

    return update_deployment(artifacts, change, told=told)


def rollback(artifacts: Place, by: str = COMMAND) -> Deployment:
    """Swap champion and previous. Raises `DeploymentError` when there is no previous version."""

    def change(old: Deployment) -> Deployment:
        if old.previous is None:
            raise DeploymentError(f"{_told(artifacts)}: there is no previous version to roll back to")
        return _without_experiments(old, old.previous).model_copy(
            update={"champion": old.previous, "previous": old.champion}
        )

    def told(_: Deployment, new: Deployment) -> Change:
        assert new.champion is not None, "there was a previous version"
        return _change("rollback", new.champion, by)

    return update_deployment(artifacts, change, told=told)


def prune(artifacts: Place, keep: int, also: Collection[str] = ()) -> list[str]:
    """Delete bundles that nothing names, but those of `also` and the `keep` newest of the rest.

    Returns the versions deleted.

    A worker that still serves one has its files mapped, and is not disturbed. In a store, too, they are gone
    at once, and their files a day later. Raises `DeploymentError`, `ObjectStoreError`.
    """
    place = located(artifacts)
    if place.store is None:
        return _prune(place.directory, keep, also)
    needed = read_deployment(place).needed
    taken = take_away_bundles(place.store, keep, needed.union(also))
    for version in read_deployment(place).needed.intersection(taken):  # published just now
        put_back(place.store, version, taken.pop(version))
    return sorted({*taken, *_prune(place.directory, keep, needed.union(also))})


def _prune(artifacts: Path, keep: int, also: Collection[str]) -> list[str]:
    try:
        with _publisher_lock(artifacts):
            needed = read_deployment(artifacts).needed
            found = [path for path in (artifacts / "bundles").glob("*") if not path.name.startswith(".")]
            spare = [path for path in found if path.name not in needed.union(also)]
            spare.sort(key=lambda path: path.stat().st_mtime, reverse=True)
            # Under the lock only their names are taken away: then nobody can publish one any more.
            doomed = {
                path.name: path.rename(path.with_name(f".{path.name}.deleted")) for path in spare[keep:]
            }
        for path in doomed.values():
            shutil.rmtree(path)
    except OSError as error:
        raise DeploymentError(f"{artifacts / 'bundles'}: cannot be pruned: {error}") from error
    return sorted(doomed)


def hide(artifacts: Place, *item_ids: str) -> Deployment:
    """Never answer `item_ids` again; they need not be items of any bundle."""
    return change_hidden(artifacts, item_ids, ())


def unhide(artifacts: Place, *item_ids: str) -> Deployment:
    """Let `item_ids` be answered again."""
    return change_hidden(artifacts, (), item_ids)


def change_hidden(artifacts: Place, hide: Iterable[str], unhide: Iterable[str]) -> Deployment:
    """Let some items be answered again and hide others, in one step; one that is named twice is hidden."""

    def change(old: Deployment) -> Deployment:
        hidden = {*old.hidden}.difference(unhide).union(hide)
        return old.model_copy(update={"hidden": tuple(sorted(hidden))})

    return update_deployment(artifacts, change)


def placements_of(deployment: Deployment) -> dict[str, Placement]:
    """What each placement is now."""
    return {name: history[-1].placement for name, history in deployment.placements.items()}


def set_placement(artifacts: Place, name: str, placement: Placement, by: str) -> Deployment:
    """Make a placement, or let it be another; one that is so already gets no new version.

    Whoever calls this has prepared it: its rules can be read.
    """
    if not NAME.fullmatch(name):
        raise DeploymentError("a placement's name is of 1 to 32 letters a-z, digits, '_' and '-'")

    def change(old: Deployment) -> Deployment:
        history = old.placements.get(name, ())
        if not history and len(old.placements) >= MAX_PLACEMENTS:
            raise DeploymentError(f"there are {MAX_PLACEMENTS} placements, and may be no more")
        if history and history[-1].placement == placement:
            return old
        return _with_placement(old, name, placement, by)

    return update_deployment(artifacts, change)


def rollback_placement(artifacts: Place, name: str, by: str, number: int | None = None) -> Deployment:
    """Let a placement be what it was in the version before, or in version `number`; that is a new version.

    Raises `DeploymentError` when there is no such version.
    """

    def change(old: Deployment) -> Deployment:
        history = history_of(old, name)
        wanted = history[-1].number - 1 if number is None else number
        for version in history[:-1]:
            if version.number == wanted:
                return _with_placement(old, name, version.placement, by)
        known = ", ".join(str(version.number) for version in history[:-1]) or "none"
        raise DeploymentError(f"placement {name} has no version {wanted} to roll back to; it has: {known}")

    return update_deployment(artifacts, change)


def delete_placement(artifacts: Place, name: str) -> Deployment:
    """Forget a placement, and what it was. Raises `DeploymentError` when there is none."""

    def change(old: Deployment) -> Deployment:
        history_of(old, name)
        others = {other: history for other, history in old.placements.items() if other != name}
        return old.model_copy(update={"placements": others})

    return update_deployment(artifacts, change)


def history_of(deployment: Deployment, name: str) -> History:
    """The versions of a placement that are kept. Raises `UnknownPlacement`."""
    history = deployment.placements.get(name)
    if history is None:
        raise UnknownPlacement(name, sorted(deployment.placements))
    return history


def _with_placement(old: Deployment, name: str, placement: Placement, by: str) -> Deployment:
    history = old.placements.get(name, ())
    number = history[-1].number + 1 if history else 1
    version = PlacementVersion(number=number, at=time.time(), by=by, placement=placement)
    return old.model_copy(
        update={"placements": {**old.placements, name: (*history, version)[-MAX_VERSIONS:]}}
    )


def check_experiment(deployed: Deployment, role: Role, version: str, share: float) -> None:
    """Refuse what makes no sense as an experiment. Raises `DeploymentError`."""
    if not 0 < share <= 1:
        raise DeploymentError(f"the share of the {role} is {share:g}: it must lie above 0, up to 1")
    others = {"champion": deployed.champion, "challenger": deployed.challenger, "shadow": deployed.shadow}
    for other, named in others.items():
        if other != role and named == version:
            raise DeploymentError(f"{version} is the {other}: it cannot be the {role} as well")


def _experiment(artifacts: Place, role: Role, version: str, share: float, by: str) -> Deployment:
    def change(old: Deployment) -> Deployment:
        check_experiment(old, role, version, share)
        return old.model_copy(update={role: version, f"{role}_share": share})

    return update_deployment(artifacts, change, version, lambda _, __: _change(role, version, by, share))


def _change(action: Action, version: str, by: str, share: float | None = None) -> Change:
    return Change(at=time.time(), by=by, action=action, version=version, share=share)


def _remember(artifacts: Path, change: Change) -> None:
    """The change itself is made: what cannot be written of it undoes nothing."""
    try:
        replace_file(artifacts / history.FILE, history.with_change(artifacts, change))
    except (HistoryError, OSError) as error:
        log.warning("history not written", error=str(error), **change.model_dump())


def _remember_in_store(place: Artifacts, store: ObjectStore, change: Change) -> None:
    """The same, in the store: after all others that were told meanwhile."""
    try:
        for _ in attempts():
            found = store.read(history.FILE)
            before = found.content if found is not None else history.read_bytes(place.directory)
            if store.replace(history.FILE, history.appended(before, change), found):
                return
        log.warning("history not written", error="others write it all the time", **change.model_dump())
    except (HistoryError, ObjectStoreError) as error:
        log.warning("history not written", error=str(error), **change.model_dump())


def _without_experiments(old: Deployment, version: str) -> Deployment:
    """A version that becomes the champion is challenger or shadow no longer."""
    ended = [role for role in ("challenger", "shadow") if getattr(old, role) == version]
    return old.model_copy(update=dict.fromkeys(ended) | {f"{role}_share": 0.0 for role in ended})


def replace_file(file: Path, content: bytes) -> None:
    """Write beside the target, sync, and rename over it: readers see the old file or the new one."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _publisher_lock(artifacts: Path) -> Iterator[None]:
    artifacts.mkdir(parents=True, exist_ok=True)
    with (artifacts / ".deployment.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
