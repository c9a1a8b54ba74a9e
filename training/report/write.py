"""Writes RESULTS/<dataset>/README.md, the leaderboard of everything run on a data set, and its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.live.deployment import replace_file
from training.learn.registry import baseline_names, model_names
from training.report.leaderboard import read_leaderboards
from training.report.page import BIAS_PICTURE, page
from training.report.pictures import draw_pictures


@dataclass(frozen=True)
class Changes:
    """What a report changed on disk: nothing if nothing changed since the last."""

    written: list[Path]
    removed: list[Path]


def known_models() -> list[str]:
    """The models and baselines a leaderboard mentions even when they were not run."""
    return [*baseline_names(), *model_names()]


def write_reports(results: Path, known: Sequence[str]) -> Changes:
    """Bring the page and pictures of every data set up to date with its results.

    Everything is read before anything is written. Raises `ReportError`.
    """
    files: dict[Path, bytes | None] = {}
    for board in read_leaderboards(results):
        place = results / board.dataset
        pictures = draw_pictures(board)
        shown = {name for name, picture in pictures.items() if picture}
        if (place / BIAS_PICTURE).exists():
            shown.add(BIAS_PICTURE)
        files |= {place / name: picture for name, picture in pictures.items()}
        files[place / "README.md"] = page(board, known, shown).encode()
    written, removed = [], []
    for file, content in files.items():
        before = file.read_bytes() if file.exists() else None
        if content is None and before is not None:
            file.unlink()
            removed.append(file)
        elif content is not None and content != before:
            replace_file(file, content)
            written.append(file)
    return Changes(written, removed)
