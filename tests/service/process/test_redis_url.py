"""Redis URLs: whatever could be read in two ways is refused, and nothing of a secret is told."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from redis.asyncio.connection import parse_url

from service.process.redis_url import MASK, SCHEMES, RedisUrlError, Sentinels, parse, without_password
from service.process.settings import Settings

SECRET = "hush-hush"


@pytest.mark.parametrize(
    ("url", "read", "shown"),
    [
        ("redis://host", {"host": "host"}, None),
        ("redis://host:6379/", {"host": "host", "port": 6379}, None),
        ("redis://10.0.0.1:6380/15", {"host": "10.0.0.1", "port": 6380, "db": 15}, None),
        ("redis://[::1]:6380/0", {"host": "::1", "port": 6380, "db": 0}, None),
        ("redis://my_redis.example?db=3", {"host": "my_redis.example", "db": 3}, None),
        ("redis://:hush@host", {"host": "host", "password": "hush"}, f"redis://:{MASK}@host"),
        (
            "redis://me:hu:sh@host/1",
            {"host": "host", "username": "me", "password": "hu:sh", "db": 1},
            f"redis://me:{MASK}@host/1",
        ),
        (
            "rediss://me:h%40%2F%23%3F%25sh@host:1",
            {"host": "host", "port": 1, "username": "me", "password": "h@/#?%sh"},
            f"rediss://me:{MASK}@host:1",
        ),
        (
            "redis://host?username=me&password=hu%2Bsh",
            {"host": "host", "username": "me", "password": "hu+sh"},
            f"redis://host?username=me&password={MASK}",
        ),
        ("unix:///run/user@1000/redis.sock", {"path": "/run/user@1000/redis.sock"}, None),
        ("unix:///a%20b/redis.sock?db=2", {"path": "/a b/redis.sock", "db": 2}, None),
        (
            "unix://me@/tmp/redis.sock?db=1&password=hush",
            {"path": "/tmp/redis.sock", "username": "me", "password": "hush", "db": 1},
            f"unix://me@/tmp/redis.sock?db=1&password={MASK}",
        ),
        (
            "unix://:hush@/tmp/redis.sock",
            {"path": "/tmp/redis.sock", "password": "hush"},
            f"unix://:{MASK}@/tmp/redis.sock",
        ),
        (
            "rediss://host?ssl_cert_reqs=none&ssl_check_hostname=false&ssl_min_version=771&ssl_password=hush",
            {
                "host": "host",
                "ssl_cert_reqs": "none",
                "ssl_check_hostname": False,
                "ssl_min_version": 771,
                "ssl_password": "hush",
            },
            "rediss://host?ssl_cert_reqs=none&ssl_check_hostname=false&ssl_min_version=771"
            f"&ssl_password={MASK}",
        ),
    ],
)
def test_what_is_accepted_is_read_so_and_shown_so(url: str, read: dict[str, Any], shown: str | None) -> None:
    assert Settings(redis_url=url).redis_url == url
    assert {name: it for name, it in parse_url(url).items() if name != "connection_class"} == read
    assert without_password(url) == (shown or url)


REFUSED = [
    # a password that is not quoted
    f"redis://:{SECRET}@{SECRET}@host",
    f"redis://me:{SECRET}@{SECRET}@host:6379/0",
    f"redis://:{SECRET}/{SECRET}@host:6379/0",
    f"redis://:1/{SECRET}@host:6379/0",
    f"redis://:1/2{SECRET}",
    f"redis://:{SECRET}#{SECRET}@host:6379/0",
    f"redis://:{SECRET}@host:6379/0#{SECRET}",
    f"redis://:{SECRET}?{SECRET}@host:6379/0",
    f"redis://:1?db={SECRET}@host",
    f"redis://:{SECRET}\\{SECRET}@host",
    f"redis://:{SECRET} {SECRET}@host",
    f"redis://:{SECRET}[{SECRET}@host",
    f"redis://:{SECRET}%{SECRET}@host",
    f"redis://:{SECRET}%zz@host",
    f"redis://:{SECRET}%FF@host",
    f"redis://:{SECRET}\n@host",
    f"redis://:{SECRET}\t@host",
    f"redis://:{SECRET}\x00@host",
    f"redis://:{SECRET}\udcff@host",
    f"unix://:{SECRET}/{SECRET}@/run/redis.sock",
    f"unix:///run/redis.sock?password={SECRET}&{SECRET}",
    f"unix:///run/redis.sock?password={SECRET}+{SECRET}",
    f"unix:///run/redis.sock?password={SECRET}#{SECRET}",
    f"unix:///run/redis.sock?password={SECRET}@host",
    # a user, or a password in the wrong place
    f"redis://{SECRET}@host",
    f"redis://{SECRET}:@host",
    "redis://:@host",
    "redis://@host",
    f"redis://host?username={SECRET}",
    "redis://host?password=",
    f"redis://:{SECRET}@host?password={SECRET}",
    f"redis://me:{SECRET}@host?username={SECRET}",
    f"redis://host?password={SECRET}&password={SECRET}",
    # a database
    f"redis://host/{SECRET}",
    "redis://host/abc",
    "redis://host/-1",
    "redis://host/1/2",
    "redis://host//1",
    "redis://host/1.5",
    "redis://host/%31",
    "redis://host/٣",
    "redis://host/1?db=1",
    "redis://host?db=",
    "redis://host?db=abc",
    "redis://host?db=-1",
    f"unix:///run/redis.sock?db={SECRET}",
    # a host, a port
    "redis://",
    "redis:///0",
    "redis://:6379",
    "redis://host:",
    "redis://host:0",
    "redis://host:65536",
    "redis://host:-1",
    "redis://host:6379:6379",
    f"redis://host:{SECRET}",
    f"redis://{SECRET}:{SECRET}",
    "redis://ho%73t",
    "redis://[::1",
    "redis://::1",
    "redis://[]:1",
    "redis://one,two",
    # options
    f"redis://host?{SECRET}=1",
    f"redis://host?{SECRET}",
    "redis://host?timeout=1",
    "redis://host?ssl_cert_reqs=none",
    "redis://host?DB=1",
    "unix:///run/redis.sock?ssl_cert_reqs=none",
    "rediss://host?ssl_cert_req=none",
    f"rediss://host?ssl_cert_reqs={SECRET}",
    "rediss://host?ssl_check_hostname=perhaps",
    "rediss://host?ssl_min_version=1",
    "rediss://host?ssl_ca_certs=",
    # sentinels
    f"redis+sentinel://:{SECRET}/{SECRET}@host/shop",
    f"redis+sentinel://:{SECRET}@{SECRET}@host/shop",
    f"redis+sentinel://{SECRET}@host/shop",
    "redis+sentinel://host",
    "redis+sentinel://host/",
    "redis+sentinel://host//1",
    f"redis+sentinel://host/shop/{SECRET}",
    "redis+sentinel://host/shop/1/2",
    "redis+sentinel://host/shop/1?db=1",
    "redis+sentinel://one,,two/shop",
    "redis+sentinel://one,two:0/shop",
    f"redis+sentinel://one:1,:{SECRET}@two:2/shop",
    "redis+sentinel://host/sh%20op",
    "redis+sentinel://host/shop?ssl_cert_reqs=none",
    f"redis+sentinel://host/shop?sentinel_username={SECRET}",
    f"redis+sentinel://host/shop?sentinel_{SECRET}=1",
    f"redis://host?sentinel_password={SECRET}",
    f"sentinel://:{SECRET}@host/shop",
    # a cluster
    f"redis+cluster://{SECRET}@host",
    f"redis+cluster://:{SECRET}/{SECRET}@host",
    f"redis+cluster://one:1,:{SECRET}@two:2",
    "redis+cluster://host/0",
    "redis+cluster://host/",
    "redis+cluster://host?db=0",
    "redis+cluster://one,,two",
    "redis+cluster://host:0",
    "redis+cluster://host?ssl_cert_reqs=none",
    f"cluster://:{SECRET}@host",
    # a socket
    "unix://",
    f"unix://{SECRET}",
    f"unix://{SECRET}/redis.sock",
    "unix:///run/%00.sock",
    # a scheme
    f"http://:{SECRET}@host",
    f"redis:/:{SECRET}@host",
    f"redis:{SECRET}@host",
    f":{SECRET}@host:6379",
    "localhost:6379",
    "host",
    "",
]


@pytest.mark.parametrize("url", REFUSED)
def test_what_is_refused_is_told_nowhere(url: str) -> None:
    with pytest.raises(RedisUrlError) as refused:
        parse(url)
    with pytest.raises(ValidationError) as invalid:
        Settings(redis_url=url)
    for said in (str(refused.value), str(invalid.value), repr(invalid.value), without_password(url)):
        assert SECRET not in said
    assert without_password(url) == MASK


@pytest.mark.parametrize(
    ("url", "sentinels", "at", "shown"),
    [
        (
            "redis+sentinel://one/shop",
            Sentinels((("one", 26379),), "shop", None, None),
            "redis://p:1/?",
            None,
        ),
        (
            "redis+sentinel://me:hu%40sh@one:1,[::1]:2,three/my.shop/3?sentinel_password=h%40sh&sentinel_username=m",
            Sentinels((("one", 1), ("::1", 2), ("three", 26379)), "my.shop", "m", "h@sh"),
            "redis://me:hu%40sh@p:1/3?",
            f"redis+sentinel://me:{MASK}@one:1,[::1]:2,three/my.shop/3"
            f"?sentinel_password={MASK}&sentinel_username=m",
        ),
        (
            "rediss+sentinel://:h@one/shop?db=1&sentinel_password=hush&ssl_ca_certs=/ca.pem",
            Sentinels((("one", 26379),), "shop", None, "hush"),
            "rediss://:h@p:1/?db=1&ssl_ca_certs=/ca.pem",
            f"rediss+sentinel://:{MASK}@one/shop?db=1&sentinel_password={MASK}&ssl_ca_certs=/ca.pem",
        ),
    ],
)
def test_sentinels_are_read_so_and_shown_so(
    url: str, sentinels: Sentinels, at: str, shown: str | None
) -> None:
    parsed = parse(url)
    assert (Settings(redis_url=url).redis_url, parsed.sentinels, parsed.at("p", 1)) == (url, sentinels, at)
    assert parsed.shown == (shown or url)
    assert parse(parsed.at("::1", 2)).text == parsed.at("::1", 2), "is a URL, too"
    assert (sentinels.password or SECRET) not in repr(parsed)
    quoted = [secret for secret in (parsed.password, sentinels.password) if secret]
    assert not any(secret in parsed.without_secrets(f"unknown: '{secret}'") for secret in quoted)


def test_clusters_are_read_so_and_shown_so() -> None:
    url = "rediss+cluster://me:hu%40sh@one,[::1]:2?ssl_ca_certs=/ca.pem"
    parsed = parse(url)
    assert (Settings(redis_url=url).redis_url, parsed.cluster) == (url, (("one", 6379), ("::1", 2)))
    assert parsed.at("p", 1) == "rediss://me:hu%40sh@p:1/?ssl_ca_certs=/ca.pem"
    assert parsed.shown == f"rediss+cluster://me:{MASK}@one,[::1]:2?ssl_ca_certs=/ca.pem"
    assert parsed.without_secrets("unknown: 'hu@sh'") == f"unknown: '{MASK}'"


def test_no_repr_tells_a_secret() -> None:
    url = f"redis://me:{SECRET}@host"
    assert SECRET not in repr(Settings(redis_url=url)) + str(Settings(redis_url=url)) + repr(parse(url))


PASSWORDS = st.text(st.characters(codec="utf-8"), min_size=1)


@given(password=PASSWORDS, scheme=st.sampled_from(["redis", "rediss"]))
def test_a_quoted_password_is_read_as_it_is(password: str, scheme: str) -> None:
    url = f"{scheme}://me:{quote(password, safe='')}@host:6379/1"
    parsed = parse(url)
    assert (parsed.password, parse_url(url)["password"]) == (password, password)
    assert (parse_url(url)["host"], parse_url(url)["db"]) == ("host", 1)
    assert parsed.shown == f"{scheme}://me:{MASK}@host:6379/1"
    assert parsed.without_secrets(f"unknown: `{password}`").count(MASK) >= 1
    socket = f"unix:///redis.sock?password={quote(password, safe='')}"
    assert (parse(socket).password, parse_url(socket)["password"]) == (password, password)
    assert parse(socket).shown == f"unix:///redis.sock?password={MASK}"


@given(password=st.text(st.sampled_from("ab1%2@/#?:&=+[] \\\n.,;é"), min_size=1, max_size=12))
def test_an_unquoted_password_is_refused_or_read_as_quoted(password: str) -> None:
    """Of what is accepted, we, redis-py and whoever prints it read the same."""
    url = f"redis://me:{password}@host:6379/1"
    try:
        parsed = parse(url)
    except RedisUrlError:
        return
    read = parse_url(url)
    assert (read["username"], read["password"], read["host"], read["db"]) == (
        "me",
        parsed.password,
        "host",
        1,
    )
    assert parsed.shown == f"redis://me:{MASK}@host:6379/1"


@given(url=st.builds("{}://{}".format, st.sampled_from(SCHEMES), st.text()))
def test_any_text_is_read_or_refused(url: str) -> None:
    try:
        parsed = parse(url)
    except RedisUrlError:
        return
    has_own_place = parsed.sentinels is None and parsed.cluster is None
    url = url if has_own_place else parsed.at("host", 1)
    assert (parse_url(url).get("password") or "") == parsed.password
