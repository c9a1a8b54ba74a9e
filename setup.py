"""What packaging adds to pyproject.toml: the wheel ships the tag, minified where esbuild is at hand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
TAG = ROOT / "clients" / "js"
SOURCE = TAG / "src" / "nextclick.js"


class WithTag(build_py):
    """Builds the Python modules, and beside them what browsers load."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # a checkout serves it from where it is
            put_tag(Path(self.build_lib) / "service" / "http" / "pages" / "static" / SOURCE.name)


def put_tag(target: Path) -> None:
    """The tag as a page loads it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    own = TAG / "node_modules" / ".bin" / "esbuild"
    esbuild = str(own) if own.exists() else shutil.which("esbuild")
    if esbuild is None:
        shutil.copyfile(SOURCE, target)
    else:
        subprocess.run(
            [esbuild, SOURCE, "--format=esm", "--target=es2021", "--minify", f"--outfile={target}"],
            check=True,
        )


setup(cmdclass={"build_py": WithTag})
