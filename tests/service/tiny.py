"""The service with a tiny app, for what its parent process does: workers, private Redis, signals."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from tests.service.processes import Service, running
from tests.waiting import until

# An app that tells what a worker sees; `service.http.app` has its own tests.
TINY_APP = """
import asyncio, json, os
from pathlib import Path
from redis import Redis

from service.process.settings import load_settings

def create_app():
    fails = os.environ.get("TINY_APP_FAILS")
    if fails == "create" or Path("broken").exists():
        raise RuntimeError("no app today")

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                if fails == "lifespan":
                    raise RuntimeError("no app today")
                if fails == "leave" and message["type"] == "lifespan.shutdown":
                    await asyncio.Event().wait()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        if scope["path"] == "/slow":
            Path("slow-began").write_text(str(os.getpid()))
            while not Path("slow-may-end").exists():
                await asyncio.sleep(0.02)
        seen = {name: os.environ.get(name) for name in ("NEXTCLICK_REDIS_URL", "PROMETHEUS_MULTIPROC_DIR")}
        with Redis.from_url(load_settings().redis_url) as client:
            redis = "PONG" if client.ping() else "nothing"
        loop = type(asyncio.get_running_loop()).__module__
        body = json.dumps({"loop": loop, "redis": redis, **seen})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body.encode()})

    return app
"""
RUN_TINY_APP = """
import os, sys
from service.process import logs
from service.process.settings import load_settings
from service.process.supervisor import HANG_SECONDS, serve

if __name__ == "__main__":
    settings = load_settings()
    logs.configure(settings)
    sys.exit(serve(settings, "tiny:create_app", float(os.environ.get("TINY_HANG_SECONDS", HANG_SECONDS))))
"""


def running_tiny(directory: Path, workers: int = 1, **environment: str) -> AbstractContextManager[Service]:
    """The service with the tiny app, in `directory`."""
    (directory / "tiny.py").write_text(TINY_APP)
    (directory / "run.py").write_text(RUN_TINY_APP)
    return running(directory, "run.py", workers=workers, **environment)


def seen_by(service: Service) -> dict[str, str]:
    """What one of its workers tells, once they listen."""
    told: dict[str, str] = until(lambda: service.ask("GET", "/")).json()
    return told


def pids(service: Service) -> set[int]:
    """The process ids of the workers, once all of them answer."""
    return {answer.pid for answer in service.each("/") if answer.pid is not None}


def redis_pid(service: Service) -> int:
    return int(service.logged("embedded redis started")[-1]["pid"])
