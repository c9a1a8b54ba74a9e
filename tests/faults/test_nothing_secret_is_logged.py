"""No secret in any log: a service fails in every way there is, and all that it has written is searched."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from redis import Redis
from redis.exceptions import RedisError
from structlog.testing import capture_logs

from service.live.deployment import publish
from service.process.embedded_redis import find_redis_server
from tests.service.bundles import Shop
from tests.service.processes import clean_environment, peer, running
from tests.service.serving import serving
from tests.waiting import DEADLINE_SECONDS, stopped, until

FORMATS = ["console", "json"]
# Every part of what is secret has "hush" in it.
PASSWORD = "hush-w@hush/hush:hush#hush"
SHOP_KEY, SERVER_KEY, ADMIN_KEY = "shop-hush-key", "server-hush-key", "admin-hush-key"
PAGE_KEY = "page-hush-key-0123456789"  # one of a list, that may stand in a query
NEARLY, SESSION = "admin-hush-kex", "visitor-hush"  # the admin has mistyped it; and somebody's session
ITEM = "item-hush"  # what somebody looked at
KEYS = {
    "NEXTCLICK_API_KEY": SHOP_KEY,
    "NEXTCLICK_SERVER_API_KEY": SERVER_KEY,
    "NEXTCLICK_ADMIN_API_KEY": ADMIN_KEY,
    "NEXTCLICK_KEYS": f'[{{"label": "page-2026", "scope": "public", "key": "{PAGE_KEY}"}}]',
}

# The service, with some calls that fail as ours hopefully do not, among values that are nobody's business.
FAILING_APP = """
import asyncio
from fastapi import Request
from service.http.app import create_app as service_app
from service.process.settings import load_settings

def create_app():
    app, settings = service_app(), load_settings()

    @app.get("/fail")
    async def fail(request: Request):
        secrets = request.headers["x-api-key"], request.query_params["session_id"], settings
        try:
            raise ValueError("the first error")
        except ValueError as error:
            raise RuntimeError("the second error") from error

    @app.get("/forget")
    async def forget(request: Request):
        async def forgotten(secrets):
            raise RuntimeError("the forgotten error")
        asyncio.create_task(forgotten(dict(request.headers)))

    @app.get("/callback")
    async def callback(request: Request):
        def called(*secrets):
            raise RuntimeError("the error of a callback")
        asyncio.get_running_loop().call_soon(called)

    if settings.deployment_poll_seconds == 7:
        raise RuntimeError("it cannot be made")
    return app
"""
RUN_FAILING_APP = """
import sys
from service.process import logs
from service.process.settings import load_settings
from service.process.supervisor import serve

if __name__ == "__main__":
    settings = load_settings()
    logs.configure(settings)
    sys.exit(serve(settings, "failing:create_app"))
"""


def leaked(text: str) -> list[str]:
    """The lines that hold a secret."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return [line for line in plain.splitlines() if "hush" in line]


@contextmanager
def redis_with_password(directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], Redis]]:
    """A Redis of somebody else's, and a client of it."""
    path = directory / "r.sock"
    command = [find_redis_server(), "--port", "0", "--unixsocket", str(path), "--requirepass", PASSWORD]
    process = subprocess.Popen(
        [*command, "--save", "", "--dir", str(directory), "--logfile", str(directory / "redis.log")],
        stdin=subprocess.DEVNULL,
    )
    client = Redis(unix_socket_path=str(path), password=PASSWORD, socket_timeout=DEADLINE_SECONDS)

    def is_up() -> bool:
        with suppress(RedisError):
            return bool(client.ping())
        return False

    try:
        until(is_up)
        yield process, client
    finally:
        client.close()
        process.kill()
        process.wait()


def url_of(directory: Path) -> str:
    return f"unix://:{quote(PASSWORD, safe='')}@{directory}/r.sock"


def ask(port: int, request: str) -> None:
    """Send anything, and wait until that connection has been dealt with."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS) as connection:
        connection.sendall(request.encode())
        with suppress(ConnectionError):
            connection.recv(65536)


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose name leaves room for a socket's."""
    return tmp_path_factory.mktemp("s")


@pytest.mark.parametrize("log_format", FORMATS)
def test_a_run_that_fails_in_every_way(short: Path, log_format: str) -> None:
    Shop.make().write(short, "v1")
    publish(short, "v1")
    (short / "failing.py").write_text(FAILING_APP)
    (short / "run.py").write_text(RUN_FAILING_APP)
    environment = KEYS | {
        "NEXTCLICK_REDIS_URL": url_of(short),
        "NEXTCLICK_ARTIFACTS_DIR": str(short),
        "NEXTCLICK_LOG_FORMAT": log_format,
        "NEXTCLICK_LOG_LEVEL": "debug",
        "NEXTCLICK_ACCESS_LOG_SHARE": "1",
        "NEXTCLICK_RATE_LIMIT_PER_MINUTE": "1000000",
        "NEXTCLICK_WRONG_KEYS_PER_MINUTE": "3",
        "NEXTCLICK_DEPLOYMENT_POLL_SECONDS": "0.05",
        "NEXTCLICK_TRENDING_REFRESH_SECONDS": "0.05",
    }
    with (
        redis_with_password(short) as (redis, client),
        running(short, "run.py", workers=2, **environment) as service,
    ):

        def log() -> str:
            return re.sub(r"\x1b\[[0-9;]*m", "", service.log.read_text())

        def says(*words: str) -> None:
            """Wait until the log does: else nothing had gone wrong, and there was nothing to leak."""
            until(lambda: all(word in log() for word in words), lambda: f"{words}: {log()[-5000:]}")

        def says_after(word: str, *requests: tuple[str, ...]) -> None:
            """Send requests until the log does."""

            def said() -> bool:
                for request in requests:
                    say(*request)
                return word in log()

            until(said, lambda: f"{word}: {log()[-5000:]}")

        (line,) = until(lambda: re.findall(".*listening.*", log()))
        port = int(re.findall(r'port"?[=:] ?(\d+)', line)[0])
        until(lambda: answers(port))
        say = Sender(port)

        # Keys that are wrong, and keys where they should not be.
        for key in (NEARLY, SHOP_KEY, SERVER_KEY, NEARLY, NEARLY, NEARLY):
            for path in ("/trending", f"/sessions/{SESSION}", "/admin/hidden", "/admin/rollback"):
                say("GET", path, f"X-API-Key: {key}")
        say(
            "GET",
            f"/recommend?api_key={ADMIN_KEY}&session_id={SESSION}",
            f"Authorization: Bearer {ADMIN_KEY}",
        )
        say("GET", f"/{SESSION}/{ADMIN_KEY}?key={ADMIN_KEY}", f"Cookie: key={ADMIN_KEY}")
        for key in (PAGE_KEY, ADMIN_KEY, f"{PAGE_KEY}x"):  # a beacon's
            for path in (f"/sessions/{SESSION}/click", f"/{SESSION}"):
                say("POST", f"{path}?key={key}", "Origin: https://shop.example", f'{{"item_id": "{ITEM}"}}')
        says("403", "429", "page-2026")
        # Calls that are malformed, with all that they hold.
        ask(port, f"GET /{SESSION} HTTP/1.1\r\nX-API-Key {ADMIN_KEY}\r\n\r\n")
        ask(port, f"{ADMIN_KEY} / HTTP/1.1\r\n\r\n")
        ask(port, f"GET /{SESSION}?{ADMIN_KEY * 3000} HTTP/1.1\r\nX-API-Key: {ADMIN_KEY}\r\n\r\n")
        for body in (
            f'{{"{ITEM}": 1}}',
            f'{{"item_id": {ITEM}}}',
            f'{{"item_id": "{ITEM}\\u0000"}}',
            f'"{ITEM}"',
        ):
            say("POST", f"/sessions/{SESSION}/click", f"X-API-Key: {SHOP_KEY}", body)
            say("POST", "/clicks", f"X-API-Key: {SERVER_KEY}", body)
        say("PUT", f"/admin/hidden/{ITEM}%00", f"X-API-Key: {ADMIN_KEY}")
        say("POST", "/admin/activate", f"X-API-Key: {ADMIN_KEY}", '{"version": "v7"}')
        # A client that leaves in mid-body.
        with socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS) as connection:
            head = f"POST /sessions/{SESSION}/click HTTP/1.1\r\nX-API-Key: {SHOP_KEY}\r\n"
            connection.sendall(f"{head}Content-Length: 99\r\n\r\n{ITEM}".encode())
        says("Invalid HTTP request", "499")
        # Errors that nobody expected.
        for path in ("/fail", "/forget", "/callback"):
            say("GET", f"{path}?session_id={SESSION}", f"X-API-Key: {SHOP_KEY}")
        says("the first error", "the second error", "the forgotten error", "the error of a callback")
        # A Redis that refuses, hangs, wants another password, and is gone.
        click = ("POST", f"/sessions/{SESSION}/click", f"X-API-Key: {SHOP_KEY}", f'{{"item_id": "{ITEM}"}}')
        read = ("GET", f"/recommend?session_id={SESSION}", f"X-API-Key: {SHOP_KEY}")
        say(*click)
        client.config_set("maxmemory", 1)
        says_after("OOM", click)
        client.config_set("maxmemory", 0)
        client.acl_setuser("default", enabled=True, commands=["-zrange"])
        says_after("NOPERM", read)
        client.acl_setuser("default", enabled=True, commands=["+@all"])
        with stopped(redis.pid):
            says_after("no answer", click, read)
        client.config_set("requirepass", "another")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # type: ignore[no-untyped-call]
        says_after("WRONGPASS", click, read)
        redis.kill()
        says_after("Errno", click, read)
        # A bundle and a deployment that are no good, a worker that dies.
        Shop.make().write(short, "v2")
        (short / "bundles" / "v2" / "items.txt").write_text(ITEM)
        publish(short, "v2")
        says("bundle refused")
        (short / "deployment.json").write_text("{")
        says("deployment refused")
        with socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS) as connection:
            os.kill(until(lambda: peer(connection)), signal.SIGKILL)
        says("died")
        assert leaked(service.log.read_text()) == []
        service.end()
        assert leaked(service.log.read_text()) == []


class Sender:
    """Sends requests that may fail in any way."""

    def __init__(self, port: int) -> None:
        self._port = port

    def __call__(self, method: str, target: str, header: str, body: str = "") -> None:
        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n"
        length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        ask(self._port, f"{head}{length}\r\n{body}")


def answers(port: int) -> bool:
    """Whether a worker listens."""
    try:
        ask(port, "GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    except OSError:
        return False
    return True


SERVE = ("-m", "nextclick", "serve")
BAD_SETTINGS = {
    "NEXTCLICK_PORT": SHOP_KEY,
    "NEXTCLICK_API_KEYS": SHOP_KEY,
    "NEXTCLICK_REDIS_URL": f"http://:{quote(PASSWORD)}@host",
    "NEXTCLICK_WRONG_KEYS_PER_MINUTE": SHOP_KEY,
    "NEXTCLICK_ENCODER_CLICK_TYPES": f"[{SHOP_KEY}",
    "NEXTCLICK_TRUSTED_PROXIES": f"{SHOP_KEY},10.0.0.1",
    "NEXTCLICK_LOG_LEVEL": SHOP_KEY,
    "NEXTCLICK_ROOT_PATH": SHOP_KEY,
    "NEXTCLICK_KEYS": f'[{{"label": "web", "scope": "public", "key": "{SHOP_KEY}"}}]',
    "NEXTCLICK_CORS_ORIGINS": f"https://{SHOP_KEY}/",
    "NEXTCLICK_PUBLIC_SESSION_IDS": SHOP_KEY,
}


def test_settings_that_are_refused(short: Path) -> None:
    ended = start(short, *SERVE, **BAD_SETTINGS)
    assert ended.returncode == 2
    assert sorted(line.split(":")[0] for line in ended.stdout.splitlines()) == sorted(BAD_SETTINGS)
    assert leaked(ended.stdout) == []


@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize(
    ("program", "wrong", "said"),
    [
        (SERVE, {"NEXTCLICK_HOST": "256.0.0.1"}, "cannot listen"),
        (SERVE, {"NEXTCLICK_METRICS_DIR": "/dev/null/metrics"}, "NotADirectoryError"),
        (("run.py",), {"NEXTCLICK_DEPLOYMENT_POLL_SECONDS": "7"}, "it cannot be made"),
    ],
)
def test_a_start_that_fails(
    short: Path, log_format: str, program: tuple[str, ...], wrong: dict[str, str], said: str
) -> None:
    (short / "failing.py").write_text(FAILING_APP)
    (short / "run.py").write_text(RUN_FAILING_APP)
    ended = start(short, *program, NEXTCLICK_LOG_FORMAT=log_format, **wrong)
    assert (ended.returncode != 0, said in ended.stdout) == (True, True), ended.stdout
    assert leaked(ended.stdout) == []


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{quote(PASSWORD, safe='')}@localhost:1/0",
        f"rediss://me:{quote(PASSWORD, safe='')}@localhost:1/0",
        f"unix://:{quote(PASSWORD, safe='')}@/nowhere.sock",
        f"unix:///nowhere.sock?password={quote(PASSWORD, safe='')}",
    ],
)
def test_settings_that_are_shown(short: Path, url: str) -> None:
    shown = start(short, "-m", "nextclick", "serve", "--print-settings", NEXTCLICK_REDIS_URL=url)
    assert (shown.returncode, shown.stdout.count("**********")) == (0, 4), shown.stdout
    assert leaked(shown.stdout) == []


def start(directory: Path, *program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that ends by itself."""
    settings = KEYS | {"NEXTCLICK_REDIS_URL": url_of(directory), "NEXTCLICK_PORT": "0"}
    return subprocess.run(
        [sys.executable, *program],
        cwd=directory,
        env=clean_environment() | settings | {"NEXTCLICK_ARTIFACTS_DIR": str(directory)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


@pytest.mark.anyio
async def test_what_redis_quotes_is_not_told(artifacts: Path, short: Path) -> None:
    """One that lacks a command says so with the first words of it, a session's key among them."""
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    lacking = "rename-command ZRANGE ''"
    (short / "redis.conf").write_text(f"port 0\nunixsocket {short}/r.sock\nsave ''\n{lacking}\n")
    redis = subprocess.Popen([find_redis_server(), "redis.conf"], cwd=short, stdout=subprocess.DEVNULL)
    try:
        until((short / "r.sock").exists)
        with capture_logs() as logs:
            async with serving(artifacts, f"unix://{short}/r.sock", access_log_share=1) as service:
                assert (await service.recommend(SESSION))["degraded"]
                refused = await service.client.get(f"/sessions/{SESSION}")
                assert (refused.status_code, leaked(refused.json()["detail"])) == (503, [])
    finally:
        redis.kill()
        redis.wait()
    errors = [entry for entry in logs if entry["log_level"] == "error"]
    assert {entry["event"] for entry in errors} == {"redis refuses"}
    assert any("ZRANGE" in entry["reason"] for entry in errors)
    assert leaked("\n".join(map(str, logs))) == []
