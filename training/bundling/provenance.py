"""Where a bundle comes from: its version's name, the code and data it was made of."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from models.base import Hyper


@dataclass(frozen=True)
class Provenance:
    """What a manifest says beside shapes and checksums."""

    model: str
    seed: int
    hyperparameters: dict[str, Hyper]
    source_commit: str
    data_fingerprint: str


def new_version(model: str) -> str:
    """A version name that sorts by time within a model: `niser-20261122T101500`."""
    return f"{model}-{datetime.now(UTC):%Y%m%dT%H%M%S}"


def source_commit() -> str:
    """The commit this code is at: from git, else from SOURCE_COMMIT (images have no git)."""
    if commit := os.environ.get("SOURCE_COMMIT"):
        return commit
    here = str(Path(__file__).parent)
    git = ["git", "-C", here, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
