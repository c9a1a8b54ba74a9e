"""What a log may not tell: the values of variables, in any format."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.service.processes import clean_environment
from tests.waiting import DEADLINE_SECONDS

FAIL = """
import logging, structlog
from service.process import logs
from service.process.settings import load_settings

logs.configure(load_settings())

def fail(password):
    raise RuntimeError("it failed")

def call(log):
    secret = "".join(("hush", "-", "hush"))
    try:
        fail(secret)
    except RuntimeError:
        log.exception("told")

call(structlog.get_logger())
call(logging.getLogger("uvicorn.error"))
"""


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_tracebacks_tell_no_values(log_format: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FAIL],
        env=clean_environment() | {"NEXTCLICK_LOG_FORMAT": log_format},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=True,
    )
    assert ended.stdout.count("RuntimeError: it failed") == 2
    assert "hush-hush" not in ended.stdout + ended.stderr
