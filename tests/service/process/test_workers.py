"""The real `python -m service --workers 2`: what must hold over all workers, and through a shutdown."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from service.live.deployment import publish
from tests.service.bundles import Shop
from tests.service.processes import stopped
from tests.service.serving import ADMIN, item_ids

ROOT = Path(__file__).parents[3]
START_SECONDS = 30
CONVERGE_SECONDS = 5  # what DESIGN.md promises
SHOP = Shop.make()
RECOMMEND = "/recommend?session_id=s7"
LIVE = 'nextclick_bundle_live{{model="mean",role="champion",version="{}"}}'


@dataclass(frozen=True)
class Workers:
    """A service of two workers, each of which can be asked alone."""

    port: int
    process: subprocess.Popen[bytes]
    metrics: Path

    def request(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> Any:
        """Ask whichever worker the kernel gives the connection to; the answer must be 200.

        A worker that is stopped may be given it, too: what can be asked twice is asked again.
        """
        if method == "POST":
            return self._answer(method, path, body, headers, timeout_seconds=20)
        for _ in range(60):
            with suppress(TimeoutError):
                return self._answer(method, path, body, headers, timeout_seconds=0.3)
        raise TimeoutError(f"{method} {path}: no worker answers")

    def _answer(
        self, method: str, path: str, body: object, headers: dict[str, str] | None, timeout_seconds: float
    ) -> Any:
        content = None if body is None else json.dumps(body)
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=timeout_seconds)) as connection:
            connection.request(method, path, content, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            text = answer.read().decode()
        assert answer.status == 200, text
        return json.loads(text) if "json" in answer.headers["content-type"] else text

    def metric(self, line: str) -> float:
        """One line of /metrics; 0 when it is not there."""
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.request("GET", "/metrics"), re.MULTILINE)
        return float(found[1]) if found else 0

    def pids(self) -> list[int]:
        """The workers' process ids; each has a metrics file of its own."""
        return [int(file.stem.rpartition("_")[2]) for file in self.metrics.glob("gauge_livesum_*.db")]


@pytest.fixture
def workers(artifacts: Path, redis_url: str, tmp_path: Path) -> Iterator[Workers]:
    SHOP.write(artifacts, "v1")
    publish(artifacts, "v1")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "NEXTCLICK_ARTIFACTS_DIR": str(artifacts),
        "NEXTCLICK_REDIS_URL": redis_url,
        "NEXTCLICK_REDIS_TIMEOUT_SECONDS": "5",
        "NEXTCLICK_METRICS_DIR": str(tmp_path / "metrics"),
        "NEXTCLICK_ADMIN_API_KEY": ADMIN["X-API-Key"],
    }
    command = [sys.executable, "-m", "service", "--workers", "2", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
    try:
        service = Workers(port, process, tmp_path / "metrics")
        wait_until(lambda: service.metric(LIVE.format("v1")) == 2, START_SECONDS, tmp_path / "log")
        yield service
    finally:
        process.terminate()
        process.wait(30)
        print((tmp_path / "log").read_text())


def wait_until(condition: Callable[[], bool], seconds: float, log: Path | None = None) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except ConnectionError:
            pass  # not listening yet
        assert time.monotonic() < deadline, log.read_text() if log else "it did not come to pass"
        time.sleep(0.05)


def test_two_workers_are_one_service(workers: Workers, artifacts: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        clicks = [(f"/sessions/s{i}/click", {"item_id": "i5"}) for i in range(60)]
        list(pool.map(lambda click: workers.request("POST", *click), clicks))
    one, other = workers.pids()
    for pid in (one, other):
        with stopped(pid):
            assert workers.metric('nextclick_clicks_total{outcome="accepted"}') == 60
            assert item_ids(workers.request("GET", RECOMMEND)) == SHOP.nearest(["i5"])

    with stopped(one):
        workers.request("PUT", "/admin/hidden/i5", headers=ADMIN)
    for pid in (one, other):
        with stopped(pid):
            wait_until(lambda: item_ids(workers.request("GET", RECOMMEND))[0] != "i5", CONVERGE_SECONDS)

    new = Shop.make(seed=2)
    new.write(artifacts, "v2")
    publish(artifacts, "v2")
    wait_until(lambda: workers.metric(LIVE.format("v2")) == 2, CONVERGE_SECONDS)
    assert workers.metric(LIVE.format("v1")) == 0
    for pid in (one, other):
        with stopped(pid):
            answer = workers.request("GET", RECOMMEND)
            assert (answer["version"], item_ids(answer)) == ("v2", new.nearest(["i5"], without=["i5"]))


def test_requests_in_flight_finish(workers: Workers) -> None:
    """Their first half arrives before SIGTERM, their second half after it."""
    body = json.dumps({"item_id": "i5"}).encode()
    head = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    connections = [socket.create_connection(("127.0.0.1", workers.port)) for _ in range(40)]
    for number, connection in enumerate(connections):
        connection.sendall(
            f"POST /sessions/s{number}/click?recommend=20 HTTP/1.1\r\n".encode() + head + body[:5]
        )
    time.sleep(0.5)  # until a worker has each of them
    workers.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    for connection in connections:
        connection.sendall(body[5:])
    for connection in connections:
        answer = HTTPResponse(connection)
        answer.begin()
        assert answer.status == 200
        assert len(json.loads(answer.read())["recommendations"]["items"]) == 20
        connection.close()
    assert workers.process.wait(20) == 0


def test_a_worker_that_is_killed_in_mid_swap_loses_no_acknowledged_click(
    workers: Workers, artifacts: Path, redis_url: str
) -> None:
    """Clients send a click again, with its event id, until somebody acknowledges it."""
    acknowledged: set[str] = set()
    done = threading.Event()

    def visit(session: int) -> None:
        number = 0
        while not done.is_set():
            event = f"{session}.{number}"
            body = {"item_id": "i5", "event_id": event}
            with suppress(ConnectionError, HTTPException):  # the worker died with it
                workers.request("POST", f"/sessions/s{session}/click?recommend=20", body)
                acknowledged.add(event)
                number += 1

    for seed in (2, 3):
        Shop.make(n_items=60_000, dim=64, seed=seed).write(artifacts, f"v{seed}")  # takes a moment to load
    with Redis.from_url(redis_url, decode_responses=True) as client, ThreadPoolExecutor(4) as pool:
        visitors = [pool.submit(visit, session) for session in range(4)]
        wait_until(lambda: len(acknowledged) > 20, CONVERGE_SECONDS)
        for version in ("v2", "v3"):
            publish(artifacts, version)
            live = LIVE.format(version)
            time.sleep(0.03)  # both are loading now
            os.kill(workers.pids()[0], signal.SIGKILL)
            wait_until(lambda live=live: workers.metric(live) == 2, START_SECONDS)  # type: ignore[misc]
            before = len(acknowledged)
            wait_until(lambda before=before: len(acknowledged) > before + 20, CONVERGE_SECONDS)  # type: ignore[misc]
        done.set()
        assert [visitor.exception() for visitor in visitors] == [None] * 4
        logged = Counter(f["event"] for key in client.scan_iter("clicks:*") for _, f in client.xrange(key))
    assert set(logged) >= acknowledged
    assert set(logged.values()) == {1}, "a click that was sent again counts once"
    assert len(logged) <= len(acknowledged) + 4, "each visitor may have one click under way"
