"""The parent process: it owns the port, the private Redis and the workers, and takes them down in order."""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, cast

import structlog
import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from service.process import logs
from service.process.embedded_redis import EmbeddedRedis, EmbeddedRedisError
from service.process.parent import stop_with
from service.process.protocol import Connection, Limits
from service.process.settings import Settings, load_settings, variable
from service.process.worker import Worker

APP = "service.http.app:create_app"
BACKLOG = 2048
ROUND_SECONDS = 0.5  # of uvicorn's loop
LEAVE_SECONDS = 5.0  # for a worker whose requests are done or out of time; one that hangs gets no more
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
    """uvicorn's supervisor of workers, which waits for none of them, and also restarts the private Redis.

    Of uvicorn's, there remain the loop, which looks at everything twice a second, and what signals mean.
    """

    processes: list[Worker]  # type: ignore[assignment]

    def __init__(self, config: uvicorn.Config, listener: socket.socket, redis: EmbeddedRedis | None) -> None:
        super().__init__(config, [listener])
        self._redis = redis
        self._redis_lost = False
        self._to_replace: list[Worker] = []  # by SIGHUP, one after the other
        self._newcomer: Worker | None = None  # takes the place of the first of them once it serves
        self._leaving: dict[Worker, float] = {}  # until when each may finish its requests
        self._rounds_of_patience = math.ceil(config.timeout_worker_healthcheck / ROUND_SECONDS)

    @property
    def failed(self) -> bool:
        """Whether it ended because Redis or a worker could not be started."""
        return self._redis_lost or any(worker.exitcode == STARTUP_FAILURE for worker in self.processes)

    def init_processes(self) -> None:
        self.processes = [self._started() for _ in range(self.processes_num)]

    def keep_subprocess_alive(self) -> None:
        """Called by uvicorn in every round."""
        self._keep_redis_alive()
        for place, worker in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            if worker.alive and worker.silent_rounds() < self._rounds_of_patience:
                continue
            if worker.alive:
                log.error("worker hangs: killed", pid=worker.pid)
            self._end(worker)
            if worker.exitcode == STARTUP_FAILURE:
                log.error("worker cannot start: the service ends", pid=worker.pid)
                self.should_exit.set()
                return
            log.error("worker died: replaced", pid=worker.pid, exitcode=worker.exitcode)
            self.processes[place] = self._started()
        self._go_on_replacing()
        self._see_off()

    def restart_all(self) -> None:
        """What SIGHUP asks for."""
        self._to_replace = list(self.processes)

    def handle_ttin(self) -> None:
        """What SIGTTIN asks for: one worker more."""
        self.processes_num += 1
        self.processes.append(self._started())

    def handle_ttou(self) -> None:
        """What SIGTTOU asks for: one worker less, unless it is the last."""
        if self.processes_num > 1:
            self.processes_num -= 1
            self._let_go(self.processes.pop())

    def terminate_all(self) -> None:
        """At the end: everybody leaves."""
        if self._newcomer is not None:
            self._end(self._newcomer)
        for worker in self.processes:
            self._let_go(worker)

    def join_all(self) -> None:
        """Until everybody has left: each has the time its requests get, and none that it only hangs."""
        while self._see_off():
            wait([worker.process.sentinel for worker in self._leaving], ROUND_SECONDS)

    def _keep_redis_alive(self) -> None:
        if self._redis is None or self.should_exit.is_set():
            return
        try:
            self._redis.restart_if_dead()
        except EmbeddedRedisError as error:
            log.error("embedded redis cannot be restarted", reason=str(error))
            self._redis_lost = True
            self.should_exit.set()

    def _go_on_replacing(self) -> None:
        # A worker that has died or left meanwhile was replaced already.
        self._to_replace = [worker for worker in self._to_replace if worker in self.processes]
        if not self._to_replace:
            if self._newcomer is not None:
                self._end(self._newcomer)
                self._newcomer = None
        elif self._newcomer is None:
            self._newcomer = self._started()
        elif self._newcomer.silent_rounds() >= self._rounds_of_patience or not self._newcomer.alive:
            log.error("new worker does not start: the old ones stay", pid=self._newcomer.pid)
            self._end(self._newcomer)
            self._newcomer, self._to_replace = None, []
        elif self._newcomer.ready:
            old = self._to_replace.pop(0)
            self.processes[self.processes.index(old)] = self._newcomer
            self._newcomer = None
            self._let_go(old)

    def _let_go(self, worker: Worker) -> None:
        worker.terminate()
        seconds = self.config.timeout_graceful_shutdown or 0
        self._leaving[worker] = time.monotonic() + seconds + LEAVE_SECONDS

    def _see_off(self) -> bool:
        """Look after those that leave; returns whether any are left."""
        for worker, deadline in list(self._leaving.items()):
            hangs = worker.silent_rounds() * ROUND_SECONDS >= LEAVE_SECONDS
            if worker.alive and not hangs and time.monotonic() < deadline:
                continue
            if worker.alive:
                log.error("worker does not leave: killed", pid=worker.pid)
            self._end(worker)
            del self._leaving[worker]
        return bool(self._leaving)

    def _started(self) -> Worker:
        worker = Worker(self.config, self.sockets)
        worker.start()
        return worker

    def _end(self, worker: Worker) -> None:
        worker.kill()  # which is no signal to one that is dead, and closes its pipe
        worker.join()
        # Its gauges no longer count; its counters do.
        mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


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
        redis = None
        if settings.redis_url is None:
            strict = settings.durability == "strict"
            redis = stack.enter_context(EmbeddedRedis(settings.artifacts_dir / "redis", strict=strict))
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
        supervisor = Supervisor(config, listener, redis)
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
