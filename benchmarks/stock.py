"""How soon a shop's changes of stock reach the answers of all workers, and what they and an import cost.

    python -m benchmarks.stock --artifacts artifacts --workers 2 --rate 2000 --seconds 30

Starts a service with state of its own, imports a made-up catalogue, and sends it clicks and recommendations,
half and half, open loop, in three phases of one run:

* calm: nothing else happens.
* stock changes: every 100 ms or so one of the items that a probe session is answered is made unavailable
  (PATCH), until the load ends; once no worker answers it any more it is made available again.
* import: `nextclick items import` of 200,000 items goes on beside it, those of the bundle among them, in its
  own process on the same machine; what is due from its start until a second after its end counts.

In all phases every worker is asked for the probe session once in 20 ms, over a connection of its own, which
is no part of the rate. An item is gone from a worker with the first answer without it that was asked for
after the PATCH was sent; the time counts from that sending to the arrival of the last worker's such answer,
and so is up to 20 ms and an answer too long, never too short. The last item of the imported file is one of
those answered, now unavailable: how long after the end of the import the workers still answer it is told too.
Latency counts from when a request was due; `late` is how much of it passed until it was sent: the load
generator wants the same cores, and a session waits for its last answer. It exits with 1 if any
request failed or was shed, or a change did not get to all workers in a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.catalogue import attributes
from benchmarks.load.__main__ import clicks_for, live_bundle
from benchmarks.load.client import GOOD, SHED
from benchmarks.load.loops import Seen, open_loop
from benchmarks.load.measure import RAMP_SHARE, Clicks
from benchmarks.load.processes import ELSEWHERE, CpuMeter, Running, service
from benchmarks.load.report import hardware
from benchmarks.load.traffic import click, due_times, interleave, recommend, visits
from service.live.deployment import publish
from service.ranking.bundle import ITEMS, read_items, read_manifest
from tests.service.processes import peer

QUANTILES = (50, 90, 99)
CHANGE_SECONDS = (
    0.1  # between two items that are made unavailable, half as much more or less: no beat with polls
)
PROBE_SECONDS = 0.02  # between two answers of a worker
PATIENCE_SECONDS = 60.0  # for what will never come to pass
IMPORT_SECONDS = 600.0  # at most
TAIL_SECONDS = 1.0  # behind an import: workers may still follow it
CONNECTIONS = 500  # at most, until every worker has accepted one
PROBE = "stock-probe"
MAX_COMPLAINTS = 5


@dataclass
class Awaited:
    """What workers should answer, or not, since when, and which of them do not do so yet."""

    since: float
    hidden: bool
    left: set[int]


@dataclass
class Stock:
    """Which items workers still answer, or do not answer again yet; all times are of one clock."""

    workers: Collection[int]
    items: Sequence[str]  # that every worker answers while all are available
    gone: list[str] = field(default_factory=list)  # that no worker answers: to be made available again
    gone_seconds: list[float] = field(default_factory=list)  # from the change until no worker answered it
    back_seconds: list[float] = field(default_factory=list)  # from the change until all did again
    _awaited: dict[str, Awaited] = field(default_factory=dict)

    @property
    def shown(self) -> list[str]:
        """The items that every worker answers, as far as is known."""
        return [item for item in self.items if item not in self._awaited and item not in self.gone]

    @property
    def pending(self) -> int:
        """How many items some worker has not followed yet."""
        return len(self._awaited)

    def hide(self, item: str, now: float) -> None:
        """It is unavailable from now on."""
        self._awaited[item] = Awaited(now, True, set(self.workers))

    def show(self, item: str, now: float) -> None:
        """One of those that are gone is available again from now on."""
        self.gone.remove(item)
        self._awaited[item] = Awaited(now, False, set(self.workers))

    def answered(self, worker: int, asked: float, now: float, items: Collection[str]) -> None:
        """A worker was asked at one moment, and its answer came at another."""
        for item, awaited in list(self._awaited.items()):
            if asked < awaited.since or (item in items) is awaited.hidden:
                continue
            awaited.left.discard(worker)
            if not awaited.left:
                del self._awaited[item]
                (self.gone_seconds if awaited.hidden else self.back_seconds).append(now - awaited.since)
                if awaited.hidden:
                    self.gone.append(item)


@dataclass(frozen=True)
class Phase:
    """What the load met in one of the phases."""

    what: str
    requests: int
    failed: int
    shed: int
    milliseconds: dict[str, float]  # quantiles of the good answers; empty where there were none
    of_calm: dict[str, float]  # their ratios to those of the calm
    late_milliseconds: dict[str, float]  # from when requests were due until they were sent
    complaints: list[str]

    @classmethod
    def of(
        cls,
        what: str,
        seen: Sequence[Seen],
        start: float = -np.inf,
        end: float = np.inf,
        calm: Phase | None = None,
    ) -> Phase:
        """Of the requests that were due between two moments of the clock."""
        due = np.concatenate([part.start + part.due for part in seen])
        counts = (due >= start) & (due <= end)
        outcome = np.concatenate([part.outcome for part in seen])[counts]
        took = np.concatenate([part.took for part in seen])[counts]
        late = np.concatenate([part.late for part in seen])[counts]
        good, shed = outcome == GOOD, int((outcome == SHED).sum())
        milliseconds = quantiles_of(took[good])
        return cls(
            what,
            len(outcome),
            len(outcome) - int(good.sum()) - shed,
            shed,
            milliseconds,
            {
                name: round(value / calm.milliseconds[name], 2)
                for name, value in milliseconds.items()
                if calm is not None and name in calm.milliseconds
            },
            quantiles_of(late[outcome > 0]),
            [complaint for part in seen for complaint in part.complaints],
        )


def quantiles_of(seconds: Iterable[float]) -> dict[str, float]:
    """In milliseconds, by name; of nothing there are none."""
    values = 1000 * np.fromiter(seconds, dtype=np.float64)
    if not len(values):
        return {}
    found = np.percentile(values, QUANTILES).tolist()
    return {f"p{q}": round(value, 2) for q, value in zip(QUANTILES, found, strict=True)}


class Wire:
    """One connection that asks one thing at a time; who accepted it answers all of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader
        self._lock = asyncio.Lock()

    @classmethod
    async def open(cls, port: int) -> Wire:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(
        self, content: bytes, sent: Callable[[float], object] = lambda _: None
    ) -> tuple[int, bytes]:
        """Status and body; `sent` is told when it goes out. Raises `OSError` and `EOFError`."""
        async with self._lock, asyncio.timeout(PATIENCE_SECONDS):
            sent(time.perf_counter())
            self.writer.write(content)
            head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"\r\ncontent-length:")[2].split(b"\r\n", 1)[0])
            return int(head[9:12]), await self._reader.readexactly(length)


class Watch:
    """Asks every worker for the probe session again and again, and changes the stock over HTTP."""

    def __init__(self, workers: dict[int, Wire], wire: Wire) -> None:
        self.failed = 0
        self.complaints: list[str] = []
        self.stock = Stock(tuple(workers), ())
        self.last: dict[int, frozenset[str]] = {}  # what each worker answered
        self._workers, self._wire = workers, wire

    @classmethod
    @asynccontextmanager
    async def on(cls, running: Running, n_workers: int, item: str) -> AsyncIterator[Watch]:
        """Watch all workers of a service for a session of this click. Raises `RuntimeError`."""
        wires = [await Wire.open(running.port)]
        try:
            status, body = await wires[0].ask(click(PROBE, item).content)
            if status != 200:
                raise RuntimeError(f"the probe's click: status {status}: {body[:200]!r}")
            workers: dict[int, Wire] = {}
            while len(workers) < n_workers and len(wires) < CONNECTIONS:
                wires.append(wire := await Wire.open(running.port))
                await wire.ask(recommend(PROBE).content)  # so that somebody has accepted it
                pid = peer(wire.writer.get_extra_info("socket"))
                if pid is not None:
                    workers.setdefault(pid, wire)
            if len(workers) < n_workers:
                raise RuntimeError(f"{len(workers)} of {n_workers} workers answer")
            for wire in wires[1:]:
                if wire not in workers.values():
                    wire.writer.close()
            watch = cls(workers, wires[0])
            tasks = [asyncio.create_task(watch._ask_again_and_again(pid)) for pid in workers]
            try:
                yield watch
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for wire in wires:
                wire.writer.close()

    async def items(self) -> list[str]:
        """What every worker answers now. Raises `RuntimeError`."""
        self.last.clear()
        if not await self.until(lambda: len(self.last) == len(self._workers)):
            raise RuntimeError(f"not every worker answers the probe: {self.complaints}")
        return sorted(frozenset.intersection(*self.last.values()))

    async def until(self, condition: Callable[[], object]) -> bool:
        """Whether something came to pass in time."""
        deadline = time.perf_counter() + PATIENCE_SECONDS
        while not condition() and time.perf_counter() < deadline:
            await asyncio.sleep(PROBE_SECONDS / 4)
        return bool(condition())

    async def change(self, item: str, available: bool) -> None:
        """Make an item available or not."""
        body = json.dumps({"available": available}).encode()
        head = (
            f"PATCH /items/{quote(item, safe='')} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        )
        content = head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body
        tell = self.stock.show if available else self.stock.hide
        status, body = await self._wire.ask(content, lambda now: tell(item, now))
        if status != 200:
            self._complain(f"PATCH of {item}: status {status}: {body[:200]!r}")

    async def changes(self, wanted: int, loading: asyncio.Task[Seen]) -> None:
        """Make items unavailable, and available again, while the load lasts and until so many were seen."""
        rng = np.random.default_rng(0)
        deadline = time.perf_counter() + PATIENCE_SECONDS + wanted * CHANGE_SECONDS
        due = time.perf_counter()
        while time.perf_counter() < deadline or not loading.done():
            if loading.done() and len(self.stock.gone_seconds) >= wanted:
                break
            for item in list(self.stock.gone):
                await self.change(item, available=True)
            if time.perf_counter() >= due and (shown := self.stock.shown):
                await self.change(shown[rng.integers(len(shown))], available=False)
                due = max(due, time.perf_counter() - CHANGE_SECONDS) + CHANGE_SECONDS * rng.uniform(0.5, 1.5)
            await asyncio.sleep(PROBE_SECONDS / 4)
        if len(self.stock.gone_seconds) < wanted:
            self._complain(f"{len(self.stock.gone_seconds)} of {wanted} changes reached all workers in time")
        await self.settled()
        for item in list(self.stock.gone):
            await self.change(item, available=True)
        await self.settled()

    async def settled(self) -> None:
        """Wait until all workers have followed."""
        if not await self.until(lambda: not self.stock.pending):
            self._complain(f"{self.stock.pending} changes have not reached all workers")

    async def _ask_again_and_again(self, pid: int) -> None:
        content, wire = recommend(PROBE).content, self._workers[pid]
        asked = 0.0

        def sent(now: float) -> None:
            nonlocal asked
            asked = now

        while True:
            try:
                status, body = await wire.ask(content, sent)
            except (OSError, EOFError, TimeoutError) as error:
                self._complain(f"worker {pid} answers no more: {error!r}")
                return
            now = time.perf_counter()
            answer = json.loads(body) if status == 200 else {}
            if status != 200 or answer["degraded"]:
                self._complain(f"probe: status {status}: {body[:200]!r}")
            else:
                self.last[pid] = items = frozenset(item["item_id"] for item in answer["items"])
                self.stock.answered(pid, asked, now, items)
            await asyncio.sleep(max(0.0, asked + PROBE_SECONDS - time.perf_counter()))

    def _complain(self, what: str) -> None:
        self.failed += 1
        if len(self.complaints) < MAX_COMPLAINTS:
            self.complaints.append(what)


@dataclass(frozen=True)
class Load:
    """Clicks and recommendations, half and half, at a fixed rate."""

    running: Running
    clicks: Clicks
    rate: float
    seconds: float

    @property
    def ramp_seconds(self) -> float:
        return self.seconds * RAMP_SHARE

    async def go_on(self, name: str, number: int, ramp_seconds: float) -> Seen:
        """Send all that is due, in sessions of these names."""
        due = due_times(self.rate, self.seconds, ramp_seconds)
        plan = interleave(visits(self.clicks(number), f"{name}-{number}"), len(due), seed=number)
        return await open_loop(self.running.port, plan, due, ramp_seconds, CpuMeter(*self.running.pids).read)


@dataclass(frozen=True)
class Import:
    """One run of `nextclick items import`."""

    start: float
    seconds: float
    status: int | None  # None: it took too long
    said: str


async def import_items(running: Running, file: Path, stock: Stock | None = None, hidden: str = "") -> Import:
    """Import a file into what a service runs on, by a process; an item of it is `hidden` from its end."""
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    environment |= {"NEXTCLICK_ARTIFACTS_DIR": str(running.artifacts)}
    start = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "nextclick", "items", "import", str(file), "--json"),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(IMPORT_SECONDS):
            out, err = await process.communicate()
    except TimeoutError:
        return Import(start, time.perf_counter() - start, None, "it took too long")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if stock is not None:
        stock.hide(hidden, time.perf_counter())
    said = (out or err).decode().strip()
    return Import(start, time.perf_counter() - start, process.returncode, said[-500:])


def write_catalogue(file: Path, items: Sequence[str], seed: int) -> None:
    """Lines of JSON with made-up attributes for all of these items, which are available."""
    rng = np.random.default_rng(seed)
    with file.open("w") as stream:
        for number, item_id in enumerate(items):
            stream.write(json.dumps({"item_id": item_id, **attributes(number, rng)}) + "\n")


def with_others(items: Sequence[str], n: int) -> list[str]:
    """So many items: those of the bundle, most popular first, and some that it has never seen."""
    return [*items[:n], *(f"other-{number:06}" for number in range(n - len(items)))]


@dataclass(frozen=True)
class Report:
    """All that was measured."""

    phases: list[Phase]
    changes: int  # that reached all workers
    gone_milliseconds: dict[str, float]
    gone_most: float
    back_milliseconds: dict[str, float]
    imported: int
    import_seconds: float
    import_status: int | None
    import_said: str
    last_item_milliseconds: list[float]  # after the import's end
    probes_failed: int
    complaints: list[str]

    @property
    def failed(self) -> int:
        """Everything that should not have been."""
        phases = sum(phase.failed + phase.shed for phase in self.phases)
        return phases + self.probes_failed + (self.import_status != 0)


async def measure(
    running: Running, clicks: Clicks, items: Sequence[str], directory: Path, options: argparse.Namespace
) -> Report:
    """All phases. Raises `RuntimeError`."""
    load = Load(running, clicks, options.rate, options.seconds)
    first, second = directory / "first.jsonl", directory / "second.jsonl"
    write_catalogue(first, with_others(items, len(items) + options.others), seed=1)
    write_catalogue(second, with_others(items, options.items), seed=2)
    imported = await import_items(running, first)
    if imported.status:
        raise RuntimeError(f"the first import: status {imported.status}: {imported.said}")
    async with Watch.on(running, options.workers, items[0]) as watch:
        calm = Phase.of("calm", [await load.go_on("calm", 1, load.ramp_seconds)])

        answered = await watch.items()
        watch.stock = stock = Stock(watch.stock.workers, answered)
        loading = asyncio.create_task(load.go_on("stock", 2, load.ramp_seconds))
        await asyncio.sleep(load.ramp_seconds)
        await watch.changes(options.changes, loading)
        changing = Phase.of("stock changes", [await loading], calm=calm)

        last = (await watch.items())[0]
        with second.open("a") as stream:
            stream.write(json.dumps({"item_id": last, "available": False}) + "\n")
        watch.stock = Stock(stock.workers, [last])
        loading = asyncio.create_task(load.go_on("import", 3, load.ramp_seconds))
        await asyncio.sleep(load.ramp_seconds)
        importing = asyncio.create_task(import_items(running, second, watch.stock, last))
        seen = [await loading]
        while not importing.done():
            seen.append(await load.go_on("import", 3 + len(seen), 0))
        imported = await importing
        await watch.settled()
        end = imported.start + imported.seconds + TAIL_SECONDS
        during = Phase.of("import", seen, imported.start, end, calm)
    return Report(
        phases=[calm, changing, during],
        changes=len(stock.gone_seconds),
        gone_milliseconds=quantiles_of(stock.gone_seconds),
        gone_most=round(1000 * max(stock.gone_seconds, default=0.0), 2),
        back_milliseconds=quantiles_of(stock.back_seconds),
        imported=options.items,
        import_seconds=round(imported.seconds, 2),
        import_status=imported.status,
        import_said=imported.said,
        last_item_milliseconds=[round(1000 * seconds, 2) for seconds in watch.stock.gone_seconds],
        probes_failed=watch.failed,
        complaints=[
            *watch.complaints,
            *(said for phase in (calm, changing, during) for said in phase.complaints),
        ],
    )


def table(report: Report, title: str) -> Table:
    """One line for each phase."""
    drawn = Table(title=title, title_justify="left")
    drawn.add_column("what")
    names = [f"p{quantile}" for quantile in QUANTILES]
    for name in ("requests", "failed", "shed", *names, *(f"{name} / calm" for name in names), "late p99"):
        drawn.add_column(name, justify="right")
    for phase in report.phases:
        drawn.add_row(
            phase.what,
            *(f"{n:,}" for n in (phase.requests, phase.failed, phase.shed)),
            *(f"{phase.milliseconds[name]:,.2f}" if phase.milliseconds else "-" for name in names),
            *(f"{phase.of_calm[name]:.2f}x" if phase.of_calm else "-" for name in names),
            f"{phase.late_milliseconds['p99']:,.2f}" if phase.late_milliseconds else "-",
        )
    drawn.caption = "p50 to p99 in ms, from when a request was due"
    return drawn


def artifacts_of(options: argparse.Namespace, directory: Path) -> Path:
    """The artifacts to serve: with a bundle, `directory`, where that alone is live."""
    if options.bundle is None:
        artifacts: Path = options.artifacts
        return artifacts
    bundle = options.bundle.resolve()
    (directory / "bundles").mkdir()
    (directory / "bundles" / bundle.name).symlink_to(bundle)
    publish(directory, bundle.name)
    return directory


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or one JSON object; returns 1 if anything failed."""
    options = _options(arguments)
    with redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as name:  # logs are no part of the JSON
        directory = Path(name)
        artifacts = artifacts_of(options, directory)
        bundle = live_bundle(artifacts)
        manifest = read_manifest(bundle)
        items, machine = read_items(bundle / ITEMS), hardware()
        with (
            service(artifacts, options.workers) as running,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            clicks = clicks_for(artifacts, options.data)
            report = runner.run(measure(running, clicks, items, directory, options))
    for complaint in report.complaints:
        print(complaint, file=sys.stderr)
    if options.json:
        stated = {name: str(value) for name, value in vars(options).items()}
        served = manifest.model_dump(mode="json", include={"version", "model", "n_items", "dim", "index"})
        print(
            json.dumps({"machine": machine, "bundle": served, "options": stated, **asdict(report)}, indent=2)
        )
    else:
        hardware_said = ", ".join(f"{name} {value}" for name, value in machine.items())
        service_said = f"{manifest.version}, {manifest.n_items:,} items, {options.workers} workers"
        title = f"{options.rate:g} requests a second; {service_said}; {hardware_said}"
        Console(width=150).print(table(report, title))
        gone, back = shown(report.gone_milliseconds), shown(report.back_milliseconds)
        print(f"{report.changes:,} items, from the change until no worker answered them: {gone}")
        print(f"at most {report.gone_most:,.0f} ms; and until all did again: {back}")
        print(f"{report.imported:,} items imported in {report.import_seconds:,.1f} s: {report.import_said}")
        after = ", ".join(f"{value:,.0f} ms" for value in report.last_item_milliseconds) or "not seen"
        print(f"from its end until no worker answered its last item: {after}")
    return 1 if report.failed else 0


def shown(milliseconds: dict[str, float]) -> str:
    """Quantiles in words."""
    return ", ".join(f"{name} {value:,.0f} ms" for name, value in milliseconds.items()) or "none"


def add_served_options(parser: argparse.ArgumentParser) -> None:
    """What is served, by how many workers, and whose sessions ask: for `artifacts_of` and `clicks_for`."""
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="what is live there")
    parser.add_argument("--bundle", type=Path, help="this one instead")
    parser.add_argument(
        "--data", type=Path, help="sessions of this data set, which the bundle is made of; default: made up"
    )
    parser.add_argument("--workers", type=int, default=2)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_served_options(parser)
    parser.add_argument("--rate", type=float, default=500, help="requests a second")
    parser.add_argument(
        "--seconds", type=float, default=30, help="of load in a phase; an import may take more"
    )
    parser.add_argument("--changes", type=int, default=100, help="of stock, at least")
    parser.add_argument("--items", type=int, default=200_000, help="that are imported beside the load")
    parser.add_argument("--others", type=int, default=5000, help="in the catalogue, but not in the bundle")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
