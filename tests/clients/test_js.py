"""The tag: by Node's own runner, by its size, and as a package. In a browser: tests/browser/test_tag.py."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TAG = ROOT / "clients" / "js"
SOURCE = TAG / "src" / "nextclick.js"
TYPES = (TAG / "nextclick.d.ts").read_text()
MOST_BYTES = 4096  # gzip, minified: what every visitor loads
MOST_SOURCE_BYTES = 6500  # gzip, as written: what a service sends that is run from a checkout
NODE = shutil.which("node")
NPM = shutil.which("npm")
OWN_ESBUILD = TAG / "node_modules" / ".bin" / "esbuild"
ESBUILD = str(OWN_ESBUILD) if OWN_ESBUILD.exists() else shutil.which("esbuild")

needs_node = pytest.mark.skipif(
    NODE is None, reason="no node on PATH: the tag's own tests want Node 20 or newer"
)
needs_esbuild = pytest.mark.skipif(
    ESBUILD is None, reason="no esbuild: `npm install` in clients/js brings it, for the tag's size"
)


def run(*command: str, cwd: Path = TAG) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_node
def test_as_node_tests_it() -> None:
    told = run(str(NODE), "--test", "--test-reporter=tap", "test/nextclick.test.js")
    counts = {name: int(count) for name, count in re.findall(r"^# (\w+) (\d+)$", told, re.MULTILINE)}
    assert counts["pass"] > 60, told
    assert (counts["fail"], counts["skipped"], counts["todo"]) == (0, 0, 0)


@needs_node
def test_types_are_of_what_there_is() -> None:
    members = (
        f"import {{ nextclick }} from {json.dumps(str(SOURCE))}; console.log(...Object.keys(nextclick()))"
    )
    there = run(str(NODE), "--input-type=module", "--eval", members).split()
    interface = TYPES.partition("export interface Nextclick {")[2].partition("\n}")[0]
    assert re.findall(r"^  (?:readonly )?(\w+)", interface, re.MULTILINE) == there
    source = SOURCE.read_text()
    events = TYPES.partition("export interface Events {")[2].partition("\n}")[0]
    told = set(re.findall(r'\btell\("(\w+)"', source))
    assert set(re.findall(r"^  (\w+):", events, re.MULTILINE)) == told


def test_it_needs_nothing_and_evaluates_nothing() -> None:
    source = SOURCE.read_text()
    assert not re.search(
        r"\bimport\b|\beval\b|\bFunction\(|innerHTML|outerHTML|insertAdjacent|\.style\b", source
    )
    assert not re.search(r"\bconsole\b|document\.write|document\.cookie|sessionStorage|indexedDB", source)
    assert len(gzip.compress(source.encode(), 9)) <= MOST_SOURCE_BYTES


@needs_esbuild
def test_it_is_small() -> None:
    small = run(str(ESBUILD), str(SOURCE), "--format=esm", "--target=es2021", "--minify")
    assert len(gzip.compress(small.encode(), 9)) <= MOST_BYTES


def test_the_package_is_of_this_version() -> None:
    package = json.loads((TAG / "package.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (package["version"], package["license"]) == (project["version"], project["license"])
    assert "dependencies" not in package


@needs_esbuild
@pytest.mark.skipif(NPM is None, reason="no npm on PATH: it packs the tag")
def test_npm_packs_what_a_shop_needs(tmp_path: Path) -> None:
    copy = tmp_path / "js"
    shutil.copytree(TAG, copy, ignore=shutil.ignore_patterns("node_modules", "dist"))
    (copy / "node_modules/.bin").mkdir(parents=True)
    (copy / "node_modules/.bin/esbuild").symlink_to(str(ESBUILD))
    run(str(NPM), "pack", "--offline", cwd=copy)
    (archive,) = copy.glob("nextclick-tag-*.tgz")
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", tmp_path / "unpacked"], check=True)
    package = tmp_path / "unpacked" / "package"
    files = {str(file.relative_to(package)) for file in package.rglob("*") if file.is_file()}
    assert files == {"package.json", "README.md", "nextclick.d.ts", "dist/nextclick.js"}
    exports = json.loads((package / "package.json").read_text())["exports"]["."]
    assert all((package / file).exists() for file in exports.values())


@needs_esbuild
@pytest.mark.skipif(NPM is None, reason="no npm on PATH: it builds the tag")
def test_building_fails_when_it_is_no_longer_small(tmp_path: Path) -> None:
    copy = tmp_path / "js"
    shutil.copytree(TAG, copy, ignore=shutil.ignore_patterns("node_modules", "dist"))
    (copy / "node_modules/.bin").mkdir(parents=True)
    (copy / "node_modules/.bin/esbuild").symlink_to(str(ESBUILD))
    noise = "".join(f"export const n{i} = {hash(str(i))};\n" for i in range(400))
    (copy / "src" / SOURCE.name).write_text(SOURCE.read_text() + noise)
    done = subprocess.run([str(NPM), "run", "build"], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"of {MOST_BYTES} bytes" in done.stdout
