"""A whole day of a shop, played fast: visitors all the time, and meanwhile the next model, and another one.

No request may fail and no acknowledged click may be lost, whatever goes on beside them.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from service.live.deployment import read_deployment
from tests.service.processes import Service, running
from tests.waiting import DEADLINE_SECONDS, until
from training.data.clicks import read_commit
from training.data.demo_store import write_demo_store

RUN_SECONDS = 600
BATCH = 10
RETRAIN = """
[prepare]
min_sessions = 100
[train]
model = "gru"
set = ["epochs=1", "dim=16"]
threads = 1
[gate]  # whether one epoch makes a better model, or a quick one, is not the question here
margin_recall = 100
margin_mrr = 100
max_drift = 100
max_answer_ms = 100_000
"""


@dataclass
class Visitors:
    """Those who click and those who are recommended something, at a constant rate until they are stopped."""

    url: str
    clicks: Iterator[dict[str, Any]]
    acknowledged: list[tuple[str, str]] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    failures: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def click(self, client: httpx.Client) -> None:
        """Send the next clicks."""
        batch = list(itertools.islice(self.clicks, BATCH))
        answer = client.post("/clicks", json=batch)
        self.requests += 1
        outcomes = answer.json()["events"] if answer.status_code == 200 else []
        for click, outcome in itertools.zip_longest(batch, outcomes):
            if outcome is None or outcome["status"] != 200:
                self.failures.append(f"click: {answer.status_code} {answer.text}")
            else:
                self.acknowledged.append((click["session_id"], click["event_id"]))
        self.sessions.append(batch[-1]["session_id"])

    def ask(self, client: httpx.Client) -> None:
        """Ask for one session's recommendations."""
        session = random.choice(self.sessions[-50:])
        answer = client.get("/recommend", params={"session_id": session})
        self.requests += 1
        if answer.status_code != 200 or len(answer.json()["items"]) != 20:
            self.failures.append(f"recommend: {answer.status_code} {answer.text}")
        else:
            self.versions[answer.json()["version"]] += 1

    def keep(self, what: Callable[[httpx.Client], None], per_second: float) -> None:
        """Do it again and again; whatever goes wrong is a failure."""
        with httpx.Client(base_url=self.url, timeout=DEADLINE_SECONDS) as client:
            while not self.stop.wait(1 / per_second):
                try:
                    what(client)
                except httpx.HTTPError as error:
                    self.failures.append(f"{what.__name__}: {error!r}")

    @contextmanager
    def visiting(self) -> Iterator[None]:
        """Their threads, for the while."""
        threads = [
            threading.Thread(target=self.keep, args=arguments)
            for arguments in ((self.click, 15), (self.ask, 15), (self.ask, 15))
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()


def traffic(log: Path) -> Iterator[dict[str, Any]]:
    """The log's clicks as if its days had just passed, and then again as other sessions, without end."""
    with log.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    shift = time.time() - 60 - int(rows[-1]["timestamp"]) / 1000
    for round_ in itertools.count():
        for number, row in enumerate(rows):
            yield {
                "session_id": f"{row['session_id']}-{round_}",
                "item_id": row["item_id"],
                "timestamp": int(row["timestamp"]) / 1000 + shift,
                "event_id": f"{round_}.{number}",
            }


def training(artifacts: Path, *arguments: str) -> str:
    """Run a command of the trainer; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "training", *arguments],
        env={**os.environ, "NEXTCLICK_ARTIFACTS_DIR": str(artifacts)},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def service(artifacts: Path, tmp_path: Path) -> Iterator[Service]:
    """The service as it is by default: a Redis of its own, here with two workers."""
    settings = {
        "NEXTCLICK_ARTIFACTS_DIR": str(artifacts),
        # This machine may be busy with other tests: a shopper would get a 503 that says nothing of the loop.
        "NEXTCLICK_REDIS_TIMEOUT_SECONDS": str(DEADLINE_SECONDS),
    }
    with running(tmp_path, workers=2, **settings) as service:
        service.each("/health/live")
        yield service
        assert service.end() == 0


def test_a_whole_day(service: Service, artifacts: Path, tmp_path: Path) -> None:
    write_demo_store(tmp_path / "clicks.csv", sessions=1500, days=4, seed=3)
    config = tmp_path / "retrain.toml"
    config.write_text(RETRAIN)
    visitors = Visitors(service.url, traffic(tmp_path / "clicks.csv"))
    with httpx.Client(base_url=service.url, timeout=DEADLINE_SECONDS) as client:
        while len(visitors.acknowledged) < 6000:  # the days so far; before the first model, nobody asks
            visitors.click(client)
        until(lambda: all(len(answer.json()["items"]) == 20 for answer in service.each("/trending")))
        for item in ("first", "second"):
            client.post("/sessions/me/click", json={"item_id": item, "event_id": item}).raise_for_status()
            visitors.acknowledged.append(("me", item))

        def live_everywhere(version: str) -> bool:
            answers = service.each("/recommend?session_id=me")
            return all(answer.json()["version"] == version for answer in answers)

        def met(version: str) -> bool:
            """Visitors were answered by it, many times."""
            return visitors.versions[version] > 100

        versions, answers = [], []
        with visitors.visiting():
            for _ in range(2):
                run = json.loads(training(artifacts, "run", "--config", str(config), "--json"))
                assert run["status"] == "published", run
                version = read_deployment(artifacts).champion
                assert version is not None
                versions.append(version)
                until(lambda: live_everywhere(versions[-1]))
                until(lambda: met(versions[-1]))
                known = client.get("/recommend", params={"session_id": "me", "k": 2}).json()["items"]
                session = {"items": [item["item_id"] for item in known], "k": 20, "model": version}
                answers.append((session, client.post("/recommend", json=session).json()["items"]))
            training(artifacts, "rollback")
            until(lambda: live_everywhere(versions[0]))
            session, before = answers[0]
            after = client.post("/recommend", json=session).json()["items"]
            assert [item["item_id"] for item in after] == [item["item_id"] for item in before]
            # Sums of another batch may be rounded otherwise.
            assert [item["score"] for item in after] == pytest.approx(
                [item["score"] for item in before], abs=2e-6
            )
        training(artifacts, "collect")

    assert visitors.failures == []
    assert versions[0] != versions[1]
    commit = read_commit(artifacts / "clicks")
    collected = Counter(
        (session, event)
        for file in commit.files
        for session, event in zip(
            *pq.read_table(artifacts / "clicks" / file.path, columns=["session_id", "event_id"])
            .to_pydict()
            .values(),
            strict=True,
        )
    )
    assert collected == Counter(visitors.acknowledged), "each acknowledged click, once"
    print(f"{visitors.requests} requests, {len(visitors.acknowledged)} clicks, answers: {visitors.versions}")
