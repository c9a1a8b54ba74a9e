"""docker-compose.yml: what its containers may do, and a password of Redis that nobody has to think of."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis import Redis
from redis.exceptions import AuthenticationError

from service.process.embedded_redis import find_redis_server
from tests.waiting import until

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
COMPOSE = (ROOT / "docker-compose.yml").read_text()
UNITS = {"m": 2**20, "g": 2**30, "mb": 2**20, "gb": 2**30}


def with_defaults(text: str) -> str:
    """As compose reads it when nothing is set."""
    return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)


SERVICES: dict[str, Any] = yaml.safe_load(with_defaults(COMPOSE))["services"]


def size(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([a-z]+)", text).groups()  # type: ignore[union-attr]
    return int(number) * UNITS[unit]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_confined(name: str) -> None:
    container = SERVICES[name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert not {"cap_add", "privileged", "pid", "ipc"} & container.keys()
    assert set(container["tmpfs"]) <= {"/tmp", "/data"}
    assert size(container["mem_limit"]) >= 64 * 2**20
    assert 1 <= container["pids_limit"] <= 1024, "a number: older compose takes no text"
    logging = container["logging"]
    assert logging["driver"] == "json-file"
    assert size(logging["options"]["max-size"]) * int(logging["options"]["max-file"]) <= 100 * 2**20


@pytest.mark.parametrize("name", ["redis", "service", "trainer"])
def test_memory_can_be_set(name: str) -> None:
    limit = yaml.safe_load(COMPOSE)["services"][name]["mem_limit"]
    assert re.fullmatch(r"\$\{NEXTCLICK_\w+:-\w+\}", limit), limit


def test_nobody_is_root_but_who_makes_the_password() -> None:
    assert SERVICES["redis"]["user"] == "redis"
    for name, image in {"service": "service.Dockerfile", "trainer": "training.Dockerfile"}.items():
        assert SERVICES[name]["build"]["dockerfile"] == f"docker/{image}"
        assert re.findall(r"^USER (.*)$", (DOCKER / image).read_text(), re.MULTILINE) == ["10001:10001"]
    assert SERVICES["password"]["network_mode"] == "none"
    assert "restart" not in SERVICES["password"]


def test_redis_is_reached_from_inside_alone_and_by_its_password() -> None:
    redis = SERVICES["redis"]
    assert "ports" not in redis
    command = redis["command"][-1]
    assert "requirepass" in command.split("exec redis-server")[0]
    assert "protected-mode" not in command
    assert redis["depends_on"] == {"password": {"condition": "service_completed_successfully"}}
    writers = [name for name, each in SERVICES.items() if "password:/run/nextclick" in each["volumes"]]
    assert writers == ["password"], "the others read it"
    for name in ("redis", "service", "trainer"):
        assert "password:/run/nextclick:ro" in SERVICES[name]["volumes"]
        assert SERVICES[name]["environment"]["REDIS_PASSWORD_FILE"].startswith("/run/nextclick/")


def test_redis_refuses_before_its_container_is_killed() -> None:
    redis = SERVICES["redis"]
    assert "noeviction" in redis["command"][-1]
    assert '--maxmemory "$$MAXMEMORY"' in redis["command"][-1]
    assert 2 * size(redis["environment"]["MAXMEMORY"]) <= size(redis["mem_limit"])


def make_password(directory: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    variables = {"REDIS_PASSWORD_FILE": str(directory / "password"), "REDIS_PASSWORD": given}
    return subprocess.run(
        ["sh", DOCKER / "redis-password.sh"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_password_is_made_once(tmp_path: Path) -> None:
    made = make_password(tmp_path)
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
    password = (tmp_path / "password").read_text()
    assert re.fullmatch(r"[0-9a-f]{64}", password)
    assert stat.S_IMODE((tmp_path / "password").stat().st_mode) == 0o444
    make_password(tmp_path)
    assert (tmp_path / "password").read_text() == password
    assert [file.name for file in tmp_path.iterdir()] == ["password"]


def test_no_two_projects_have_the_same(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    make_password(tmp_path)
    make_password(tmp_path / "other")
    assert (tmp_path / "password").read_text() != (tmp_path / "other" / "password").read_text()


def test_a_password_that_is_set_is_taken(tmp_path: Path) -> None:
    make_password(tmp_path)
    make_password(tmp_path, "my.own_password~1-2")
    assert (tmp_path / "password").read_text() == "my.own_password~1-2"
    make_password(tmp_path)
    assert (tmp_path / "password").read_text() == "my.own_password~1-2", "until another one is set"


@pytest.mark.parametrize("password", ["a@b", "a/b", "a#b", "a b", "a\nb", "ä", "a:b", "a%b", "a'b"])
def test_a_password_that_no_url_takes_is_refused_and_not_told(tmp_path: Path, password: str) -> None:
    refused = make_password(tmp_path, password)
    assert refused.returncode == 1
    assert "NEXTCLICK_REDIS_PASSWORD" in refused.stderr
    assert password not in refused.stdout + refused.stderr
    assert list(tmp_path.iterdir()) == []


def redis_url(**variables: str) -> subprocess.CompletedProcess[str]:
    """What a command in a container finds, and its arguments."""
    kept = {name: value for name, value in os.environ.items() if "REDIS" not in name}
    say = 'printf %s "${NEXTCLICK_REDIS_URL-unset} $1"'
    command = ["sh", str(DOCKER / "with-redis.sh"), "sh", "-c", say, "sh", "a b"]
    return subprocess.run(command, env=kept | variables, capture_output=True, text=True, check=False)


def test_commands_find_the_projects_redis_by_its_password(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret")
    found = {"REDIS_PASSWORD_FILE": str(file)}
    assert redis_url(**found).stdout == "redis://:secret@redis:6379/0 a b"
    assert redis_url(**found, NEXTCLICK_REDIS_URL="").stdout == "redis://:secret@redis:6379/0 a b"
    assert redis_url(**found, NEXTCLICK_REDIS_URL="redis://other").stdout == "redis://other a b"
    assert redis_url(**found, REDIS_URL="redis://other").stdout == "unset a b"
    assert redis_url(**found, REDIS_HOST="shop-redis").stdout == "redis://:secret@shop-redis:6379/0 a b"
    assert redis_url().stdout == "unset a b"
    gone = redis_url(REDIS_PASSWORD_FILE=str(tmp_path / "gone"))
    assert gone.returncode != 0
    assert gone.stdout == ""


@pytest.mark.parametrize("image", ["service.Dockerfile", "training.Dockerfile"])
def test_images_run_their_commands_with_it(image: str) -> None:
    text = (DOCKER / image).read_text()
    assert "docker/with-redis.sh" in text.split("ENTRYPOINT")[1]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for copied in re.findall(r"\bdocker/[\w-]+\.sh\b(?=.* docker/)", text):
        assert f"!{copied}" in ignored


def installed_in(image: str) -> set[str]:
    """What an image's requirements ask for."""
    (lines,) = re.findall(
        r"RUN python -c '(.*?)' > /requirements.txt", (DOCKER / image).read_text(), re.DOTALL
    )
    code = lines.replace("\\\n", "").replace("/pyproject.toml", str(ROOT / "pyproject.toml"))
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(re.findall(r"^[\w-]+", listed.stdout, re.MULTILINE))


def test_images_reach_an_object_store() -> None:
    assert {"obstore", "uvicorn"} <= installed_in("service.Dockerfile")
    assert "torch" not in installed_in("service.Dockerfile")
    assert "obstore" in installed_in("training.Dockerfile")


def test_the_trainers_image_shows_the_console() -> None:
    """By the argument `console`, with all that its extra names; tests/deploy has what it is called with."""
    text = (DOCKER / "training.Dockerfile").read_text()
    assert {"nicegui", "torch", "uvicorn"} <= installed_in("training.Dockerfile")
    assert "COPY console console" in text
    assert "!console" in (ROOT / ".dockerignore").read_text().splitlines()
    shown = subprocess.run(
        [DOCKER / "trainer.sh", "console", "--help"],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "NEXTCLICK_ADMIN_API_KEY" in shown.stdout


def test_redis_asks_for_the_password_and_has_its_limit(tmp_path: Path) -> None:
    """Its command as it stands there, with a place of its own instead of the container's."""
    make_password(tmp_path)
    password, place = (tmp_path / "password").read_text(), tmp_path / "redis.sock"
    own = f"--port 0 --unixsocket {place} --dir {tmp_path}"
    shell, option, text = SERVICES["redis"]["command"]
    command = text.replace("$$", "$").replace("/tmp/redis.conf", str(tmp_path / "redis.conf"))
    command = command.replace("/data/", f"{tmp_path}/")
    command = command.replace("exec redis-server", f"exec {find_redis_server()}").strip() + f" {own}"
    variables = {"REDIS_PASSWORD_FILE": str(tmp_path / "password"), "MAXMEMORY": "64mb", "APPENDFSYNC": "no"}
    with subprocess.Popen(
        [shell, option, command], env=os.environ | variables, start_new_session=True
    ) as process:
        try:
            until(place.exists)
            assert password.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
            with Redis(unix_socket_path=str(place)) as stranger, pytest.raises(AuthenticationError):
                stranger.ping()
            with Redis(unix_socket_path=str(place), password=password) as client:
                assert client.ping()
                told = {name: client.config_get(name)[name] for name in ("maxmemory", "maxmemory-policy")}
                assert told == {"maxmemory": str(64 * 2**20), "maxmemory-policy": "noeviction"}
                assert client.config_get("appendonly")["appendonly"] == "yes"
                assert client.config_get("appendfsync")["appendfsync"] == "no"
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # with what syncs beside it


def test_the_smoke_test_does_not_take_what_was_set_for_the_real_thing() -> None:
    script = (DOCKER / "smoke.sh").read_text()
    exported = set(re.findall(r"\b(NEXTCLICK_\w+)=", script))
    assert set(re.findall(r"\$\{(NEXTCLICK_\w+):-", COMPOSE)) - {"NEXTCLICK_SOURCE_COMMIT"} <= exported


def test_empty_settings_are_none() -> None:
    """As the service's container gets them where nothing is set."""
    given = {name: value for name, value in SERVICES["service"]["environment"].items() if not value}
    assert {"NEXTCLICK_TRUSTED_PROXIES", "NEXTCLICK_ROOT_PATH", "NEXTCLICK_REDIS_URL"} <= given.keys()
    command = [sys.executable, "-m", "service", "--print-settings"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NEXTCLICK_")}
    empty = dict.fromkeys(given, "")
    subprocess.run(command, cwd=ROOT, env=kept | empty, capture_output=True, check=True)
