"""HTTP alone: the service's own server and uvicorn's answer the same, and both are measured."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from benchmarks.load.processes import Running
from benchmarks.servers import BODY, OURS, UVICORN, main, ours, uvicorn


def test_both_servers_answer_and_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--workers", "1", "--closed", "2", "--seconds", "0.3"]) == 0
    printed = capsys.readouterr().out
    assert OURS in printed
    assert UVICORN in printed


@pytest.mark.parametrize("server", [ours, uvicorn])
def test_several_workers_answer_what_is_measured(
    server: Callable[[int], AbstractContextManager[Running]],
) -> None:
    with (
        server(2) as running,
        urllib.request.urlopen(f"http://127.0.0.1:{running.port}/", timeout=60) as answer,
    ):
        assert answer.read() == BODY
