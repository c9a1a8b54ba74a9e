"""Where a bundle comes from: its version's name, the code and data it was made of."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from models.base import Hyper
from service.live.deployment import bundle_path

BLEND = "blend"  # the model that the manifest of a bundle of bundles names


@dataclass(frozen=True)
class Provenance:
    """What a manifest says beside shapes and checksums."""

    model: str
    seed: int
    hyperparameters: dict[str, Hyper]
    source_commit: str
    data_fingerprint: str


def new_version(model: str, artifacts: Path) -> str:
    """A version that no bundle has, and that sorts by time within a model: `niser-20261122T101500`."""
    now = datetime.now(UTC)
    while bundle_path(artifacts, version := f"{model}-{now:%Y%m%dT%H%M%S}").exists():
        now += timedelta(seconds=1)
    return version


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
