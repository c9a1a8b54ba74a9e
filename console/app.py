"""The console put together, and started: one process, one port, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from nicegui import ui
from starlette.responses import Response

from console.door.gate import LOGIN_KEY, Gate, Login, Logins
from console.door.login import login_routes
from console.pages import PAGES, Page
from console.service import ServiceError, connection
from console.shell import Console, notice, said, shell
from console.watching.watch import Watch

PAGE_SECONDS = 30.0  # to build a page; the service's own answers take at most `TIMEOUT_SECONDS` each
RECONNECT_SECONDS = 30.0  # a browser that is away or busy for less keeps its page, and what was typed there
LEAVE_SECONDS = 3  # for requests under way at the end


@dataclass(frozen=True)
class Options:
    """What `nextclick console` was told."""

    host: str
    port: int
    service: str
    metrics: str
    artifacts: Path | None
    every_seconds: float


def create(options: Options) -> FastAPI:
    """The application; one in a process, since NiceGUI keeps its pages for all of it."""
    logins = Logins()
    http = connection()
    watch = Watch(http, options.service, options.metrics, options.every_seconds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(watch.follow())
        try:
            yield
        finally:
            task.cancel()
            logins.end_all()
            await http.aclose()

    logging.getLogger("nicegui").addFilter(_is_no_answer_of_the_service)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.include_router(login_routes(http, options.service, logins))
    for page in PAGES:
        _add(page, watch, options.artifacts)
        app.head(page.path)(_nothing)
    # No storage secret: NiceGUI then has no session of its own, and keeps nothing on disk.
    ui.run_with(
        app,
        title="Nextclick",
        favicon="◎",
        dark=None,
        language="en-US",
        tailwind=False,
        reconnect_timeout=RECONNECT_SECONDS,
    )
    app.add_middleware(Gate, logins=logins)
    return app


def _add(page: Page, watch: Watch, artifacts: Path | None) -> None:
    @ui.page(page.path, response_timeout=PAGE_SECONDS)
    async def build(request: Request) -> None:
        login: Login = request.scope[LOGIN_KEY]
        client = ui.context.client
        login.at_end.append(client.delete)
        client.on_delete(lambda: _forget(login, client.delete))
        console = Console(login.service, watch, artifacts, request.query_params)
        shell(PAGES, page, console)
        try:
            await page.build(console)
        except ServiceError as error:
            notice(said(error), retry=True)


async def _nothing() -> Response:
    """To who asks by HEAD: the gate has let it in, and no page is built for that."""
    return Response()


def _is_no_answer_of_the_service(record: logging.LogRecord) -> bool:
    """Those are told to whoever asked; they are no defect, and no traceback is of use."""
    error = record.exc_info[1] if record.exc_info else record.msg
    return not isinstance(error, ServiceError)


def _forget(login: Login, call: object) -> None:
    login.at_end[:] = [each for each in login.at_end if each != call]


def run(options: Options) -> int:
    """Serve the console; returns the exit status."""
    try:
        listener = _listen(options.host, options.port)
    except OSError as error:
        print(
            f"cannot listen on {options.host} port {options.port}: {error.strerror}: "
            "choose another by --host or --port",
            file=sys.stderr,
        )
        return 1
    port = listener.getsockname()[1]
    host = f"[{options.host}]" if ":" in options.host else options.host
    print(f"Nextclick console: http://{host}:{port} (service: {options.service})", flush=True)
    if not is_loopback(options.host):
        print(
            f"warning: {options.host} is more than this machine: whoever reaches it can try keys, and "
            "without TLS before it the admin key crosses the network in clear",
            file=sys.stderr,
            flush=True,
        )
    config = uvicorn.Config(
        create(options),
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="wsproto",
        timeout_graceful_shutdown=LEAVE_SECONDS,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # uvicorn raises again what ended it: that was no accident
    uvicorn.Server(config).run([listener])
    return 0


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()  # at once: whoever comes by the address that is printed now waits
    except OSError:
        listener.close()
        raise
    return listener
