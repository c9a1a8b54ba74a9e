"""What README.md tells a stranger to type, typed: every `sh` block, against the real programs."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.live.deployment import bundle_path, publish, read_deployment
from service.ranking.bundle import Bundle
from tests.service.bundles import Shop
from tests.service.processes import running
from tests.waiting import until
from training.report.leaderboard import read_leaderboard
from training.report.write import known_models

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SHELL = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running service on a small bundle."""
    artifacts = tmp_path_factory.mktemp("readme")
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    with running(
        tmp_path_factory.mktemp("service"),
        *("-m", "nextclick", "serve"),
        NEXTCLICK_ARTIFACTS_DIR=str(artifacts),
        NEXTCLICK_REDIS_TIMEOUT_SECONDS="60",
    ) as service:
        until(lambda: service.ask("GET", "/health/ready").status == 200)
        yield service.url
        assert service.end() == 0


def curl(command: str, address: str) -> httpx.Response:
    """Send what a `curl` line would send."""
    words = iter(shlex.split(command.replace(ADDRESS, address))[1:])
    method, url, body, headers = None, "", None, {}
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-d":
            body = next(words)
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word != "-s":
            url = word
    return httpx.request(method or ("POST" if body else "GET"), url, content=body, headers=headers)


def test_every_call_answers_as_told(address: str) -> None:
    calls = [line for line in SHELL if line.startswith("curl ")]
    answers = [(call, curl(call, address)) for call in calls]
    assert len(answers) == 9
    for call, answer in answers:
        assert answer.status_code in (200, 204), (call, answer.text)
    recommendation = answers[2][1].json()
    told = json.loads(re.sub(r",? ?…(?=])", "", re.search(r"```json\n(.*?)```", README, re.DOTALL).group(1)))  # type: ignore[union-attr]
    assert set(recommendation) == set(told)
    assert recommendation["stage"] == "model"
    assert len(recommendation["items"]) == 20
    both = answers[3][1].json()
    assert (both["length"], len(both["recommendations"]["items"])) == (3, 5)
    stored = next(answer for call, answer in answers if call.endswith("/sessions/me")).json()
    assert [click["item_id"] for click in stored["clicks"]] == ["i7", "i3", "i9"]


def test_own_clicks_become_a_live_bundle(tmp_path: Path) -> None:
    """The log's header is README's; its commands run as they stand, but for the service, started above."""
    header = re.search(r"```csv\n(.*?)\n", README).group(1)  # type: ignore[union-attr]
    rows = [
        f"s{session},sku-{(session * 7 + step) % 40},{1_764_000_000 + session * 600 + step * 30}"
        for session, step in itertools.product(range(1500), range(4))
    ]
    (tmp_path / "clicks.csv").write_text("\n".join([header, *rows]) + "\n")
    commands = [line for line in SHELL if line.startswith("nextclick ")]
    assert [shlex.split(command)[1] for command in commands] == [
        "prepare",
        "train",
        "serve",
        "evaluate",
        "publish",
        "rollback",
    ]
    commands.remove("nextclick serve")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run(command: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", *shlex.split(command)]
        return subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    for command in commands[:2]:
        done = run(command)
        assert done.returncode == 0, done.stderr
    champion = read_deployment(tmp_path / "artifacts").champion
    assert champion is not None
    metrics = Bundle.load(bundle_path(tmp_path / "artifacts", champion)).manifest.metrics
    assert metrics["validation recall@20"] > 90, "sku n is always followed by sku n + 1"
    for command in commands[2:4]:
        done = run(command.replace("niser-…", champion))
        assert done.returncode == 0, done.stderr
    assert run(commands[4]).returncode == 2, "there is nothing before the first version"


def test_every_figure_stands_in_a_result() -> None:
    """The table of models says what `docs/results` says, of every model there is."""
    rows = re.findall(r"^\| `(\w+)`.*?\|.*?\| (.*?) \|.*?\| (.*?) \|.*?\|$", README, re.MULTILINE)
    assert {name for name, _, _ in rows} == set(known_models())
    for name, *figures in rows:
        for dataset, told in zip(("yoochoose1_64", "diginetica"), figures, strict=True):
            file = ROOT / "docs" / "results" / dataset / f"{name}.json"
            if file.exists():
                test = json.loads(file.read_text())["test"]
                assert told == f"{test['recall@20']:.2f} / {test['mrr@20']:.2f}", (name, dataset)
            else:
                assert told == "not run", (name, dataset)


def test_the_best_is_as_measured() -> None:
    """The README names the best of what has three seeds, on each data set."""
    start = README.index("The best that have three seeds")
    told = dict(re.findall(r"(Diginetica|yoochoose1_64).*?: ([\d.]+ / \d+\.\d+)", README[start:], re.DOTALL))
    assert set(told) == {"Diginetica", "yoochoose1_64"}
    for dataset, figures in told.items():
        board = read_leaderboard(ROOT / "docs" / "results" / dataset.lower())
        best = max(
            (entry for entry in board.entries if len(entry.runs) == 3), key=lambda entry: entry.mean("mrr@20")
        )
        assert f"`{best.model}`" in README[start : README.index(figures, start)]
        assert figures == f"{best.mean('recall@20'):.2f} / {best.mean('mrr@20'):.2f}"


def test_popularity_is_as_measured() -> None:
    told = re.search(r"is (\d+) clicks popular on average, (\d+)\s+under NISER\+", README)
    assert told is not None
    measured = json.loads((ROOT / "docs/results/yoochoose1_64/popularity.json").read_text())["models"]
    for number, model in zip(told.groups(), ("SR-GNN", "NISER+"), strict=True):
        assert int(number) == round(measured[model]["popularity@20"])
