"""What a console that somebody looks at costs the service beside it.

    python -m benchmarks.console --artifacts artifacts --workers 2 --rate 300 --seconds 8 --rounds 4

Starts a service with state of its own, and a console of it. In each round it is sent clicks and
recommendations, half and half, open loop: once with the console closed, once with its overview open in a
browser, which looks at it and redraws it as it does for an operator; which comes first changes from round to
round. The browser has the lowest priority: it is on another machine in life. The console has the usual one.
Latency counts from when a request was due. It exits with 1 if any request failed or was shed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path

import uvloop
from playwright.async_api import Page, async_playwright
from rich.console import Console
from rich.table import Table

from benchmarks.load.__main__ import clicks_for, live_bundle
from benchmarks.load.loops import Seen
from benchmarks.load.processes import free_port, service, started
from benchmarks.load.report import hardware
from benchmarks.stock import QUANTILES, Load, Phase, add_served_options, artifacts_of
from service.ranking.bundle import read_manifest

KEY = "the-key-of-this-benchmark"
SETTLE_SECONDS = 3.0  # after the page has come to show something
# A group of processes has a priority of its own where the kernel balances groups.
BROWSER = """#!/bin/sh
exec setsid sh -c 'echo 19 > /proc/self/autogroup; exec nice -n 19 {chromium} "$@"' chromium "$@"
"""


@contextmanager
def console_of(port: int, metrics_port: int) -> Iterator[str]:
    """The address of a console, until the block ends."""
    own = free_port()
    command = [sys.executable, "-m", "nextclick", "console", "--port", str(own)]
    command += ["--service", f"http://127.0.0.1:{port}"]
    command += ["--metrics", f"http://127.0.0.1:{metrics_port}/metrics"]
    with tempfile.TemporaryDirectory() as directory:
        url = f"http://127.0.0.1:{own}"
        with started(command, _environment(), f"{url}/login", Path(directory) / "console.log"):
            yield url


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("NEXTCLICK_")}


@asynccontextmanager
async def browser_page() -> AsyncIterator[Page]:
    """A page of Chromium at the lowest priority. Raises `RuntimeError` where there is none."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise RuntimeError("no chromium on PATH")
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "chromium"
        script.write_text(BROWSER.format(chromium=chromium))
        script.chmod(0o755)
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=script, args=["--no-sandbox"])
            yield await browser.new_page()
            await browser.close()


async def open_overview(page: Page, url: str) -> None:
    """The overview, logged in, with its figures there."""
    await page.goto(url)
    if "/login" in page.url:
        await page.get_by_label("Admin key").fill(KEY)
        await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="Overview", level=1).wait_for()
    await page.get_by_role("article").first.wait_for()
    await asyncio.sleep(SETTLE_SECONDS)


async def redraws(page: Page) -> str:
    """What the page says of requests now; it changes while the page is followed."""
    said: str = await page.locator("main").inner_text()
    return re.sub(r"\s+", " ", said)


async def measure(load: Load, url: str, rounds: int) -> list[Phase]:
    """Closed, then open. Raises `RuntimeError`."""
    seen: dict[str, list[Seen]] = {"closed": [], "open": []}
    async with browser_page() as page:
        for number in range(rounds):
            for what in ("closed", "open") if number % 2 == 0 else ("open", "closed"):
                if what == "open":
                    await open_overview(page, url)
                    before = await redraws(page)
                else:
                    await page.goto("about:blank")
                    await asyncio.sleep(SETTLE_SECONDS)
                name = f"{what}-{number}-{time.time_ns()}"
                seen[what].append(await load.go_on(name, 2 * number + (what == "open"), load.ramp_seconds))
                if what == "open" and await redraws(page) == before:
                    raise RuntimeError("the page was not drawn anew: nobody looked at the service")
    closed = Phase.of("closed", seen["closed"])
    return [closed, Phase.of("open", seen["open"], calm=closed)]


def table(phases: Sequence[Phase], title: str) -> Table:
    """One line for each phase."""
    drawn = Table(title=title, title_justify="left")
    drawn.add_column("console")
    names = [f"p{quantile}" for quantile in QUANTILES]
    for name in ("requests", "failed", "shed", *names, *(f"{name} / closed" for name in names)):
        drawn.add_column(name, justify="right")
    for phase in phases:
        drawn.add_row(
            phase.what,
            *(f"{n:,}" for n in (phase.requests, phase.failed, phase.shed)),
            *(f"{phase.milliseconds[name]:,.2f}" if phase.milliseconds else "-" for name in names),
            *(f"{phase.of_calm[name]:.2f}x" if phase.of_calm else "-" for name in names),
        )
    drawn.caption = "p50 to p99 in ms, from when a request was due"
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or one JSON object; returns 1 if anything failed."""
    options = _options(arguments)
    metrics_port = free_port()
    settings = {"NEXTCLICK_METRICS_PORT": str(metrics_port), "NEXTCLICK_ADMIN_API_KEY": KEY}
    with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as name:
        artifacts = artifacts_of(options, Path(name))
        bundle = read_manifest(live_bundle(artifacts))
        machine = hardware()
        with (
            service(artifacts, options.workers, **settings) as running,
            console_of(running.port, metrics_port) as url,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            load = Load(running, clicks_for(artifacts, options.data), options.rate, options.seconds)
            phases = runner.run(measure(load, url, options.rounds))
    for complaint in [said for phase in phases for said in phase.complaints]:
        print(complaint, file=sys.stderr)
    if options.json:
        stated = {name: str(value) for name, value in vars(options).items()}
        print(json.dumps({"machine": machine, "options": stated, "phases": [asdict(p) for p in phases]}))
    else:
        on = ", ".join(f"{name} {value}" for name, value in machine.items())
        served = f"{bundle.version}, {bundle.n_items:,} items, {options.workers} workers"
        Console(width=150).print(table(phases, f"{options.rate:g} requests a second; {served}; {on}"))
    return 1 if sum(phase.failed + phase.shed for phase in phases) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_served_options(parser)
    parser.add_argument("--rate", type=float, default=1000, help="requests a second")
    parser.add_argument("--seconds", type=float, default=10, help="of load, each time")
    parser.add_argument("--rounds", type=int, default=4, help="closed and open")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
