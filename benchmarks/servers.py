"""What HTTP alone costs under each server that could run the service, in closed loops of 16.

    python -m benchmarks.servers --workers 2 --granian granian-venv/bin/granian

Each answers every request with the same 1,500 bytes, about what 20 recommended items take, and does nothing
else: uvicorn as it comes, the service's own way to run it (`service.process.supervisor`: answers in one
write, a socket for each worker), and granian, where it is installed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks.load.measure import Measure, measured
from benchmarks.load.processes import Running, free_port, started
from benchmarks.load.report import hardware, middle, table
from benchmarks.load.traffic import get, power_law_clicks
from service.process.settings import Settings
from service.process.supervisor import serve

ROOT = Path(__file__).parents[1]
BODY = b"x" * 1500
APP = "benchmarks.servers:create_app"
OURS = "HTTP alone, as the service runs it"
UVICORN = "HTTP alone, uvicorn"
GRANIAN = "HTTP alone, granian"


def create_app() -> ASGIApp:
    """An application that does nothing."""
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind == "lifespan.shutdown":
                    return
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": BODY})

    return app


@contextmanager
def ours(workers: int) -> Iterator[Running]:
    """The application under the service's own supervisor."""
    with _running([sys.executable, "-m", "benchmarks.servers"], workers) as running:
        yield running


@contextmanager
def uvicorn(workers: int) -> Iterator[Running]:
    """The application under uvicorn, with the fastest of its loops and parsers."""
    quiet = ("--no-access-log", "--log-level", "warning")
    options = ("--factory", "--loop", "uvloop", "--http", "httptools", *quiet)
    with _running([sys.executable, "-m", "uvicorn", APP, *options], workers) as running:
        yield running


@contextmanager
def granian(program: Path, workers: int) -> Iterator[Running]:
    """The application under granian, one thread of its own a worker, which was its fastest mode."""
    options = ("--interface", "asgi", "--factory", "--loop", "uvloop", "--http", "1", "--no-ws")
    command = [str(program.absolute()), *options, "--runtime-mode", "st", "--log-level", "warning", APP]
    with _running(command, workers) as running:
        yield running


@contextmanager
def _running(command: Sequence[str], workers: int) -> Iterator[Running]:
    port = free_port()
    command = [*command, "--port", str(port), "--workers", str(workers)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NEXTCLICK_LOG_LEVEL": "warning"}
    with started(command, environment, f"http://127.0.0.1:{port}/") as pid:
        yield Running(port, (pid,), Path())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns 1 if any request failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--closed", type=int, default=16, help="shoppers who wait for their answers")
    parser.add_argument("--seconds", type=float, default=5, help="of each of the three runs")
    parser.add_argument(
        "--granian", type=Path, help="the program, installed beside the packages of this project"
    )
    parser.add_argument("--port", type=int, help="do not measure: be the service's server, on this port")
    options = parser.parse_args(arguments)
    if options.port is not None:
        settings = {
            "port": options.port,
            "workers": options.workers,
            "redis_url": "redis://nobody-asks",
            "metrics_port": 0,
        }
        return serve(Settings.model_validate(settings), APP)
    measure = Measure(
        lambda seed: power_law_clicks(["none"], seed), 3 * options.seconds, 0, options.closed, 0
    )
    with ExitStack() as stack:
        servers = {OURS: ours(options.workers), UVICORN: uvicorn(options.workers)}
        if options.granian:
            servers[GRANIAN] = granian(options.granian, options.workers)
        runs = measured(
            [measure.same(what, stack.enter_context(each), get("/")) for what, each in servers.items()]
        )
    machine = ", ".join(f"{name} {value}" for name, value in hardware().items())
    kept = [middle(rows) for rows in runs.values()]
    Console(width=150).print(table(kept, f"{options.workers} workers; {machine}"))
    return 1 if any(row.errors for rows in runs.values() for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
