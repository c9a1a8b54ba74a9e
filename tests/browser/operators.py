"""A running console before a running service, and an operator who has logged in to it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.service.processes import Service, clean_environment
from tests.waiting import DEADLINE_SECONDS, until

expect.set_options(timeout=DEADLINE_SECONDS * 1000)
ADMIN_KEY = "the-admins-own-key"
ADDRESS = re.compile(r"Nextclick console: (?P<url>http://(?P<host>[\d.]+):(?P<port>\d+))")


@contextmanager
def running_console(directory: Path, service: Service) -> Iterator[str]:
    """Start one before a service; its address."""
    log = directory / "console.log"
    command = [sys.executable, "-m", "console", "--port", "0", "--service", service.url]
    command += ["--metrics", f"http://{service.metrics_host}:9464/metrics"]
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=directory, env=clean_environment(), stdout=stream, stderr=stream
        )

    def address() -> str | None:
        assert process.poll() is None, log.read_text()
        found = ADDRESS.search(log.read_text())
        if found is None:
            return None
        try:  # it says its address a moment before it listens
            socket.create_connection((found["host"], int(found["port"])), timeout=DEADLINE_SECONDS).close()
        except ConnectionRefusedError:
            return None
        return found["url"]

    try:
        yield str(until(address))
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE_SECONDS)
        finally:
            process.kill()
            process.wait()
            print(log.read_text())


def log_in(page: Page, address: str) -> None:
    """As whoever has the admin's key does."""
    page.goto(f"{address}/login")
    page.get_by_label("Admin key").fill(ADMIN_KEY)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
