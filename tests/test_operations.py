"""docs/operations.md against the program: settings, metrics, and every block that an operator would copy."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from zoneinfo import available_timezones

import pytest
import typer.main
import yaml
from prometheus_client import REGISTRY
from typer.core import TyperGroup

import service.process.metrics  # noqa: F401 (registers the metrics)
from nextclick.commands import tree
from service.http.app import create_app
from service.process.settings import PREFIX, Settings, describe, variable
from training.loop.cron import Cron

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "operations.md").read_text()
README = (ROOT / "README.md").read_text()
COMPOSE = (ROOT / "docker-compose.yml").read_text()

PROGRAM = typer.main.get_command(tree(complete=True))
assert isinstance(PROGRAM, TyperGroup)
COMMANDS = PROGRAM.commands
SETTINGS = {variable(field) for field in Settings.model_fields}

UNIT_KEYS = {
    "Unit": {"Description", "After", "Wants"},
    "Service": {
        *("Type", "User", "WorkingDirectory", "EnvironmentFile", "ExecStart", "Nice", "KillMode"),
        *("TimeoutStartSec", "TimeoutStopSec", "Restart", "RestartSec"),
    },
    "Timer": {"OnCalendar", "Persistent"},
    "Install": {"WantedBy"},
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)


def section(heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", GUIDE, re.DOTALL | re.MULTILINE)
    assert found is not None, heading
    return found[1]


def rows(text: str) -> list[tuple[str, ...]]:
    """The cells of a section's table rows that begin with code, without their backquotes."""
    lines = re.findall(r"^\| (`.*?) \|$", text, re.MULTILINE)
    return [tuple(cell.strip("`") for cell in line.split(" | ")) for line in lines]


def commands_in(text: str) -> Iterator[list[str]]:
    """The arguments of every `nextclick ...` in a block, up to what the shell takes for itself."""
    joined = text.replace("\\\n", " ")
    for found in re.findall(r"\bnextclick ([a-z][^\n]*)", joined):
        words = shlex.split(found)
        yield words[: next((i for i, word in enumerate(words) if word.startswith((">", "2>"))), len(words))]


def check_command(words: list[str]) -> None:
    """The command exists, and takes these options; what follows `--` is a command, too."""
    assert words[0] in COMMANDS, words
    options = {"--help", *(option for parameter in COMMANDS[words[0]].params for option in parameter.opts)}
    own, after = words[1:], list[str]()
    if "--" in own:
        own, after = own[: own.index("--")], own[own.index("--") + 1 :]
    for word in own:
        assert not word.startswith("-") or word in options, (words[0], word)
    if after:
        check_command(after)


def test_the_table_of_contents_names_every_section() -> None:
    headings = re.findall(r"^## (.*)$", GUIDE, re.MULTILINE)
    links = re.findall(r"^\[(.*?)\]\(#(.*?)\)", GUIDE, re.MULTILINE)
    assert [name for name, _ in links] == headings
    anchors = [re.sub(r"[^\w -]", "", name).lower().replace(" ", "-") for name in headings]
    assert [anchor for _, anchor in links] == anchors


def test_every_setting_is_there_with_its_default() -> None:
    table = [re.split(r"  +", line) for line in describe(Settings(redis_url=None)).splitlines()[1:]]
    defaults = {name: default for name, _, default, *_ in table}
    assert defaults.keys() == SETTINGS
    told = {name: default for name, default, _ in rows(section("Every setting").split("compose file")[0])}
    assert told == defaults


def test_every_variable_of_the_compose_file_is_there_with_its_default() -> None:
    used = dict(re.findall(rf"\$\{{({PREFIX}\w+):-(.*?)\}}", COMPOSE))
    own = {name: default or "–" for name, default in used.items() if name not in SETTINGS}
    told = {name: default for name, default, _ in rows(section("Every setting").split("compose file")[1])}
    assert told == own
    mentioned = set(re.findall(rf"{PREFIX}[A-Z_]+[A-Z]", GUIDE))
    assert mentioned == SETTINGS | own.keys(), "all, and none that does not exist"


def test_every_metric_is_there() -> None:
    families = [family for family in REGISTRY.collect() if family.name.startswith("nextclick_")]
    shown = {f"{f.name}_total" if f.type == "counter" else f.name for f in families}
    assert {name for name, *_ in rows(section("Every metric"))} == shown
    series = shown | {
        f"{f.name}_{suffix}"
        for f in families
        if f.type == "histogram"
        for suffix in ("bucket", "sum", "count")
    }
    assert set(re.findall(r"\bnextclick_\w+", GUIDE)) <= series, "none that does not exist"


def test_alarms_are_a_rules_file() -> None:
    (text,) = (block for block in blocks("yaml") if block.startswith("groups:"))
    (group,) = yaml.safe_load(text)["groups"]
    assert len(group["rules"]) > 5
    for rule in group["rules"]:
        assert rule.keys() - {"for"} == {"alert", "expr", "annotations"}, rule
        assert rule["annotations"].keys() == {"why", "do"}
        assert re.fullmatch(r"\d+[mh]", rule.get("for", "1m"))
        assert re.search(r"[<>]", rule["expr"]), "an expression that is always true is no alarm"
        for opening, closing in ("()", "[]", "{}"):
            assert rule["expr"].count(opening) == rule["expr"].count(closing), rule["expr"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(set(names)) == len(names)


def test_commands_exist_and_take_their_options() -> None:
    """Those of all blocks, and at least one in each kind of block."""
    for language in ("sh", "crontab", "ini"):
        found = [words for block in blocks(language) for words in commands_in(block)]
        assert found, language
        for words in found:
            check_command(words)


@pytest.mark.parametrize("words", re.findall(r"`nextclick ([a-z].*?)`", (GUIDE + README).replace("\n", " ")))
def test_commands_in_the_text_exist(words: str) -> None:
    check_command(shlex.split(words))


@pytest.mark.parametrize("block", blocks("sh"))
def test_shell_blocks_can_be_parsed(block: str) -> None:
    parsed = subprocess.run(
        ["bash", "--norc", "-n"], input=block, capture_output=True, text=True, check=False
    )
    assert (parsed.returncode, parsed.stderr) == (0, "")


def test_scheduled_times_can_be_parsed() -> None:
    """Those of `schedule` in blocks, and those of the text."""
    calls = [words for block in blocks("sh") for words in commands_in(block) if words[0] == "schedule"]
    crons = [words[words.index("--cron") + 1] for words in calls]
    crons += [text for text in re.findall(r"`([^`\n]+)`", GUIDE) if len(text.split()) == 5 and "*" in text]
    zones = [words[words.index("--timezone") + 1] for words in calls if "--timezone" in words]
    assert len(calls) == 2
    assert len(crons) > 4
    for cron in crons:
        assert Cron.parse(cron, zones[0]).expression == cron


def test_the_crontab_can_be_parsed() -> None:
    (block,) = blocks("crontab")
    assignments = [line for line in block.splitlines() if re.fullmatch(r"[A-Z_]+=\S+", line)]
    assert {line.split("=")[0] for line in assignments} <= {
        variable(field) for field in Settings.model_fields
    }
    (entry,) = (line for line in block.splitlines() if line not in assignments)
    assert Cron.parse(" ".join(entry.split()[:5]), "UTC").expression == "0 3 * * *"
    command = entry.split(None, 5)[5]
    assert "%" not in command, "cron would take it for a line end"
    assert list(commands_in(command)) == [["run", "--config", "retrain.toml"]]


def units() -> dict[str, str]:
    """Unit files by name, which the first line of a block gives."""
    return {block.splitlines()[0].rsplit("/", 1)[1]: block for block in blocks("ini")}


def test_units_hold_known_keys_and_known_times() -> None:
    found = units()
    assert set(found) == {"nextclick.service", "nextclick-retrain.service", "nextclick-retrain.timer"}
    for name, text in found.items():
        unit = configparser.ConfigParser(
            delimiters=("=",), comment_prefixes=("#",), interpolation=None, strict=True
        )
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read_string(text)
        for heading in unit.sections():
            assert set(unit[heading]) <= UNIT_KEYS[heading], (name, heading)
        assert ("Timer" if name.endswith("timer") else "Service") in unit, name
        if name.endswith("timer"):
            date, time, zone = unit["Timer"]["OnCalendar"].split()
            assert (date, re.fullmatch(r"[0-2]\d:[0-5]\d:[0-5]\d", time) is not None) == ("*-*-*", True)
            assert zone in available_timezones()
        else:
            assert Path(unit["Service"]["ExecStart"].split()[0]).is_absolute()


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """Where it is installed; what it says is about these units, or there is none of it."""
    analyze = shutil.which("systemd-analyze")
    for name, text in units().items():
        text = text.replace("/srv/nextclick/.venv/bin/nextclick", f"{sys.executable} -m nextclick")
        (tmp_path / name).write_text(re.sub("(User|WorkingDirectory)=.*\n", "", text))
    assert len(list(tmp_path.iterdir())) == 3
    if analyze is not None:
        done = subprocess.run(
            [analyze, "verify", "--recursive-errors=no", *map(str, tmp_path.iterdir())],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, "nextclick" in done.stderr) == (0, False), done.stderr


def shoppers_calls() -> dict[str, bool]:
    """Every path that there is, and whether a shop's pages call it.

    Proxies are told of paths: one under which the shop's server changes things too is not let through.
    """
    document = create_app(Settings(redis_url="redis://nobody-asks")).openapi()
    asked = {
        path.format(session_id="a b", item_id="i1", name="home"): list(methods.values())
        for path, methods in document["paths"].items()
    }
    return {
        path: path != "/models" and all({"PublicKey": []} in each.get("security", []) for each in operations)
        for path, operations in asked.items()
    }


def paths_of_nginx() -> Callable[[str], bool]:
    (text,) = blocks("nginx")
    (allowed,) = re.findall(r"location ~ (\S+) \{", text)
    taken, put = re.findall(r"rewrite (\S+) (\S+) break;", text)[0]
    assert re.sub(taken, put.replace("$", "\\"), "/nextclick/recommend") == "/recommend"
    return lambda path: re.search(allowed, f"/nextclick{path}") is not None


def paths_of_caddy() -> Callable[[str], bool]:
    (text,) = blocks("caddyfile")
    (allowed,) = re.findall(r"@nextclick path (.*)", text)
    assert "uri strip_prefix /nextclick" in text
    return lambda path: any(fnmatch(f"/nextclick{path}", each) for each in allowed.split())


def paths_of_a_balancer() -> Callable[[str], bool]:
    (rule,) = re.findall(r"\| forward (.*?);", section("Exposing it to the open web"))
    return lambda path: any(fnmatch(path, each) for each in re.findall("`(.*?)`", rule))


@pytest.mark.parametrize(
    "allowed", [paths_of_nginx(), paths_of_caddy(), paths_of_a_balancer()], ids=["nginx", "caddy", "cloud"]
)
def test_a_proxy_lets_the_calls_of_a_shops_pages_through_and_no_other(allowed: Callable[[str], bool]) -> None:
    calls = shoppers_calls()
    assert sum(calls.values()) == 4
    assert {path: allowed(path) for path in calls} == calls
    assert allowed("/nextclick.js"), "the tag"
    assert not allowed("/nextclick_js")
    assert not allowed("/")


def test_a_proxy_keeps_within_the_services_limits() -> None:
    (nginx,), (caddy,), defaults = blocks("nginx"), blocks("caddyfile"), Settings(redis_url=None)
    assert nginx.count("{") == nginx.count("}")
    assert caddy.count("{") == caddy.count("}")
    for text, kept in ((nginx, r"keepalive_timeout (\d+)s;"), (caddy, r"keepalive (\d+)s")):
        (seconds,) = re.findall(kept, text)
        assert int(seconds) < defaults.keep_alive_seconds
    assert f"client_max_body_size {defaults.max_body_bytes // 1024}k;" in nginx
    assert defaults.host in nginx, "the default host is the one that a proxy on the same machine asks"
    assert f"127.0.0.1:{defaults.port}" in nginx
    assert f"127.0.0.1:{defaults.port}" in caddy


def test_containers_get_no_variable_that_a_command_would_refuse() -> None:
    """Inside, NEXTCLICK_ names are settings; the trainer's other variables are those its script reads."""
    services = yaml.safe_load(COMPOSE)["services"]
    for name in ("service", "trainer"):
        given = set(services[name]["environment"])
        assert {each for each in given if each.startswith(PREFIX)} <= SETTINGS, name
    script, with_redis = ((ROOT / "docker" / name).read_text() for name in ("trainer.sh", "with-redis.sh"))
    read = set(re.findall(r"\$\{([A-Z_]+)[:}]", script + with_redis)) - SETTINGS - {"REDIS_URL", "REDIS_HOST"}
    # The password is there to begin anew when it changes, and libraries read where home is.
    assert read == set(services["trainer"]["environment"]) - SETTINGS - {"REDIS_PASSWORD", "HOME"}
    assert PREFIX not in re.sub("^#.*$", "", script, flags=re.MULTILINE)
    image = (ROOT / "docker" / "training.Dockerfile").read_text()
    assert not re.search(rf"^ENV .*{PREFIX}", image, re.MULTILINE)


@pytest.mark.parametrize("script", sorted((ROOT / "docker").glob("*.sh")), ids=lambda script: script.name)
def test_container_scripts_can_be_parsed(script: Path) -> None:
    parsed = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert (parsed.returncode, parsed.stderr) == (0, "")
