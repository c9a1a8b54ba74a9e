"""The private Redis as the service keeps it: in a thread of its own, which nobody else can hold up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import structlog

from service.process.embedded_redis import EmbeddedRedis

LOOK_SECONDS = 0.5
STOP_SECONDS = 8.0  # with what the workers may take before: less than the 30 s that Kubernetes gives us

log = structlog.get_logger()


@contextmanager
def kept_alive(redis: EmbeddedRedis) -> Iterator[threading.Event]:
    """Run `redis` meanwhile, started again whenever it dies; the event is set once it cannot be.

    One thread starts, watches and stops it, and lives as long: the kernel stops a Redis whose parent thread
    is gone. Raises what `redis` raises when it cannot be started at first.
    """
    started: Future[None] = Future()
    over, lost = threading.Event(), threading.Event()

    def keep() -> None:
        try:
            with redis:
                started.set_result(None)
                while not over.wait(LOOK_SECONDS):
                    redis.restart_if_dead()
        except Exception as error:
            if not started.done():
                started.set_exception(error)
            else:
                log.error("embedded redis cannot be kept", reason=str(error))
                lost.set()

    thread = threading.Thread(target=keep, name="embedded redis", daemon=True)
    thread.start()
    try:
        started.result()
        yield lost
    finally:
        over.set()
        thread.join(STOP_SECONDS)
        if thread.is_alive():
            log.error("embedded redis is still busy: it is left to end by itself")
