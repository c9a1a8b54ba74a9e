"""What is installed from a wheel has the tag, as the checkout has it or smaller."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
PACKAGED = "service/http/pages/static/nextclick.js"
SOURCE = ROOT / "clients" / "js" / "src" / "nextclick.js"
FAKE_ESBUILD = """#!{python}
import sys
(target,) = [each.removeprefix("--outfile=") for each in sys.argv if each.startswith("--outfile=")]
open(target, "w").write("small")
"""
BUILD = "import setuptools.build_meta as build, sys; print(build.build_{kind}(sys.argv[1]))"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a wheel is built of, without what npm may have put there: building leaves things behind."""
    copy = tmp_path / "checkout"
    shutil.copytree(
        ROOT / "service", copy / "service", ignore=shutil.ignore_patterns("__pycache__", "static")
    )
    (copy / "clients/js/src").mkdir(parents=True)
    shutil.copy(SOURCE, copy / "clients/js/src")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def build(kind: str, checkout: Path, path: str = "/nowhere") -> Path:
    """A distribution, by setuptools as pip would have it, with no program but those of a path at hand."""
    built = checkout.with_name("built")
    built.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(kind=kind), built],
        cwd=checkout,
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return built / done.stdout.splitlines()[-1]


def test_a_wheel_has_the_tag_as_written(checkout: Path) -> None:
    with zipfile.ZipFile(build("wheel", checkout)) as wheel:
        assert wheel.read(PACKAGED) == SOURCE.read_bytes()
        assert "setup.py" not in wheel.namelist()


def test_esbuild_makes_it_smaller_where_it_is_at_hand(checkout: Path) -> None:
    esbuild = checkout / "clients/js/node_modules/.bin/esbuild"
    esbuild.parent.mkdir(parents=True)
    esbuild.write_text(FAKE_ESBUILD.format(python=sys.executable))
    esbuild.chmod(0o755)
    with zipfile.ZipFile(build("wheel", checkout)) as wheel:
        assert wheel.read(PACKAGED) == b"small"
    esbuild.rename(checkout.with_name("esbuild"))
    with zipfile.ZipFile(build("wheel", checkout, path=str(checkout.parent))) as wheel:
        assert wheel.read(PACKAGED) == b"small", "on PATH"


def test_a_wheel_of_the_source_distribution_has_it_too(checkout: Path) -> None:
    unpack(build("sdist", checkout), checkout.with_name("unpacked"))
    (unpacked,) = checkout.with_name("unpacked").iterdir()
    with zipfile.ZipFile(build("wheel", unpacked)) as wheel:
        assert wheel.read(PACKAGED) == SOURCE.read_bytes()


def test_an_editable_install_writes_nothing_into_the_checkout(checkout: Path) -> None:
    build("editable", checkout)
    assert not (checkout / PACKAGED).exists()


def test_it_is_served_from_there(checkout: Path) -> None:
    """From the unpacked wheel alone, which no checkout lies beside."""
    site = checkout.with_name("site")
    with zipfile.ZipFile(build("wheel", checkout)) as wheel:
        wheel.extractall(site)
    told = "from service.http.pages import tag; print(tag.__file__); print([each.path for each in tag.tag()])"
    done = subprocess.run(
        [sys.executable, "-c", told], cwd=site, env={"PATH": ""}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"{site}/service/http/pages/tag.py", "['/nextclick.js']"]


def unpack(archive: Path, into: Path) -> None:
    """By tar: until Python 3.11.4 `shutil` takes no filter, and from 3.12 on it wants one."""
    into.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", into], check=True)
