"""The real `python -m service --workers 2`: what must hold over all workers, and through a shutdown."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path

import pytest
from redis import Redis

from service.live.deployment import publish
from service.live.follower import turn_to_load
from service.process.settings import CHECKED_DIRECTORY
from tests.service.bundles import Shop
from tests.service.processes import Service, running
from tests.service.serving import ADMIN, item_ids
from tests.waiting import DEADLINE_SECONDS, until

SHOP = Shop.make()
RECOMMEND = "/recommend?session_id=s7"
LIVE = 'nextclick_bundle_live{{model="mean",role="champion",version="{}"}}'
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def metric(page: str, line: str) -> float:
    """One line of the metrics; 0 when it is not there."""
    found = re.search(rf"^{re.escape(line)} (\S+)$", page, re.MULTILINE)
    return float(found[1]) if found else 0


def live(service: Service, version: str) -> float:
    """How many workers serve a version."""
    return metric(service.metrics(), LIVE.format(version))


@pytest.fixture
def workers(artifacts: Path, redis_url: str, tmp_path: Path) -> Iterator[Service]:
    SHOP.write(artifacts, "v1")
    publish(artifacts, "v1")
    environment = {
        "NEXTCLICK_ARTIFACTS_DIR": str(artifacts),
        "NEXTCLICK_REDIS_URL": redis_url,
        "NEXTCLICK_REDIS_TIMEOUT_SECONDS": "60",
        "NEXTCLICK_ADMIN_API_KEY": ADMIN["X-API-Key"],
    }
    with running(tmp_path, workers=2, **environment) as service:
        until(lambda: live(service, "v1") == 2)
        service.each("/health/live")  # they listen a moment after
        yield service


def test_a_placement_holds_in_every_worker(workers: Service) -> None:
    """Changed at one of them, it is there at all, with the catalogue that it steers by."""
    answered: dict[int | None, tuple[int, list[str]]] = {}

    def all_answer(status: int, *expected: str) -> bool:
        answer = workers.ask("GET", f"{RECOMMEND}&placement=home")
        found = item_ids(answer.json()) if answer.status == 200 else []
        answered[answer.pid] = (answer.status, found)
        return list(answered.values()) == [(status, list(expected))] * 2

    assert workers.ask("POST", "/sessions/s7/click", {"item_id": "i5"}).status == 200
    nearest = [item_id for item_id in SHOP.nearest(["i5"]) if item_id != "i5"]
    items = [{"item_id": nearest[4], "tags": ["sale"]}, {"item_id": nearest[2], "tags": ["sale"]}]
    assert workers.ask("PUT", "/items", items).status == 200
    sale = {"attribute": "tags", "contains": "sale"}
    home = {"k": 3, "exclude_seen": True, "boosts": [{"rule": sale, "factor": 100}]}
    assert workers.ask("PUT", "/admin/placements/home", home, **ADMIN).status == 200
    until(lambda: all_answer(200, nearest[2], nearest[4], nearest[0]))
    assert workers.ask("PUT", "/admin/placements/home", home | {"k": 1}, **ADMIN).status == 200
    until(lambda: all_answer(200, nearest[2]))
    assert workers.ask("PATCH", f"/items/{nearest[2]}", {"available": False}).status == 200
    until(lambda: all_answer(200, nearest[4]))
    assert workers.ask("POST", "/admin/placements/home/rollback", **ADMIN).json()["number"] == 3
    until(lambda: all_answer(200, nearest[4], nearest[0], nearest[1]))
    assert workers.ask("DELETE", "/admin/placements/home", **ADMIN).status == 200
    until(lambda: all_answer(404))


def test_two_workers_are_one_service(workers: Service, artifacts: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        clicks = [("POST", f"/sessions/s{i}/click", {"item_id": "i5"}) for i in range(60)]
        assert [a.status for a in pool.map(lambda click: workers.ask(*click), clicks)] == [200] * 60
    accepted = 'nextclick_clicks_total{outcome="accepted"}'
    assert metric(workers.metrics(), accepted) == 60
    assert workers.ask("GET", "/metrics").status == 404, "shoppers are told nothing"
    for answer in workers.each(RECOMMEND):
        assert item_ids(answer.json()) == SHOP.nearest(["i5"])

    assert workers.ask("POST", "/admin/hidden", {"hide": ["i5"]}, **ADMIN).json() == {"hidden": 1}
    until(lambda: all(item_ids(answer.json())[0] != "i5" for answer in workers.each(RECOMMEND)))

    new = Shop.make(seed=2)
    new.write(artifacts, "v2")
    publish(artifacts, "v2")
    until(lambda: live(workers, "v2") == 2)
    assert live(workers, "v1") == 0
    for answer in workers.each(RECOMMEND):
        assert answer.json()["version"] == "v2"
        assert item_ids(answer.json()) == new.nearest(["i5"], without=["i5"])

    # Of each bundle the checksums were read once, and where that stands only the service can write.
    environment = Path(f"/proc/{answer.pid}/environ").read_text().split("\0")
    checked = Path(dict(each.partition("=")[::2] for each in environment)[CHECKED_DIRECTORY])
    assert checked.stat().st_mode & 0o777 == 0o700
    assert [bool(stamp.read_bytes()) for stamp in checked.iterdir()] == [True, True]


def test_requests_in_flight_finish(workers: Service) -> None:
    """A worker waits for their bodies when SIGTERM comes; the bodies come when it listens no more."""
    body = json.dumps({"item_id": "i5"}).encode()
    fields = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    connections = [socket.create_connection(("127.0.0.1", workers.port), DEADLINE_SECONDS) for _ in range(40)]
    for number, connection in enumerate(connections):
        request = f"POST /sessions/s{number}/click?recommend=20 HTTP/1.1\r\n{fields}"
        connection.sendall(f"{request}Expect: 100-continue\r\n\r\n".encode())
    for connection in connections:
        assert connection.recv(len(CONTINUE), socket.MSG_WAITALL) == CONTINUE
    workers.process.send_signal(signal.SIGTERM)
    until(workers.refuses_connections)
    for connection in connections:
        connection.sendall(body)
    for connection in connections:
        answer = HTTPResponse(connection)
        answer.begin()
        assert answer.status == 200
        assert len(json.loads(answer.read())["recommendations"]["items"]) == 20
        connection.close()
    assert workers.process.wait(DEADLINE_SECONDS) == 0


def test_a_worker_that_is_killed_in_mid_swap_loses_no_acknowledged_click(
    workers: Service, artifacts: Path, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients send a click again, with its event id, until somebody acknowledges it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # the workers': their lock lies there
    acknowledged: set[str] = set()
    done = threading.Event()

    def visit(session: int) -> None:
        number = 0
        while not done.is_set():
            event = f"{session}.{number}"
            body = {"item_id": "i5", "event_id": event}
            with suppress(ConnectionError, HTTPException):  # the worker died with it
                answer = workers.ask("POST", f"/sessions/s{session}/click?recommend=20", body)
                assert answer.status == 200, answer
                acknowledged.add(event)
                number += 1

    def more_are_acknowledged() -> None:
        before = len(acknowledged)
        until(lambda: len(acknowledged) > before + 20)

    for seed in (2, 3):
        Shop.make(seed=seed).write(artifacts, f"v{seed}")
    with Redis.from_url(redis_url, decode_responses=True) as client, ThreadPoolExecutor(4) as pool:
        visitors = [pool.submit(visit, session) for session in range(4)]
        more_are_acknowledged()
        for version in ("v2", "v3"):
            with turn_to_load(artifacts):  # which both workers then wait for
                publish(artifacts, version)
                until(lambda version=version: followed(workers, version) == 2)  # type: ignore[misc]
                os.kill(until(lambda: workers.ask("GET", "/health/live").pid), signal.SIGKILL)
                more_are_acknowledged()
            until(lambda version=version: live(workers, version) == 2)  # type: ignore[misc]
            more_are_acknowledged()
        done.set()
        assert [visitor.exception() for visitor in visitors] == [None] * 4
        logged = Counter(f["event"] for key in client.scan_iter("clicks:*") for _, f in client.xrange(key))
    assert set(logged) >= acknowledged
    assert set(logged.values()) == {1}, "a click that was sent again counts once"
    assert len(logged) <= len(acknowledged) + 4, "each visitor may have one click under way"


def followed(service: Service, version: str) -> int:
    """How many times a worker has taken notice that a version is the champion."""
    return sum(entry["champion"] == version for entry in service.logged("deployment followed"))
