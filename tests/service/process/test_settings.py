"""Settings: defaults, the environment, errors that name the variable, and what is printed."""

from __future__ import annotations

import os

import pytest
from pydantic import SecretStr

from service.process.settings import (
    Settings,
    SettingsError,
    describe,
    load_settings,
    variable,
)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("NEXTCLICK_") or name == "REDIS_URL":
            monkeypatch.delenv(name)


def problem(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> str:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    return str(caught.value)


def test_an_empty_environment_gives_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTCLICK_REDIS_URL", "")  # empty is unset, as docker compose passes it
    settings = load_settings()
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8000, 1)
    assert settings.redis_url is None
    assert settings.encoder_click_types == ("click",)


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTCLICK_PORT", "9000")
    monkeypatch.setenv("NEXTCLICK_API_KEY", "k")
    settings = load_settings()
    assert settings.port == 9000
    assert settings.api_key == SecretStr("k")


def test_redis_url_has_two_names_and_ours_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://one")
    assert load_settings().redis_url == "redis://one"
    monkeypatch.setenv("NEXTCLICK_REDIS_URL", "redis://two")
    assert load_settings().redis_url == "redis://two"
    assert Settings(redis_url="redis://three").redis_url == "redis://three"


@pytest.mark.parametrize("written", ["click,view", " click , view ", '["click", "view"]'])
def test_lists_are_written_with_commas_or_as_json(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("NEXTCLICK_ENCODER_CLICK_TYPES", written)
    assert load_settings().encoder_click_types == ("click", "view")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NEXTCLICK_PORT", "http"),
        ("NEXTCLICK_PORT", "65536"),
        ("NEXTCLICK_WORKERS", "0"),
        ("NEXTCLICK_REDIS_TIMEOUT_SECONDS", "0"),
        ("NEXTCLICK_REDIS_TIMEOUT_SECONDS", "nan"),
        ("NEXTCLICK_TRENDING_HALF_LIFE_SECONDS", "inf"),
        ("NEXTCLICK_REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "http://localhost"),
        ("NEXTCLICK_DURABILITY", "paranoid"),
        ("NEXTCLICK_ENCODER_CLICK_TYPES", "click,,view"),
        ("NEXTCLICK_ENCODER_CLICK_TYPES", '["click"'),
        ("NEXTCLICK_ENCODER_CLICK_TYPES", "[]"),
        ("NEXTCLICK_KEEP_ALIVE_SECONDS", "0"),
        ("NEXTCLICK_ROOT_PATH", "nextclick"),
        ("NEXTCLICK_ROOT_PATH", "/nextclick/"),
        ("NEXTCLICK_ROOT_PATH", "/a b"),
        ("NEXTCLICK_TRUSTED_PROXIES", "proxy.example"),
        ("NEXTCLICK_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("NEXTCLICK_TRUSTED_PROXIES", "10.0.0.1,"),
        ("NEXTCLICK_TRUSTED_PROXIES", "10.0.0.1,*"),
    ],
)
def test_a_bad_value_is_one_line_that_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    message = problem(monkeypatch, name, value)
    assert message.startswith(f"{name}: ")
    assert "\n" not in message


def test_every_wrong_variable_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTCLICK_PORT", "http")
    monkeypatch.setenv("NEXTCLICK_WORKERS", "many")
    lines = problem(monkeypatch, "NEXTCLICK_PROT", "1").splitlines()
    assert [line.split(":")[0] for line in lines] == ["NEXTCLICK_PROT", "NEXTCLICK_PORT", "NEXTCLICK_WORKERS"]


def test_an_unknown_variable_lists_near_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "did you mean NEXTCLICK_SESSION_TTL_SECONDS" in problem(monkeypatch, "NEXTCLICK_SESSION_TTL", "60")
    renamed = problem(monkeypatch, "NEXTCLICK_COLD_MIN_CLICKS", "2.5")
    assert "did you mean NEXTCLICK_COLD_MIN_SESSIONS or" in renamed


def test_every_setting_says_what_it_means() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_table_shows_every_setting_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTCLICK_API_KEY", "hush-1")
    monkeypatch.setenv("NEXTCLICK_ADMIN_API_KEY", "hush-2")
    monkeypatch.setenv("NEXTCLICK_REDIS_URL", "redis://me:hush-3@host:6379/1")
    monkeypatch.setenv("NEXTCLICK_SERVER_API_KEY", "hush-4")
    monkeypatch.setenv("NEXTCLICK_PORT", "9000")
    table = describe(load_settings())
    rows = {line.split()[0]: line.split() for line in table.splitlines()}
    assert rows.keys() == {"VARIABLE", *map(variable, Settings.model_fields)}
    assert rows["NEXTCLICK_PORT"][1:3] == ["9000", "8000"]
    assert rows["NEXTCLICK_REDIS_URL"][1] == "redis://me:**********@host:6379/1"
    assert "hush" not in table
