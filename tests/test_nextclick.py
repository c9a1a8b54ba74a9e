"""The `nextclick` command: one tree over service and training, and what it says where training is missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

import nextclick
from service.process.settings import variable
from training.__main__ import app as training

ROOT = Path(__file__).parents[1]
PROGRAM = typer.main.get_command(training)
assert isinstance(PROGRAM, TyperGroup)
COMMANDS = PROGRAM.commands

# What Python meets where only the service was installed, or copied: nothing there is to be found.
SERVICE_ALONE = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing}:
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def run(*arguments: str, before: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m`, with these arguments, `before` being first on its path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NEXTCLICK_", "REDIS"))}
    path = os.pathsep.join(str(each) for each in (before, ROOT) if each)
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env=kept | {"PYTHONPATH": path, "COLUMNS": "110", "NO_COLOR": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def listed(help_text: str) -> list[str]:
    """The commands in a help's panels, in their order."""
    panels = help_text.split("╭─ ")[1:]
    return [
        name
        for panel in panels
        if not panel.startswith("Options")
        for name in re.findall(r"^│ ([a-z-]+) ", panel, re.MULTILINE)
    ]


def words(shown: str) -> str:
    """What is told, without the boxes around it."""
    return " ".join(re.findall(r"[^\s─╭╮╰╯│]+", shown))


def test_help_lists_every_command() -> None:
    told = run("nextclick", "--help")
    assert (told.returncode, told.stderr) == (0, "")
    commands = listed(told.stdout)
    assert sorted(commands) == sorted(["serve", "console", *COMMANDS])
    assert sorted(listed(run("training", "--help").stdout)) == sorted(COMMANDS)
    assert "╭─ Commands" not in told.stdout, "one that belongs nowhere"


@pytest.mark.parametrize("columns", ["60", "120"])
def test_help_fits_the_terminal(columns: str) -> None:
    told = run("nextclick", "--help", COLUMNS=columns).stdout
    assert max(map(len, told.splitlines())) <= int(columns)
    assert "…" not in told, "cut off"


def test_help_swallows_nothing_in_brackets() -> None:
    """rich takes `[default: view]` in a help text for markup, and leaves it out."""
    for name, command in COMMANDS.items():
        texts = [
            command.help or "",
            *(getattr(parameter, "help", None) or "" for parameter in command.params),
        ]
        for text in texts:
            assert "[" not in text.replace("[bold]", "").replace("[/bold]", ""), (name, text)


def test_both_doors_take_the_same_options() -> None:
    for arguments in (["train", "--data", "nowhere", "--model", "gru"], ["publish"], ["train", "--help"]):
        ours, theirs = run("nextclick", *arguments), run("training", *arguments)
        assert ours.returncode == theirs.returncode
        for stream in ("stdout", "stderr"):
            assert words(getattr(ours, stream)) == words(getattr(theirs, stream)).replace(
                "python -m training", "nextclick"
            )
    given = ["--host", "::1", "--port", "0", "--workers", "3", "--print-settings"]
    ours, theirs = run("nextclick", "serve", *given), run("service", *given)
    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout) == (0, theirs.stdout)
    assert re.search(rf"^{variable('workers')} +3 ", ours.stdout, re.MULTILINE)


def test_a_wrong_setting_ends_it_as_it_does_the_service() -> None:
    ours, theirs = (run(*door, "--port", "http") for door in (["nextclick", "serve"], ["service"]))
    assert (ours.returncode, ours.stderr) == (theirs.returncode, theirs.stderr)
    assert (ours.returncode, ours.stderr.startswith(f"{variable('port')}: ")) == (2, True)


def test_version() -> None:
    assert run("nextclick", "--version").stdout == f"nextclick {nextclick.__version__}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+", nextclick.__version__)


def test_help_waits_for_nothing_heavy() -> None:
    """Nor does a worker of the service, which imports the file that holds `main` again."""
    program = "import sys, nextclick.__main__; assert 'typer' not in sys.modules; nextclick.__main__.main()"
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program, "--help"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines()}
    assert "typer" in imported, "what this test reads"
    assert not imported & {"torch", "numpy", "duckdb", "faiss", "fastapi", "onnxruntime", "redis", "pydantic"}


@pytest.mark.parametrize("missing", [("training", "models", "duckdb", "torch"), ("duckdb",), ("torch",)])
def test_without_training_it_serves_and_says_what_is_missing(
    tmp_path: Path, missing: tuple[str, ...]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SERVICE_ALONE.replace("{missing}", repr(missing)))
    told = run("nextclick", "--help", before=tmp_path)
    assert (told.returncode, listed(told.stdout)) == (0, ["serve", "console"])
    assert "pip install 'nextclick[train]'" in told.stdout
    for arguments in (["train"], ["train", "--help"], ["srve"]):
        refused = run("nextclick", *arguments, before=tmp_path)
        assert (refused.returncode, refused.stdout) == (2, "")
        [line] = refused.stderr.splitlines()
        assert line.startswith(f"error: {arguments[0]}: ")
        assert line.endswith("pip install 'nextclick[train]'")
    served = run("nextclick", "serve", "--print-settings", before=tmp_path)
    assert (served.returncode, variable("workers") in served.stdout) == (0, True)


def test_without_its_extra_the_console_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SERVICE_ALONE.replace("{missing}", "('nicegui', 'httpx')"))
    refused = run("nextclick", "console", before=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    [line] = refused.stderr.splitlines()
    assert line.endswith("pip install 'nextclick[console]'")


def test_what_never_ends_is_not_scheduled() -> None:
    for command in ("serve", "console", "demo"):
        refused = run("nextclick", "schedule", "--cron", "0 3 * * *", "--", command)
        assert (refused.returncode, f"'{command}' runs until it is stopped" in refused.stderr) == (2, True)
