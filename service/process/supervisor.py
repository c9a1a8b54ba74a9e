"""The parent process: it owns the port, the private Redis and the workers, and takes them down in order."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import structlog
import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from service.process import logs
from service.process.embedded_redis import private_redis
from service.process.parent import stop_with
from service.process.protocol import Connection, Limits
from service.process.settings import Settings, load_settings, variable

APP = "service.http.app:create_app"
BACKLOG = 2048
HEALTHCHECK_SECONDS = 30  # a worker that imports and loads a bundle on a busy machine is slow, not hung

log = structlog.get_logger()


class ListenError(RuntimeError):
    """The address cannot be listened on; the message names it."""


class WorkerConfig(uvicorn.Config):
    """uvicorn's configuration, and what each worker does with it first."""

    def configure_logging(self) -> None:
        """Called by uvicorn in the parent, and at the very start of each worker."""
        logs.configure(load_settings())
        super().configure_logging()
        parent = multiprocessing.parent_process()
        if parent is not None:
            assert parent.pid is not None
            stop_with(parent.pid)

    def load(self) -> None:
        """An app that cannot be made would fail again in every new worker: end the service, do not loop."""
        try:
            super().load()
        except Exception:
            log.exception("the app cannot be created")
            sys.exit(STARTUP_FAILURE)


class Supervisor(Multiprocess):
    """uvicorn's supervisor of workers, which also takes the dead out of the metrics."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config, [listener])
        self._pids: set[int | None] = set()

    @property
    def failed(self) -> bool:
        """Whether it ended because a worker could not be started."""
        return any(process.exitcode == STARTUP_FAILURE for process in self.processes)

    def keep_subprocess_alive(self) -> None:
        """Called by uvicorn twice a second."""
        for process in self.processes:
            # The worker's end of its pipe; while we hold it too, a worker that dies during a health check
            # is waited for as if it hung.
            process.child_conn.close()
        known = self._pids | {process.pid for process in self.processes}
        super().keep_subprocess_alive()
        self._pids = {process.pid for process in self.processes}
        for pid in known - self._pids:
            # Its gauges no longer count; its counters do.
            mark_process_dead(pid)  # type: ignore[no-untyped-call]


class Reserved(socket.socket):
    """A port that is kept, but not listened on; in each worker it becomes a socket of the worker's own.

    The kernel spreads connections over such sockets. On one that all workers share, the worker that has just
    been busy is the first to accept: with few connections one worker gets nearly all of them. A worker
    listens when it is ready, and a dead one is sent nothing. Linux only.
    """

    def __init__(self, family: int, address: Any) -> None:
        super().__init__(family)
        _bind_with_others(self, address)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # so that no other service can listen

    def __reduce__(self) -> tuple[Any, ...]:  # how it gets into a worker
        return _socket_of_worker, (self.family, self.getsockname())


def _socket_of_worker(family: int, address: Any) -> socket.socket:
    own = socket.socket(family)
    _bind_with_others(own, address)
    return own


def _bind_with_others(own: socket.socket, address: Any) -> None:
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    own.bind(address)


def serve(settings: Settings, app: str = APP) -> int:
    """Run the service until SIGTERM or SIGINT; returns the exit status.

    Requests in flight finish, then the workers leave, then Redis. Raises `ListenError`, `EmbeddedRedisError`.
    """
    for number in (signal.SIGTERM, signal.SIGINT):  # until uvicorn takes over: unwind, do not just drop dead
        signal.signal(number, lambda *_: sys.exit(0))
    with ExitStack() as stack:
        listener = stack.enter_context(listen(settings.host, settings.port, settings.workers))
        host, port, *_ = listener.getsockname()
        # The workers find all of this in their environment, before they import anything.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = stack.enter_context(metrics_directory(settings.metrics_dir))
        if settings.redis_url is None:
            redis = stack.enter_context(private_redis(settings))
            redis.watch()
            os.environ[variable("redis_url")] = redis.url
        config = WorkerConfig(
            app,
            factory=True,
            workers=settings.workers,
            loop="uvloop",
            http=cast("type[asyncio.Protocol]", partial(Connection, limits=Limits.of(settings))),
            ws="none",
            lifespan="on",
            backlog=BACKLOG,
            log_config=None,
            access_log=False,
            server_header=False,
            headers=[("Cache-Control", "no-store")],  # an answer is of its moment, and of one visitor
            proxy_headers=settings.trusted_proxies is not None,
            forwarded_allow_ips=list(settings.trusted_proxies or ()),
            root_path=settings.root_path or "",
            timeout_keep_alive=cast(int, settings.keep_alive_seconds),  # the event loop takes fractions
            timeout_graceful_shutdown=settings.shutdown_timeout_seconds,
            timeout_worker_healthcheck=HEALTHCHECK_SECONDS,
        )
        supervisor = Supervisor(config, listener)
        log.info("listening", host=host, port=port, workers=settings.workers)
        supervisor.run()
        return STARTUP_FAILURE if supervisor.failed else 0


def listen(host: str, port: int, workers: int = 1) -> socket.socket:
    """The TCP socket to give to the workers: one that listens, or `Reserved`. Raises `ListenError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)  # at once: a port can be bound twice as long as nobody listens
        if workers > 1 and sys.platform == "linux":
            address = listener.getsockname()
            listener.close()
            listener = Reserved(family, address)
    except OSError as error:
        listener.close()
        raise ListenError(
            f"cannot listen on {host} port {port}: {error.strerror}: choose another by --host or --port"
        ) from error
    return listener


@contextmanager
def metrics_directory(configured: Path | None) -> Iterator[str]:
    """Where the workers share their metrics; what an earlier run left there is counted no more."""
    if configured is None:
        with tempfile.TemporaryDirectory(prefix="nextclick-metrics-") as directory:
            yield directory
    else:
        configured.mkdir(parents=True, exist_ok=True)
        for file in configured.glob("*.db"):
            file.unlink()
        yield str(configured)
