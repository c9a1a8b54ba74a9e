"""docs/architecture.md against the code, and the wings against what they promise."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
MOST_MODULES = 15
PACKAGES = ("console", "service", "training")
FOLDERS = sorted({file.parent for package in PACKAGES for file in (ROOT / package).rglob("*.py")})
WINGS = [folder for folder in FOLDERS if folder.parent != ROOT]


def named(folder: Path) -> str:
    return str(folder.relative_to(ROOT))


@pytest.mark.parametrize("folder", FOLDERS, ids=named)
def test_no_folder_is_a_wall(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= MOST_MODULES


@pytest.mark.parametrize("wing", WINGS, ids=named)
def test_a_wing_says_what_belongs_there_and_what_it_may_import(wing: Path) -> None:
    says = ast.get_docstring(ast.parse((wing / "__init__.py").read_text())) or ""
    assert re.fullmatch(r"[^.]+(`[^`]*`[^.]*)*\. Imports [^.]+\.", says), says


@pytest.mark.parametrize("wing", WINGS, ids=named)
def test_the_page_shows_each_wing(wing: Path) -> None:
    picture = PAGE.split("```")[1]
    assert re.search(rf"\b{wing.name}\b", picture)


def test_what_the_page_points_at_is_there() -> None:
    pointed_at = re.findall(r"`([\w./]+\.(?:py|lua|md))`", PAGE)
    assert len(pointed_at) > 20
    homes = [ROOT, *(ROOT / package for package in PACKAGES), *WINGS]
    missing = [path for path in pointed_at if not any((home / path).exists() for home in homes)]
    assert missing == []
