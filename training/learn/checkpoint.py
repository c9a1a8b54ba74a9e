"""Checkpoints that survive a kill at any moment: written beside the target, synced, renamed over it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


class CheckpointError(ValueError):
    """A checkpoint is missing, or belongs to another run; the message says which."""


def save(file: Path, state: dict[str, Any]) -> None:
    """Replace `file` by `state` atomically: a reader sees the old checkpoint or the new one, whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".writing")
    with temporary.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def load(file: Path) -> dict[str, Any]:
    """Read a checkpoint; tensors and plain values only. Raises `CheckpointError`."""
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such checkpoint") from None
    return state
