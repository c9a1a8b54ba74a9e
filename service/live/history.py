"""deployments.jsonl: which version was given which role, when and by whom; the newest changes, one a line.

It lies beside deployment.json, not in it: an earlier version of this program still reads that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

FILE = "deployments.jsonl"
KEPT = 500

Action = Literal["publish", "rollback", "challenger", "shadow", "withdraw challenger", "withdraw shadow"]


class HistoryError(ValueError):
    """The history cannot be read; the message says why."""


class Change(BaseModel):
    """One change of who answers."""

    model_config = ConfigDict(frozen=True)

    at: float = Field(description="in epoch seconds")
    by: str
    action: Action
    version: str = Field(description="that it is about; of a rollback, the one that is live since")
    share: float | None = Field(default=None, description="of the sessions; null: of all")


def read_history(artifacts: Path) -> tuple[list[Change], int]:
    """The changes, the newest first, and how many lines cannot be read. Raises `HistoryError`."""
    changes, unreadable = [], 0
    for line in _lines(read_bytes(artifacts)):
        try:
            changes.append(Change.model_validate_json(line))
        except ValidationError:
            unreadable += 1
    return changes[::-1], unreadable


def with_change(artifacts: Path, change: Change) -> bytes:
    """What the file holds once a change is added; of all others the newest `KEPT` - 1 stay.

    Raises `HistoryError`.
    """
    return appended(read_bytes(artifacts), change)


def appended(content: bytes, change: Change) -> bytes:
    """`content` with a change more, of all others the newest `KEPT` - 1."""
    lines = [*_lines(content)[1 - KEPT :], change.model_dump_json().encode()]
    return b"".join(line + b"\n" for line in lines)


def read_bytes(artifacts: Path) -> bytes:
    """What the file holds; nothing when there is none. Raises `HistoryError`."""
    file = artifacts / FILE
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise HistoryError(f"{file}: cannot be read: {error.strerror}") from error


def _lines(content: bytes) -> list[bytes]:
    return [line for line in content.split(b"\n") if line]
