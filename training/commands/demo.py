"""`make demo`: a shop's clicks, a trained model, a running service, and what to type next."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from service.live.deployment import bundle_path, read_deployment

READY_SECONDS = 60
EPOCHS = 3


def main() -> int:
    """Make what is missing, then serve until Ctrl-C. Returns the service's exit code."""
    artifacts = Path(os.environ.get("NEXTCLICK_ARTIFACTS_DIR", "artifacts"))
    demo = artifacts / "demo"
    if read_deployment(artifacts).champion is None:
        log, data = demo / "clicks.csv", demo / "data"
        training("demo-store", "--output", str(log))
        training("prepare", "--input", str(log), "--output", str(data), "--name", "demo", "--force")
        training(
            *("train", "--data", str(data), "--model", "gru4rec", "--artifacts", str(artifacts)),
            *("--set", f"epochs={EPOCHS}", "--publish"),
        )
    host, port = os.environ.get("NEXTCLICK_HOST", "127.0.0.1"), os.environ.get("NEXTCLICK_PORT", "8000")
    url = f"http://{host}:{port}"
    service = subprocess.Popen([sys.executable, "-m", "service"])
    try:
        if wait_until_ready(service, url):
            print(greeting(url, artifacts), flush=True)
        return service.wait()
    except KeyboardInterrupt:  # the service got it too, and is finishing its requests
        return service.wait()


def training(*arguments: str) -> None:
    """Run one training command, shown as a user would type it; leave with its exit code if it fails."""
    print("\n$ python -m training", *arguments, flush=True)
    code = subprocess.call([sys.executable, "-m", "training", *arguments])
    if code:
        sys.exit(code)


def wait_until_ready(service: subprocess.Popen[bytes], url: str) -> bool:
    """Whether the service became ready; False when it left instead. Raises `TimeoutError`."""
    deadline = time.monotonic() + READY_SECONDS
    while service.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health/ready", timeout=1):
                return True
        except (urllib.error.URLError, TimeoutError):
            if time.monotonic() > deadline:
                service.terminate()
                raise TimeoutError(f"{url}/health/ready did not answer in {READY_SECONDS} s") from None
            time.sleep(0.2)
    return False


def greeting(url: str, artifacts: Path) -> str:
    """Three commands to paste: two clicks on popular items, then what comes next."""
    champion = read_deployment(artifacts).champion
    assert champion is not None
    with (bundle_path(artifacts, champion) / "items.txt").open() as items:
        first, second = (line.strip() for line in itertools.islice(items, 2))
    click = f"curl -s {url}/sessions/me/click -H 'content-type: application/json' -d"
    return f"""
Nextclick serves {champion} at {url}  (all calls: {url}/docs; Ctrl-C stops it)

  {click} '{{"item_id": "{first}"}}'
  {click} '{{"item_id": "{second}"}}'
  curl -s '{url}/recommend?session_id=me'
"""


if __name__ == "__main__":
    sys.exit(main())
