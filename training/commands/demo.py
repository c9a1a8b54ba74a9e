"""Something to see in a minute: a shop's clicks, a trained model, a running service, what to type next."""

# Commands import what they need when they run: `--help` shall not wait for it.

from __future__ import annotations

import itertools
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import typer

from service.process.parent import stopping_with_us
from training.commands.data import fail
from training.commands.models import ArtifactsOption

app = typer.Typer(no_args_is_help=True)
READY_SECONDS = 60
EPOCHS = 3
SIGNALLED = 128  # a shell's exit code for a program that a signal ended: this and the signal's number


@app.command(rich_help_panel="Service")
def demo(artifacts: ArtifactsOption = Path("artifacts")) -> None:
    """Serve the live bundle; if there is none, first make one of the clicks of a shop that does not exist.

    Ends with Ctrl-C or SIGTERM. Where it listens, and all else, is set by the service's NEXTCLICK_ variables.
    """
    from service.live.deployment import read_deployment

    host, port = os.environ.get("NEXTCLICK_HOST", "127.0.0.1"), os.environ.get("NEXTCLICK_PORT", "8000")
    url = f"http://{host}:{port}"
    with Steps({**os.environ, "NEXTCLICK_ARTIFACTS_DIR": str(artifacts)}) as steps:
        if read_deployment(artifacts).champion is None:
            make_bundle(steps, artifacts)
        service = steps.start("service")
        if wait_until_ready(service, url):
            print(greeting(url, artifacts), flush=True)
        raise typer.Exit(steps.finish(service))


class Steps:
    """Child processes, one at a time, that end when this one is asked to end, or is killed.

    Each has a session of its own: Ctrl-C in a terminal comes here alone, and is passed on once.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._child: subprocess.Popen[bytes] | None = None
        self._asked: signal.Signals | None = None

    def __enter__(self) -> Self:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            numbers.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._pass_on) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None and self._child.poll() is None:  # something failed here
            self._child.terminate()
            self._child.wait()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `python -m` with these arguments."""
        command = stopping_with_us([sys.executable, "-m", *arguments])
        self._child = subprocess.Popen(command, env=self._environment, start_new_session=True)
        if self._asked is not None:  # before there was this child to pass it on to
            self._child.send_signal(self._asked)
        return self._child

    def finish(self, child: subprocess.Popen[bytes]) -> int:
        """Wait for its end. Returns the exit code, as a shell would."""
        code = child.wait()
        return code if code >= 0 else SIGNALLED - code

    def run(self, *arguments: str) -> None:
        """Run one training command, shown as a user would type it; leave with its exit code if it fails."""
        print("\n$ nextclick", shlex.join(arguments), flush=True)
        code = self.finish(self.start("training", *arguments))
        if self._asked is not None:
            raise typer.Exit(SIGNALLED + self._asked)
        if code:
            raise typer.Exit(code)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        # To the service SIGHUP means: new workers.
        self._asked = signal.SIGTERM if number == signal.SIGHUP else signal.Signals(number)
        if self._child is not None:
            self._child.send_signal(self._asked)


def make_bundle(steps: Steps, artifacts: Path) -> None:
    """A bundle that is live, from nothing."""
    log, data = artifacts / "demo" / "clicks.csv", artifacts / "demo" / "data"
    items = log.with_name("items.csv")
    steps.run("demo-store", "--output", str(log))
    steps.run("prepare", "--input", str(log), "--output", str(data), "--name", "demo", "--force")
    steps.run(
        *("train", "--data", str(data), "--model", "gru4rec", "--artifacts", str(artifacts)),
        *("--set", f"epochs={EPOCHS}", "--items", str(items), "--publish"),
    )
    steps.run("items", "import", str(items), "--artifacts", str(artifacts))


def wait_until_ready(service: subprocess.Popen[bytes], url: str) -> bool:
    """Whether the service became ready; False when it left instead. Leaves with 1 when it does neither."""
    deadline = time.monotonic() + READY_SECONDS
    while service.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health/ready", timeout=1):
                return True
        except (OSError, HTTPException):
            if time.monotonic() > deadline:
                fail(f"{url}/health/ready did not answer in {READY_SECONDS} s", code=1)
            time.sleep(0.2)
    return False


def greeting(url: str, artifacts: Path) -> str:
    """Four commands to paste: two clicks on popular items, what comes next, and what one of them is."""
    from service.live.deployment import bundle_path, read_deployment

    champion = read_deployment(artifacts).champion
    assert champion is not None
    with (bundle_path(artifacts, champion) / "items.txt").open() as items:
        first, second = (line.strip() for line in itertools.islice(items, 2))
    click = f"curl -s {url}/sessions/me/click -H 'content-type: application/json' -d"
    return f"""
Nextclick serves {champion} at {url}  (all calls: {url}/docs; Ctrl-C stops it)

  {click} '{{"item_id": "{first}"}}'
  {click} '{{"item_id": "{second}"}}'
  curl -s '{url}/recommend?session_id=me'
  curl -s '{url}/items/{first}'
"""
