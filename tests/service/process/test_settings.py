"""Settings: defaults, the environment, errors that name the variable, and what is printed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

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
        ("NEXTCLICK_CORS_ORIGINS", "https://a.example,*"),
        ("NEXTCLICK_CORS_ORIGINS", "null"),
        ("NEXTCLICK_CORS_ORIGINS", "https://a.example/"),
        ("NEXTCLICK_CORS_ORIGINS", "a.example"),
        ("NEXTCLICK_CORS_ORIGINS", "https://a.example,"),
        ("NEXTCLICK_CORS_ORIGINS", "https://*.example"),
        ("NEXTCLICK_PUBLIC_SESSION_IDS", "long"),
        ("NEXTCLICK_API_KEY_FILE", "/nowhere/key"),
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


KEY = "hush-0123456789abcdef"


def entry(**changed: Any) -> dict[str, Any]:
    return {"label": "web", "scope": "public", "key": KEY, **changed}


def test_origins_are_as_browsers_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    written = "https://Shop.example:443, http://localhost:3000,http://[::1]:8080,http://b.example:80"
    monkeypatch.setenv("NEXTCLICK_CORS_ORIGINS", written)
    origins = ("https://shop.example", "http://localhost:3000", "http://[::1]:8080", "http://b.example")
    assert load_settings().cors_origins == origins
    monkeypatch.setenv("NEXTCLICK_CORS_ORIGINS", "*")
    assert load_settings().cors_origins == ("*",)


class TestKeys:
    def test_those_of_a_list_and_those_of_variables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NEXTCLICK_API_KEY", "short")
        monkeypatch.setenv("NEXTCLICK_KEYS", json.dumps([entry(origins=["https://Shop.example"])]))
        single, listed = load_settings().every_key
        assert (single.label, single.scope, single.key) == ("public", "public", SecretStr("short"))
        assert (listed.label, listed.key.get_secret_value()) == ("web", KEY)
        assert listed.origins == ("https://shop.example",)
        assert "hush" not in describe(load_settings())
        assert "web (public)" in describe(load_settings())

    def test_those_of_a_file(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        file = tmp_path / "keys.toml"
        file.write_text(
            f"""
            [[keys]] # the new one
            label = "web-2026"
            scope = "public"
            key = "{KEY}"
            origins = ["https://shop.example"]
            [[keys]]
            label = "ana"
            scope = "admin"
            key = "{KEY[::-1]}"
            """
        )
        monkeypatch.setenv("NEXTCLICK_KEYS_FILE", str(file))
        assert [str(key) for key in load_settings().every_key] == ["web-2026 (public)", "ana (admin)"]
        monkeypatch.setenv("NEXTCLICK_KEYS", json.dumps([entry()]))
        with pytest.raises(SettingsError, match="NEXTCLICK_KEYS_FILE: NEXTCLICK_KEYS is set too"):
            load_settings()

    @pytest.mark.parametrize(
        ("written", "message"),
        [
            ([entry(), entry(key=KEY[:15])], "entry 2: key: must be 16"),
            ([entry(key="hush hush hush hush")], "entry 1: key: must be 16"),
            ([entry(scope="hush")], "entry 1: scope: Input should be 'public'"),
            ([entry(label="hush hush")], "entry 1: label: String should match"),
            ([entry(hush=1)], "entry 1: an unknown field: Extra inputs"),
            ([{"label": "web", "scope": "public"}], "entry 1: key: Field required"),
            ([entry(origins=["https://hush.example/"])], "entry 1: origins: 0: is no origin"),
            ([entry(scope="server", origins=["https://a.example"])], "entry 1: origins: only a public key"),
            ([entry(), entry(key=KEY[::-1])], "entry 2: its label is that of entry 1"),
            ([entry(label="server")], "entry 1: its label is that of NEXTCLICK_SERVER_API_KEY"),
            ([entry(key="server-hush-0123456789")], "entry 1: its key is that of another label"),
            ([KEY], "entry 1: Input should be a valid dictionary"),
            (KEY, "Input should be a valid tuple"),
        ],
    )
    def test_what_is_wrong_names_the_entry_and_no_value(
        self, monkeypatch: pytest.MonkeyPatch, written: object, message: str
    ) -> None:
        monkeypatch.setenv("NEXTCLICK_SERVER_API_KEY", "server-hush-0123456789")
        told = problem(monkeypatch, "NEXTCLICK_KEYS", json.dumps(written))
        assert told.startswith(f"NEXTCLICK_KEYS: {message}")
        assert "hush" not in told

    def test_what_is_no_json_is_not_quoted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        told = problem(monkeypatch, "NEXTCLICK_KEYS", f'[{{"key": {KEY}')
        assert told == "NEXTCLICK_KEYS: not JSON: Expecting value: line 1 column 10 (char 9)"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (f"key = {KEY}", "not TOML: line 1"),
            (f'key = "{KEY}"', "holds something else than [[keys]]"),
            (f'keys = "{KEY}"', "holds something else than [[keys]]"),
            (f'[[keys]]\nlabel = "web"\nkey = "{KEY}"', "entry 1: scope: Field required"),
        ],
    )
    def test_what_is_wrong_in_a_file(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, message: str
    ) -> None:
        (tmp_path / "keys.toml").write_text(text)
        told = problem(monkeypatch, "NEXTCLICK_KEYS_FILE", str(tmp_path / "keys.toml"))
        assert told == f"NEXTCLICK_KEYS_FILE: {message}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NEXTCLICK_API_KEY", KEY),
        ("NEXTCLICK_SERVER_API_KEY", KEY),
        ("NEXTCLICK_ADMIN_API_KEY", KEY),
        ("NEXTCLICK_REDIS_URL", f"redis://:{KEY}@host"),
    ],
)
def test_what_is_secret_may_be_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str
) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{value}\n")
    monkeypatch.setenv(f"{name}_FILE", str(file))
    found = getattr(load_settings(), name.removeprefix("NEXTCLICK_").lower())
    assert (found.get_secret_value() if isinstance(found, SecretStr) else found) == value
    assert "hush" not in describe(load_settings())
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}_FILE: {name} is set too: set one of them$"):
        load_settings()
    monkeypatch.delenv(name)
    file.write_text("\n")
    with pytest.raises(SettingsError, match=f"^{name}_FILE: the file is empty$"):
        load_settings()


def test_a_wrong_url_in_a_file_names_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"http://{KEY}@host")
    told = problem(monkeypatch, "NEXTCLICK_REDIS_URL_FILE", str(tmp_path / "url"))
    assert told.startswith("NEXTCLICK_REDIS_URL_FILE: must start with redis://")
    assert "hush" not in told
