"""The journal of a search: finished trials on disk, under the settings that make them comparable."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

from models.base import Hyper

STUDY = "nextclick"
IDENTITY = "identity"  # the study's attribute that holds everything its trials have in common


class TuneError(ValueError):
    """A study cannot go on: it belongs to other settings, is in use, or its trials only fail."""


@contextmanager
def open_journal(file: Path, identity: dict[str, Hyper]) -> Iterator[optuna.Study]:
    """The study in `file`, a new one if there is none, for this process alone.

    Raises `TuneError` when another process has it, or its trials were made under another identity.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TuneError(f"{file}: another process is at work on this study") from None
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)  # a kill in mid-write leaves part of a line
        storage = JournalStorage(JournalFileBackend(str(file), lock_obj=_Held(str(file))))
        try:
            study = optuna.load_study(study_name=STUDY, storage=storage)
        except KeyError:
            study = optuna.create_study(study_name=STUDY, storage=storage, direction="maximize")
        theirs = study.user_attrs.get(IDENTITY)
        if theirs is None:  # new, or killed before it had any trial
            study.set_user_attr(IDENTITY, identity)
        elif theirs != identity:
            raise TuneError(
                f"{file}: holds trials under other settings: {_differences(theirs, identity)}; {anew(file)}"
            )
        yield study


def anew(file: Path) -> str:
    """What to do about a study that cannot go on."""
    return f"to begin anew, remove {file.parent} or choose other --artifacts"


def _differences(theirs: dict[str, Hyper], ours: dict[str, Hyper]) -> str:
    return "; ".join(
        f"{key} was {theirs.get(key)}, is {ours.get(key)}"
        for key in {**theirs, **ours}
        if theirs.get(key) != ours.get(key)
    )


class _Held(JournalFileOpenLock):
    """The whole journal is locked for as long as it is open; a lock of each write could outlive a kill."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass
