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
from pathlib import Path
from typing import cast

import structlog
import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from service.process import logs
from service.process.embedded_redis import private_redis
from service.process.listener import BACKLOG, listen
from service.process.metrics_server import metrics_server
from service.process.origins import Origins
from service.process.parent import stop_with
from service.process.protocol import Connection, Limits
from service.process.settings import CHECKED_DIRECTORY, Settings, load_settings, variable
from service.process.worker import Worker

APP = "service.http.app:create_app"
ROUND_SECONDS = 0.5  # of uvicorn's loop
START_SECONDS = 30.0  # of silence: a worker that imports on a busy machine is slow, and does not hang
HANG_SECONDS = 10.0  # of silence, of a worker that serves
LEAVE_SECONDS = 5.0  # for a worker whose requests are done or out of time; one that hangs gets no more

log = structlog.get_logger()


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
    """uvicorn's supervisor of workers, which waits for none of them.

    Of uvicorn's, there remain the loop, which looks at everything twice a second, and what signals mean.
    """

    processes: list[Worker]  # type: ignore[assignment]

    def __init__(
        self,
        config: uvicorn.Config,
        listener: socket.socket,
        hang_seconds: float = HANG_SECONDS,
    ) -> None:
        super().__init__(config, [listener])
        self._hang_seconds = hang_seconds
        self._worker_failed = False
        self._to_replace: list[Worker] = []  # by SIGHUP, one after the other
        self._newcomer: Worker | None = None  # takes the place of the first of them once it serves
        self._leaving: dict[Worker, float] = {}  # until when each may finish its requests

    @property
    def failed(self) -> bool:
        """Whether it ended because a worker could not be started."""
        return self._worker_failed

    def init_processes(self) -> None:
        self.processes = [self._started() for _ in range(self.processes_num)]

    def keep_subprocess_alive(self) -> None:
        """Called by uvicorn in every round."""
        for place, worker in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            if self._is_well(worker):
                continue
            if worker.exitcode == STARTUP_FAILURE:
                log.error("worker cannot start: the service ends", pid=worker.pid)
                self._worker_failed = True
                self.should_exit.set()
            else:
                self._end(worker)
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
        """At the end, everybody leaves."""
        for worker in (*self.processes, self._newcomer):
            if worker is not None:
                self._let_go(worker)

    def join_all(self) -> None:
        """Each worker gets the time that its requests may take, unless it hangs."""
        while self._see_off():
            over = time.monotonic() + ROUND_SECONDS
            for worker in self._leaving:
                worker.process.join(max(0, over - time.monotonic()))

    def _is_well(self, worker: Worker) -> bool:
        silent_seconds = worker.silent_rounds() * ROUND_SECONDS
        return worker.alive and silent_seconds < (self._hang_seconds if worker.serves else START_SECONDS)

    def _go_on_replacing(self) -> None:
        # One that has died, hung or left meanwhile is replaced already.
        self._to_replace = [worker for worker in self._to_replace if worker in self.processes]
        new = self._newcomer
        if new is None:
            if self._to_replace:
                self._newcomer = self._started()
        elif not self._to_replace:
            self._newcomer = None
            self._let_go(new)
        elif not self._is_well(new):
            log.error("new worker does not start: the old ones stay", pid=new.pid)
            self._newcomer, self._to_replace = None, []
            self._end(new)
        elif new.serves:
            old = self._to_replace.pop(0)
            self.processes[self.processes.index(old)] = new
            self._newcomer = None
            self._let_go(old)

    def _let_go(self, worker: Worker) -> None:
        log.info("worker asked to leave", pid=worker.pid)
        worker.terminate()
        seconds = self.config.timeout_graceful_shutdown or 0
        self._leaving[worker] = time.monotonic() + seconds + LEAVE_SECONDS

    def _end(self, worker: Worker) -> None:
        if worker.alive:
            log.error("worker hangs: killed", pid=worker.pid)
            worker.kill()
        else:
            log.error("worker died", pid=worker.pid, exitcode=worker.exitcode)
        self._leaving[worker] = math.inf

    def _see_off(self) -> bool:
        """Look after those that leave; returns whether there are any left."""
        for worker, deadline in list(self._leaving.items()):
            if not worker.alive:
                del self._leaving[worker]
                worker.parent_conn.close()
                # Its gauges no longer count; its counters do.
                mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
            elif not worker.killed:
                hangs = worker.silent_rounds() * ROUND_SECONDS >= LEAVE_SECONDS
                if hangs or time.monotonic() > deadline:
                    log.error("worker does not leave: killed", pid=worker.pid)
                    worker.kill()
        return bool(self._leaving)

    def _started(self) -> Worker:
        worker = Worker(self.config, self.sockets)
        worker.start()
        return worker


def serve(settings: Settings, app: str = APP, hang_seconds: float = HANG_SECONDS) -> int:
    """Run the service until SIGTERM or SIGINT; returns the exit status.

    Requests in flight finish, then the workers leave, then Redis. A worker that does not answer for
    `hang_seconds` is replaced. Raises `ListenError`, `EmbeddedRedisError`.
    """
    for number in (signal.SIGTERM, signal.SIGINT):  # until uvicorn takes over: unwind, do not just drop dead
        signal.signal(number, lambda *_: sys.exit(0))
    with ExitStack() as stack:
        listener = stack.enter_context(listen(settings.host, settings.port, settings.workers))
        host, port, *_ = listener.getsockname()
        # The workers find all of this in their environment, before they import anything.
        metrics = stack.enter_context(metrics_directory(settings.metrics_dir))
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics
        checked = tempfile.TemporaryDirectory(prefix="nextclick-checked-")  # nobody else may write there
        os.environ[CHECKED_DIRECTORY] = stack.enter_context(checked)
        if settings.metrics_port:
            or_another = "metrics_port" not in settings.model_fields_set
            stack.enter_context(
                metrics_server(settings.metrics_host, settings.metrics_port, metrics, or_another=or_another)
            )
        if settings.redis_url is None:
            redis = stack.enter_context(private_redis(settings))
            redis.watch()
            os.environ[variable("redis_url")] = redis.url
        origins = Origins.of(settings)
        connection = partial(Connection, limits=Limits.of(settings), origins=origins)
        config = WorkerConfig(
            app,
            factory=True,
            workers=settings.workers,
            loop="uvloop",
            http=cast("type[asyncio.Protocol]", connection),
            ws="none",
            lifespan="on",
            backlog=BACKLOG,
            log_config=None,
            access_log=False,
            server_header=False,
            headers=[("Vary", "Origin")] if origins.varies else [],
            proxy_headers=settings.trusted_proxies is not None,
            forwarded_allow_ips=list(settings.trusted_proxies or ()),
            root_path=settings.root_path or "",
            timeout_keep_alive=cast(int, settings.keep_alive_seconds),  # the event loop takes fractions
            timeout_graceful_shutdown=settings.shutdown_timeout_seconds,
        )
        supervisor = Supervisor(config, listener, hang_seconds)
        log.info("listening", host=host, port=port, workers=settings.workers)
        supervisor.run()
        return STARTUP_FAILURE if supervisor.failed else 0


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
