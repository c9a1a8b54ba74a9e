"""A study on disk: finished trials in optuna's SQLite storage, under the settings that make them comparable.

SQLite's transactions make a trial whole or absent after a kill; optuna's own journal file is left with half a
line, and cannot be read after the next one. Ours is what optuna has not: one process at a time, one identity.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import RDBStorage

from models.base import Hyper

STUDY = "nextclick"
FILE = "trials.db"
LOCK = ".lock"
IDENTITY = "identity"  # the study's attribute that holds everything its trials have in common


class TuneError(ValueError):
    """A study cannot go on: it belongs to other settings, is in use, or its trials only fail."""


@contextmanager
def open_study(place: Path, identity: dict[str, Hyper]) -> Iterator[optuna.Study]:
    """The study in the directory `place`, a new one if there is none, for this process alone.

    Raises `TuneError` when another process has it, or its trials were made under another identity.
    """
    with _alone_in(place):
        storage = RDBStorage(f"sqlite:///{place.absolute() / FILE}")
        try:
            study = optuna.create_study(
                study_name=STUDY, storage=storage, direction="maximize", load_if_exists=True
            )
            theirs = study.user_attrs.get(IDENTITY)
            if theirs is None:  # new, or killed before it had any trial
                study.set_user_attr(IDENTITY, identity)
            elif theirs != identity:
                raise TuneError(
                    f"{place / FILE}: holds trials under other settings: {_differences(theirs, identity)};"
                    f" {anew(place)}"
                )
            yield study
        finally:
            storage.remove_session()
            storage.engine.dispose()


def anew(place: Path) -> str:
    """What to do about a study that cannot go on."""
    return f"to begin anew, remove {place} or choose other --artifacts"


@contextmanager
def _alone_in(place: Path) -> Iterator[None]:
    """Whatever ends the process lets go of it."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / LOCK).open("w") as lock:  # for writing: NFS locks nothing else
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TuneError(f"{place}: another process is at work on this study") from None
        yield


def _differences(theirs: dict[str, Hyper], ours: dict[str, Hyper]) -> str:
    return "; ".join(
        f"{key} was {theirs.get(key)}, is {ours.get(key)}"
        for key in {**theirs, **ours}
        if theirs.get(key) != ours.get(key)
    )
