"""Every setting of the service, read from NEXTCLICK_... environment variables and checked at start."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.process import redis_url

PREFIX = "NEXTCLICK_"
CHECKED_DIRECTORY = "BUNDLES_CHECKED_DIR"  # no setting: the parent process tells its workers
REDIS_URL = "NEXTCLICK_REDIS_URL"  # the one variable with a second name, REDIS_URL
FILE = "_FILE"  # how the name of a variable ends that names a file with what is secret
SECRETS = ("redis_url", "api_key", "server_api_key", "admin_api_key", "keys")
ANY_ORIGIN = "*"
# Nothing of who asks: that is for the variables of each cloud, which are never shown.
STORE_URL = re.compile(r"(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]{1,254}(/[A-Za-z0-9._=-]+)*/?")
NO_STORE = "is no store's URL: s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
NO_DIRECTORY = (
    "is a URL: a store is named by NEXTCLICK_ARTIFACTS_URL, and this is the directory that mirrors it"
)

Caller = Literal["public", "server", "admin"]  # a shop's pages, the shop's own server, its operators


class SettingsError(ValueError):
    """The environment does not make valid settings; one line per variable that is wrong."""


def _origin(text: str) -> str:
    """An origin as browsers write it."""
    found = re.fullmatch(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", text.lower())
    if found is None:
        raise ValueError("is no origin: https://shop.example, with a port if it has one, and without a path")
    scheme, host, port = found.groups()
    return f"{scheme}://{host}{'' if port == {'http': ':80', 'https': ':443'}[scheme] else port or ''}"


Origin = Annotated[str, AfterValidator(_origin)]


class KeyEntry(BaseModel):
    """One key of many: who holds it, and what it is for."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    label: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    scope: Caller
    key: SecretStr
    origins: tuple[Origin, ...] = ()

    @field_validator("key")
    @classmethod
    def _long(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch(r"[!-~]{16,1024}", value.get_secret_value()):
            raise ValueError("must be 16 to 1,024 letters, digits and other ASCII characters, without blanks")
        return value

    @field_validator("origins")
    @classmethod
    def _of_pages(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if value and info.data.get("scope") != "public":
            raise ValueError("only a public key is sent by pages, and can be bound to their origins")
        return value

    def __str__(self) -> str:
        return f"{self.label} ({self.scope})"


class Settings(BaseSettings):
    """What can be set; `python -m service --print-settings` shows it all."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        populate_by_name=True,
        allow_inf_nan=False,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    artifacts_dir: Path = Field(
        default=Path("artifacts"), description="bundles, deployment.json, embedded Redis data"
    )
    artifacts_url: str | None = Field(
        default=None,
        description="object store of the artifacts, s3://bucket/prefix (gs, az): the directory mirrors it",
    )
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one")
    workers: int = Field(default=1, ge=1, description="worker processes; one per core is a good number")
    redis_url: str | None = Field(
        default=None,
        repr=False,
        validation_alias=AliasChoices(REDIS_URL, "REDIS_URL"),
        description="of a Redis, sentinels or a cluster (or REDIS_URL); unset starts a private Redis",
    )
    redis_timeout_seconds: float = Field(
        default=0.05, gt=0, description="for a whole call to Redis, waiting for a connection included"
    )
    redis_connect_timeout_seconds: float = Field(
        default=5, gt=0, description="for one try to connect to Redis, TLS and password included"
    )
    redis_prefix: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9_.:-]{0,63}[_.:-])?$",
        description="stands before the name of every key, like shop:, so that shops can share a Redis",
    )
    shards: int = Field(
        default=16, ge=1, le=16384, description="parts of the live state; fixed in Redis at first start"
    )
    session_max_clicks: int = Field(default=50, ge=1, description="newest clicks kept of a session")
    session_max_event_ids: int = Field(
        default=1000, ge=1, description="newest event ids by which a session's clicks are known again"
    )
    session_max_logged: int = Field(
        default=1000, ge=1, description="clicks that a session may put into the click log before it ends"
    )
    session_ttl_seconds: int = Field(
        default=1800, ge=1, description="a session ends this long after its last click"
    )
    encoder_click_types: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("click",), min_length=1, description="click types that feed the encoder: a,b or a JSON list"
    )
    trending_half_life_seconds: float = Field(
        default=3600, gt=0, description="a click's weight halves in this time"
    )
    trending_max_items: int = Field(
        default=1000, ge=1, description="items kept per shard (up to twice as many)"
    )
    trending_refresh_seconds: float = Field(
        default=2, gt=0, description="how often a worker reads what is trending"
    )
    catalogue_file: Path | None = Field(
        default=None, description="declares a shop's own attributes; unset: catalogue.toml, if it is there"
    )
    catalogue_poll_seconds: float = Field(
        default=0.25, gt=0, description="how often a worker reads what has changed of items"
    )
    catalogue_max_body_bytes: int = Field(
        default=4_194_304, ge=1, description="larger bodies of a PUT of items are refused"
    )
    unknown_items: Literal["allow", "ignore", "refuse"] = Field(
        default="allow",
        description="clicks on items that no deployed bundle knows count, are only stored, or get a 422",
    )
    cold_min_sessions: int = Field(
        default=3, ge=0, description="an item that no bundle knows is answered from so many live sessions on"
    )
    cold_max_items: int = Field(
        default=500, ge=0, description="such items whose co-clicks are kept, per shard; 0 keeps none"
    )
    cold_max_neighbours: int = Field(
        default=50, ge=1, description="co-clicks kept of such an item, per shard (up to twice as many)"
    )
    quality_share: float = Field(
        default=0.1, ge=0, le=1, description="sessions whose answers are judged by their next click"
    )
    quality_window_seconds: int = Field(
        default=600, ge=1, description="an answer waits this long for the click that judges it"
    )
    click_log_max_entries_per_shard: int = Field(
        default=250_000, ge=1, description="clicks are refused beyond this"
    )
    click_log_max_age_seconds: float = Field(
        default=86400,
        gt=0,
        description="collected clicks stay in the log this long, so that a restored backup can be caught up",
    )
    click_retention_days: int | None = Field(
        default=None, ge=1, le=36500, description="collected clicks are deleted after it; unset: never"
    )
    durability: Literal["standard", "strict"] = Field(
        default="standard", description="standard survives the death of any process; strict also a power loss"
    )
    redis_max_bytes: int | None = Field(
        default=None, ge=1, description="memory of the private Redis; unset: half of what there is"
    )
    api_key: SecretStr | None = Field(
        default=None, description="key for clicks and recommendations; unset asks for none"
    )
    server_api_key: SecretStr | None = Field(
        default=None,
        description="key for batches of clicks and for reading or erasing a session; unset asks for api_key",
    )
    admin_api_key: SecretStr | None = Field(
        default=None, description="key for /admin; unset refuses /admin altogether"
    )
    shop_page: bool | None = Field(
        default=None,
        description="a shop to try, at /, with the public key in it; unset: where no key is asked for",
    )
    keys: Annotated[tuple[KeyEntry, ...], NoDecode] = Field(
        default=(),
        max_length=100,
        description="more keys, each with label, scope, key and perhaps origins: a JSON list",
    )
    redis_url_file: Path | None = Field(default=None, description="a file that holds redis_url")
    api_key_file: Path | None = Field(default=None, description="a file that holds api_key")
    server_api_key_file: Path | None = Field(default=None, description="a file that holds server_api_key")
    admin_api_key_file: Path | None = Field(default=None, description="a file that holds admin_api_key")
    keys_file: Path | None = Field(default=None, description="a TOML file that holds keys, as [[keys]]")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="origins whose pages may read answers: https://a.example,…; *: any"
    )
    public_session_ids: Literal["any", "random"] = Field(
        default="any",
        description="random refuses session ids from pages that are not of 22 or more of A-Z a-z 0-9 _ -",
    )
    rate_limit_per_minute: int = Field(
        default=0, ge=0, description="requests of one address, over all workers; 0 is no limit"
    )
    key_rate_limit_per_minute: int = Field(
        default=0, ge=0, description="requests with the shop's or the server's key, each; 0 is no limit"
    )
    wrong_keys_per_minute: int = Field(
        default=10, ge=0, description="wrong keys that one address may send; 0 is no limit"
    )
    max_requests_in_flight: int = Field(
        default=64, ge=1, description="per worker; more are refused with 503 until some are done"
    )
    max_body_bytes: int = Field(default=65536, ge=1, description="larger request bodies are refused")
    body_timeout_seconds: float = Field(
        default=10, gt=0, description="a request's whole body arrives within this time"
    )
    max_head_bytes: int = Field(
        default=32768, ge=512, description="first line and headers of a request; longer ones are refused"
    )
    head_timeout_seconds: float = Field(
        default=10, gt=0, description="a request's whole head arrives within this time"
    )
    max_connections: int = Field(
        default=900, ge=1, description="per worker; at the limit, idle ones make room for new ones"
    )
    keep_alive_seconds: float = Field(
        default=75, gt=0, description="an idle connection is kept open this long; longer than a balancer's"
    )
    root_path: str | None = Field(
        default=None, description="a path that the proxy before the service takes away, like /nextclick"
    )
    trusted_proxies: Annotated[tuple[str, ...] | None, NoDecode] = Field(
        default=None, description="addresses or networks whose X-Forwarded-For is believed: a,b; unset: none"
    )
    deployment_poll_seconds: float = Field(
        default=1, gt=0, description="how often a worker looks at deployment.json"
    )
    bundle_load_timeout_seconds: float = Field(
        default=300, gt=0, description="a bundle that takes longer to load is refused"
    )
    future_tolerance_seconds: float = Field(
        default=300, ge=0, description="clicks further ahead of the clock are refused"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="lowest level logged"
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto is console on a terminal and JSON lines elsewhere"
    )
    metrics_host: str = Field(default="127.0.0.1", description="address to tell metrics on")
    metrics_port: int = Field(
        default=9464, ge=0, le=65535, description="TCP port to tell metrics on, under /metrics; 0 tells none"
    )
    access_log_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="requests that get a line in the log; slow ones and 5xx always do",
    )
    access_log_slow_ms: float = Field(
        default=100, ge=0, description="a request that takes so long always gets its line"
    )
    metrics_dir: Path | None = Field(
        default=None, description="directory the workers share their metrics in; unset takes a temporary one"
    )
    shutdown_timeout_seconds: int = Field(
        default=15, ge=0, description="requests in flight get this long to finish"
    )

    @field_validator("artifacts_dir", mode="before")
    @classmethod
    def _a_directory(cls, value: object) -> object:
        if looks_like_url(str(value)):
            raise ValueError(NO_DIRECTORY)
        return value

    @field_validator("artifacts_url")
    @classmethod
    def _a_store(cls, value: str | None) -> str | None:
        if value is not None and not STORE_URL.fullmatch(value):
            raise ValueError(NO_STORE)
        return value

    @field_validator("encoder_click_types", "trusted_proxies", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            return json.loads(value)
        return [part.strip() for part in value.split(",")]

    @field_validator("encoder_click_types")
    @classmethod
    def _not_blank(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(value):
            raise ValueError("holds an empty click type")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for place, each in enumerate(value or (), 1):
            if each != "*":
                try:
                    ip_network(each)
                except ValueError:
                    # Not what it is: it may have been meant for another variable.
                    message = f"entry {place} is no address, no network (10.0.0.0/8), and not *"
                    raise ValueError(message) from None
        if value is not None and "*" in value and len(value) > 1:
            raise ValueError("* trusts everyone, and stands alone")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if ANY_ORIGIN in value:
            if len(value) > 1:
                raise ValueError("* lets in everyone, and stands alone")
            return value
        try:
            return tuple(_origin(each) for each in value)
        except ValueError as error:
            raise ValueError(f"an entry {error}") from None

    @field_validator("keys", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from None  # which tells where, and nothing of it

    @field_validator("keys")
    @classmethod
    def _told_apart(cls, value: tuple[KeyEntry, ...], info: ValidationInfo) -> tuple[KeyEntry, ...]:
        known = {name: info.data.get(field) for name, field in _SINGLE.items()}
        labels = {str(name): variable(_SINGLE[name]) for name, key in known.items() if key is not None}
        keys = {key for key in known.values() if key is not None}
        for place, each in enumerate(value, 1):
            if each.label in labels:
                raise ValueError(f"entry {place}: its label is that of {labels[each.label]}")
            if each.key in keys:
                raise ValueError(f"entry {place}: its key is that of another label")
            labels[each.label] = f"entry {place}"
            keys.add(each.key)
        return value

    @field_validator("root_path")
    @classmethod
    def _a_path(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", value):
            raise ValueError("must begin with a slash, end without one, and be plain, like /nextclick")
        return value

    @field_validator("redis_url")
    @classmethod
    def _unambiguous(cls, value: str | None) -> str | None:
        if value is not None:
            redis_url.parse(value)
        return value

    @property
    def every_key(self) -> list[KeyEntry]:
        """The three that have variables of their own, labelled by their scopes, and all others."""
        single = [
            KeyEntry.model_construct(label=scope, scope=scope, key=key, origins=())
            for scope, field in _SINGLE.items()
            if (key := getattr(self, field)) is not None
        ]
        return [*single, *self.keys]


_SINGLE: dict[Caller, str] = {"public": "api_key", "server": "server_api_key", "admin": "admin_api_key"}


def load_settings() -> Settings:
    """Read the environment. Raises `SettingsError` naming each variable that is wrong or unknown."""
    problems = list(_unknown_variables())
    secrets = _Files()
    problems += secrets.problems
    try:
        settings = Settings(**secrets.found)
    except ValidationError as error:
        for detail in error.errors(include_input=False, include_url=False):
            field, *inside = detail["loc"]
            name = variable(str(field))
            if name.removeprefix(PREFIX).lower() in secrets.found:
                name += FILE
            elif name == REDIS_URL and not os.environ.get(REDIS_URL):
                name = "REDIS_URL"
            message = detail["msg"].removeprefix("Value error, ")
            if inside:
                place, *rest = inside
                where = f"entry {place + 1}" if isinstance(place, int) else str(place)
                message = ": ".join([where, *map(_part, rest), message])
            problems.append(f"{name}: {message}")
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def _part(part: str | int) -> str:
    """A field of an entry; any other name in there somebody made up, and it may be a secret."""
    return str(part) if isinstance(part, int) or part in KeyEntry.model_fields else "an unknown field"


class _Files:
    """What is secret and was put into files, as Docker and Kubernetes do it."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self.problems: list[str] = []
        given = {name.upper(): value for name, value in os.environ.items() if value}
        for field in SECRETS:
            name = variable(field)
            path = given.get(name + FILE)
            if path is None:
                continue
            if name in given or (field == "redis_url" and "REDIS_URL" in given):
                self.problems.append(f"{name}{FILE}: {name} is set too: set one of them")
                continue
            try:
                text = Path(path).read_text(encoding="utf-8").strip()
                if field == "keys":
                    self.found[field] = _keys_of(text)
                elif text:
                    self.found[field] = text
                else:
                    self.problems.append(f"{name}{FILE}: the file is empty")
            except OSError as error:
                self.problems.append(f"{name}{FILE}: cannot be read: {error.strerror}")
            except ValueError as error:
                self.problems.append(f"{name}{FILE}: {error}")


def _keys_of(text: str) -> object:
    """Raises `ValueError` that holds nothing of what stands there."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at (line \d+), column \d+\)$|\(at end of document\)$", str(error))
        raise ValueError(f"not TOML{f': {place[1]}' if place and place[1] else ''}") from None
    if content.keys() - {"keys"} or not isinstance(content.get("keys", []), list):
        raise ValueError("holds something else than [[keys]]")
    return content.get("keys", [])


def looks_like_url(path: str) -> bool:
    """Whether a path was meant for a URL, also when a `Path` has made one slash of two."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path) is not None


def artifacts_url() -> str | None:
    """NEXTCLICK_ARTIFACTS_URL, for commands that read no other setting. Raises `SettingsError`."""
    name = variable("artifacts_url")
    url = os.environ.get(name) or None
    if url is not None and not STORE_URL.fullmatch(url):
        raise SettingsError(f"{name}: {NO_STORE}")
    return url


def variable(field: str) -> str:
    """The environment variable of a field."""
    return REDIS_URL if field == REDIS_URL else PREFIX + field.upper()


def describe(settings: Settings) -> str:
    """A table of name, value, default and meaning. Secrets are masked."""
    rows = [("VARIABLE", "VALUE", "DEFAULT", "MEANING")]
    for field, info in Settings.model_fields.items():
        value, default = _shown(getattr(settings, field)), _shown(info.default)
        if field == "redis_url" and settings.redis_url is not None:
            value = redis_url.without_password(settings.redis_url)
        rows.append((variable(field), value, default, info.description or ""))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join([*map(str.ljust, row, widths), row[3]]) for row in rows)


def _shown(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "-"
    return str(value)


def _unknown_variables() -> Iterator[str]:
    known = [variable(field).removeprefix(PREFIX) for field in Settings.model_fields]
    for name in sorted(os.environ):
        setting = name.upper().removeprefix(PREFIX)
        if name.upper().startswith(PREFIX) and setting not in known:
            near = [PREFIX + match for match in difflib.get_close_matches(setting, known)]
            hint = f"did you mean {' or '.join(near)}?" if near else "--print-settings lists them all"
            yield f"{name}: unknown setting: {hint}"
