"""The yardstick: TorchServe with a handler that does nothing, in a virtual environment of its own.

python3.11 -m venv torchserve-venv
torchserve-venv/bin/pip install torchserve==0.12.0 torch-model-archiver==0.12.0 torch pyyaml
apt-get install openjdk-17-jre-headless
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.load.processes import Running, free_port, started
from benchmarks.load.traffic import Request

ARCHIVE_SECONDS = 60.0
PATH = "/predictions/noop"
HANDLER = """
def handle(data, context):
    return None if data is None else ["ok"] * len(data)
"""
# Addresses, and what else would run beside the requests once a minute; all the rest is as it comes.
CONFIGURATION = """
inference_address=http://127.0.0.1:{inference}
management_address=http://127.0.0.1:{management}
metrics_address=http://127.0.0.1:{metrics}
default_workers_per_model={workers}
disable_system_metrics=true
"""


def noop() -> Request:
    """One call of the handler."""
    head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n"
    return Request(head.encode() + b"{}")


@contextmanager
def torchserve(environment: Path, workers: int) -> Iterator[Running]:
    """TorchServe from a virtual environment. Raises `RuntimeError` saying what is missing there."""
    programs = (environment / "bin").absolute()
    for program in ("torchserve", "torch-model-archiver"):
        if not (programs / program).is_file():
            missing = programs / program
            raise RuntimeError(f"{missing}: missing: install torchserve and torch-model-archiver there")
    if shutil.which("java") is None:
        raise RuntimeError("java: not on PATH: install a JRE 17, as openjdk-17-jre-headless of Debian is")
    ports = {name: free_port() for name in ("inference", "management", "metrics")}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "handler.py").write_text(HANDLER)
        (directory / "config.properties").write_text(CONFIGURATION.format(**ports, workers=workers))
        # It looks for its own python on PATH.
        variables = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        subprocess.run(
            [
                *(programs / "torch-model-archiver", "--model-name", "noop", "--version", "1.0"),
                *("--handler", directory / "handler.py", "--export-path", directory),
            ],
            env=variables,
            check=True,
            timeout=ARCHIVE_SECONDS,
        )
        command = [
            *(str(programs / "torchserve"), "--start", "--foreground", "--no-config-snapshots"),
            *("--disable-token-auth", "--model-store", name, "--models", "noop=noop.mar"),
            *("--ts-config", str(directory / "config.properties")),
        ]
        url = f"http://127.0.0.1:{ports['inference']}{PATH}"
        with started(command, variables, url, directory / "torchserve.log") as pid:
            yield Running(ports["inference"], (pid,), directory)
