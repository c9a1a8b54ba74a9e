"""Something to see in a minute: a shop's clicks, a trained model, a running service, two pages to open."""

# Commands import what they need when they run: `--help` shall not wait for it.

from __future__ import annotations

import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, TracebackType
from typing import NamedTuple, Self

import typer

from service.process.parent import stopping_with_us
from training.commands.endings import fail
from training.commands.options import ArtifactsOption

app = typer.Typer(no_args_is_help=True)
READY_SECONDS = 60
END_SECONDS = 10  # for the console, which has nothing to finish
CONSOLE_PORT = 8080
ADMIN_KEY = "NEXTCLICK_ADMIN_API_KEY"
# What the demo's shop decides for its places: nothing twice, and no page of lanterns alone.
PLACEMENTS: dict[str, dict[str, object]] = {
    "home": {"exclude_seen": True, "caps": [{"attribute": "categories", "at_most": 4}]},
    "product": {"exclude_seen": True},
    "cart": {"exclude_seen": True, "caps": [{"attribute": "categories", "at_most": 2}]},
}
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
    environment = {
        ADMIN_KEY: secrets.token_urlsafe(16),
        **os.environ,
        "NEXTCLICK_ARTIFACTS_DIR": str(artifacts),
    }
    with Steps(environment) as steps:
        if read_deployment(artifacts).champion is None:
            make_bundle(steps, artifacts)
        service = steps.start("service")
        console = start_console(steps, url, artifacts)
        if wait_until_ready(service, f"{url}/health/ready"):
            is_shown = console is not None and wait_until_ready(console.process, console.url)
            print(greeting(url, artifacts, console if is_shown else None, environment[ADMIN_KEY]), flush=True)
        raise typer.Exit(steps.finish(service))


class Steps:
    """Child processes that end when this one is asked to end, is killed, or has nothing more to wait for.

    Each has a session of its own: Ctrl-C in a terminal comes here alone, and is passed on once.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._children: dict[subprocess.Popen[bytes], float | None] = {}
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
        for child in self._running():  # who is not waited for, or something failed here
            child.terminate()
        for child in self._running():
            try:
                child.wait(self._children[child])
            except subprocess.TimeoutExpired:
                child.kill()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def start(self, *arguments: str, end_seconds: float | None = None) -> subprocess.Popen[bytes]:
        """Start `python -m` with these arguments; `end_seconds`: it is killed when it takes longer to end."""
        command = stopping_with_us([sys.executable, "-m", *arguments])
        child = subprocess.Popen(command, env=self._environment, start_new_session=True)
        self._children[child] = end_seconds
        if self._asked is not None:  # before there was this child to pass it on to
            child.send_signal(self._asked)
        return child

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
        for child in self._running():
            child.send_signal(self._asked)

    def _running(self) -> list[subprocess.Popen[bytes]]:
        return [child for child in self._children if child.poll() is None]


def make_bundle(steps: Steps, artifacts: Path) -> None:
    """A bundle that is live, from nothing."""
    from service.catalogue.placements import Placement
    from service.live.deployment import set_placement

    log, data = artifacts / "demo" / "clicks.csv", artifacts / "demo" / "data"
    items = log.with_name("items.csv")
    steps.run("demo-store", "--output", str(log))
    steps.run("prepare", "--input", str(log), "--output", str(data), "--name", "demo", "--force")
    steps.run(
        *("train", "--data", str(data), "--model", "gru", "--artifacts", str(artifacts)),
        *("--set", f"epochs={EPOCHS}", "--items", str(items), "--publish"),
    )
    steps.run("items", "import", str(items), "--artifacts", str(artifacts))
    for name, placement in PLACEMENTS.items():  # as `nextclick placements set` does
        set_placement(artifacts, name, Placement.model_validate(placement), by="demo")
    print(f"placements: {', '.join(PLACEMENTS)}", flush=True)


class Console(NamedTuple):
    """The operator's pages, and where they are."""

    process: subprocess.Popen[bytes]
    url: str


def start_console(steps: Steps, service_url: str, artifacts: Path) -> Console | None:
    """Start it, on a port that is free; None where it is not installed."""
    if find_spec("console") is None or find_spec("nicegui") is None:
        return None
    port = _free_port(CONSOLE_PORT)
    metrics = (
        os.environ.get("NEXTCLICK_METRICS_HOST", "127.0.0.1"),
        os.environ.get("NEXTCLICK_METRICS_PORT", "9464"),
    )
    process = steps.start(
        *("console", "--port", str(port), "--service", service_url, "--artifacts", str(artifacts)),
        *("--metrics", "http://{}:{}/metrics".format(*metrics)),
        end_seconds=END_SECONDS,
    )
    return Console(process, f"http://127.0.0.1:{port}/")


def _free_port(wanted: int) -> int:
    """This port of the loopback address, or another one when somebody has it."""
    for port in (wanted, 0):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)) as probe:
            return int(probe.getsockname()[1])
    return wanted


def wait_until_ready(process: subprocess.Popen[bytes], url: str) -> bool:
    """Whether what it serves answers; False when it left instead. Leaves with 1 when it does neither."""
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None:
        if _answers(url):
            return True
        if time.monotonic() > deadline:
            fail(f"{url} did not answer in {READY_SECONDS} s", code=1)
        time.sleep(0.2)
    return False


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except (OSError, HTTPException):
        return False


def greeting(url: str, artifacts: Path, console: Console | None, admin_key: str) -> str:
    """Two pages to open, and two commands to paste: a click on a popular item, and what comes next."""
    from service.live.deployment import bundle_path, read_deployment

    champion = read_deployment(artifacts).champion
    assert champion is not None
    with (bundle_path(artifacts, champion) / "items.txt").open() as items:
        first = next(items).strip()
    pages = [("all calls", f"{url}/docs", "")]
    if console is not None:
        pages.insert(0, ("the console", console.url, f"run it; the key is {admin_key}"))
    if _answers(f"{url}/"):  # not where shoppers need a key
        pages.insert(0, ("the shop", f"{url}/", "click around, and see what comes next"))
    width = max(len(address) for _, address, _ in pages)
    lines = [f"  {name:<11}  {address:<{width}}  {what}".rstrip() for name, address, what in pages]
    return f"""
Nextclick serves {champion}  (Ctrl-C stops it)

{chr(10).join(lines)}

  curl -s {url}/sessions/me/click -H 'content-type: application/json' -d '{{"item_id": "{first}"}}'
  curl -s '{url}/recommend?session_id=me'
"""
