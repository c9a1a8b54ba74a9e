"""The URL of a Redis: what could be read in two ways is refused, and no secret of it is ever told.

redis://[user:password@]host[:port][/database]
rediss://[user:password@]host[:port][/database][?ssl_...=...]
unix://[user:password@]/path/of/socket[?db=database]
redis+sentinel://[user:password@]host[:26379][,host[:port] ...]/service[/database]
rediss+sentinel://...                  the same, all by TLS
redis+cluster://[user:password@]host[:6379][,host[:port] ...]
rediss+cluster://...                   the same, all by TLS

`user` may be empty. `username`, `password` and `db` may be options instead. The hosts of `+sentinel` are
sentinels, who know where the primary of `service` is; user and password are the primary's, and the sentinels'
own ones are the options `sentinel_username` and `sentinel_password`. The hosts of `+cluster` are some of a
Redis Cluster's, of whom one has to answer; it has no databases.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

MASK = "**********"  # as pydantic shows a secret
SENTINEL, CLUSTER = "+sentinel", "+cluster"
SCHEMES = (
    "redis",
    "rediss",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
    "unix",
)
PORT, SENTINEL_PORT = 6379, 26379
QUOTE = "in a password write % as %25, @ as %40, / as %2F, # as %23, ? as %3F, & as %26, + as %2B, : as %3A"


class RedisUrlError(ValueError):
    """No URL of a Redis, or one that could be read in two ways; the message holds nothing of it."""


def _matches(pattern: str) -> Callable[[str], object]:
    return re.compile(pattern).fullmatch


_is_host = _matches(r"\[[0-9A-Fa-f:.]+\]|[\w.-]+")
_is_service = _matches(r"[\w.-]+")
_is_port = _matches(r"0*[1-9][0-9]{0,4}")
_is_database = _matches("[0-9]{1,9}")
_is_something = _matches("(?s:.+)")
_OPTIONS = {"db": _is_database, "username": _is_something, "password": _is_something}
_TLS_OPTIONS = {
    "ssl_ca_certs": _is_something,
    "ssl_ca_path": _is_something,
    "ssl_ca_data": _is_something,
    "ssl_certfile": _is_something,
    "ssl_keyfile": _is_something,
    "ssl_password": _is_something,
    "ssl_cert_reqs": _matches("none|optional|required"),
    "ssl_check_hostname": _matches("(?i:true|false|yes|no|1|0)"),
    "ssl_min_version": _matches("77[12]"),  # TLS 1.2 and 1.3, as `ssl.TLSVersion` numbers them
    "ssl_ciphers": _is_something,
}
_SENTINEL_OPTIONS = {"sentinel_username": _is_something, "sentinel_password": _is_something}
_SECRETS = ("password", "ssl_password", "sentinel_password")


@dataclass(frozen=True)
class Sentinels:
    """Whom to ask where a primary is."""

    places: tuple[tuple[str, int], ...]
    service: str
    username: str | None
    password: str | None = field(repr=False)


@dataclass(frozen=True)
class RedisUrl:
    """A URL that can be read in one way only, by redis-py, too."""

    text: str = field(repr=False)
    shown: str  # fit to be printed
    password: str = field(repr=False)  # '' when there is none
    sentinels: Sentinels | None = None
    cluster: tuple[tuple[str, int], ...] | None = None  # hosts and ports of some of its servers

    def at(self, host: str, port: int) -> str:
        """The URL of a primary that sentinels have found, or of one of a cluster's servers."""
        scheme, _, rest = self.text.partition("://")
        rest, _, query = rest.partition("?")
        authority, _, path = rest.partition("/")
        login, at, _ = authority.rpartition("@")
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        database = path.partition("/")[2]
        own = "&".join(each for each in query.split("&") if not each.startswith("sentinel_"))
        plain = scheme.partition("+")[0]
        return f"{plain}://{login}{at}{place}/{database}?{own}"

    def without_secrets(self, message: str) -> str:
        """What Redis said, which may quote what it was sent."""
        for secret in (self.password, self.sentinels and self.sentinels.password):
            message = message.replace(secret, MASK) if secret else message
        return message


def parse(url: str) -> RedisUrl:
    """Raises `RedisUrlError`."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise RedisUrlError(f"must start with {'://, '.join(SCHEMES[:-1])}:// or {SCHEMES[-1]}://")
    _check_characters(url)
    rest, question, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    login, _, where = authority.rpartition("@")
    is_socket, is_sentinel, is_cluster = scheme == "unix", scheme.endswith(SENTINEL), scheme.endswith(CLUSTER)
    if "@" in login + query or ("@" in path and not is_socket):
        raise RedisUrlError(f"holds an @ too many, or a / or ? before it: {QUOTE}")
    if (is_sentinel or is_cluster) and "," in login:
        raise RedisUrlError("has user and password not before the first host; a , of a password is %2C")
    if is_socket:
        if where or not path or not unquote(path).isprintable():
            raise RedisUrlError(f"names no socket, as in unix:///run/redis.sock: {QUOTE}")
        database = ""
    else:
        is_list = is_sentinel or is_cluster
        places = [_place(each) for each in where.split(",")] if is_list else [_place(where)]
        service, _, database = path.partition("/") if is_sentinel else ("", "", path)
        if is_sentinel and not _is_service(service):
            raise RedisUrlError(f"names no service, as in {scheme}://host:{SENTINEL_PORT}/service: {QUOTE}")
        if is_cluster and slash:
            raise RedisUrlError("names a database, which a cluster has none of")
        if (database or path.endswith("/")) and not _is_database(database):
            raise RedisUrlError(f"its path is no number of a database, as in redis://host:6379/0: {QUOTE}")
    options = _options(scheme, query) if query else {}
    if database and "db" in options:
        raise RedisUrlError("names a database twice: by its path, and by the option db")
    password = _checked_login(login, "@" in authority, options)
    shown_login = f"{login.partition(':')[0]}{f':{MASK}' if ':' in login else ''}"
    shown_options = "&".join(f"{name}={MASK if name in _SECRETS else it}" for name, it in options.items())
    shown = (
        f"{scheme}://{shown_login}{'@' if shown_login else ''}{where}{slash}{path}{question}{shown_options}"
    )
    if is_cluster:
        cluster = tuple((host, port or PORT) for host, port in places)
        return RedisUrl(url, shown, password, cluster=cluster)
    if not is_sentinel:
        return RedisUrl(url, shown, password)
    sentinels = Sentinels(
        tuple((host, port or SENTINEL_PORT) for host, port in places),
        service,
        options.get("sentinel_username"),
        options.get("sentinel_password"),
    )
    return RedisUrl(url, shown, password, sentinels)


def without_password(url: str) -> str:
    """A URL fit to be printed; one that cannot be read might hold its password anywhere."""
    try:
        return parse(url).shown
    except RedisUrlError:
        return MASK


def _check_characters(url: str) -> None:
    if not url.isprintable() or set(url) & set(' #\\"<>^`{|}'):
        raise RedisUrlError(f"holds a space, a # or another character that has to be quoted: {QUOTE}")
    if re.search("%(?![0-9A-Fa-f]{2})", url):
        raise RedisUrlError(f"holds a % that quotes nothing: {QUOTE}")
    try:
        unquote(url, errors="strict")
        scheme, _, rest = url.partition("://")
        is_list = scheme.endswith((SENTINEL, CLUSTER))
        for part in rest.split(",") if is_list else [rest]:  # of many hosts, one in brackets would do
            urlsplit(f"//{part}")  # as redis-py will
    except ValueError:
        raise RedisUrlError(f"its user, password or host cannot be read: {QUOTE}") from None


def _place(where: str) -> tuple[str, int]:
    """Host and port, which is 0 when there is none."""
    bracket = where.rfind("]") + 1
    name, colon, port = where[bracket:].partition(":")
    host = where[:bracket] + name
    if not _is_host(host):
        raise RedisUrlError(f"names no host, as in redis://host:6379/0: {QUOTE}")
    if colon and not (_is_port(port) and int(port) < 65536):
        raise RedisUrlError(f"its port is no number from 1 to 65535: {QUOTE}")
    return host.strip("[]"), int(port or 0)


def _options(scheme: str, query: str) -> dict[str, str]:
    known = dict(_OPTIONS)
    if scheme.startswith("rediss"):
        known |= _TLS_OPTIONS
    if scheme.endswith(SENTINEL):
        known |= _SENTINEL_OPTIONS
    if scheme.endswith(CLUSTER):
        del known["db"]
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise RedisUrlError(f"its options cannot be read, as in ?db=0: {QUOTE}") from None
    if "+" in query:
        raise RedisUrlError(f"holds a + in its options, which some read as a space: {QUOTE}")
    for name, it in pairs:
        if name not in known:
            raise RedisUrlError(f"{scheme}:// has no options but {', '.join(known)}: {QUOTE}")
        if not known[name](it):
            raise RedisUrlError(f"its option {name} has a value that makes no sense")
    if len(dict(pairs)) < len(pairs):
        raise RedisUrlError("has an option twice")
    return dict(pairs)


def _checked_login(login: str, is_given: bool, options: dict[str, str]) -> str:
    """The password."""
    user, colon, password = login.partition(":")
    if colon and not password:
        raise RedisUrlError("its password is empty")
    if (user and "username" in options) or (password and "password" in options):
        raise RedisUrlError("names a user or a password twice: before the host, and as an option")
    if "sentinel_username" in options and "sentinel_password" not in options:
        raise RedisUrlError("names a user of the sentinels without a password")
    found = unquote(password) or options.get("password", "")
    if (is_given or "username" in options) and not found:
        raise RedisUrlError("names a user without a password; a password alone is written :password@")
    return found
