"""The URL of a Redis server is read where it is given: without a connection, and whole."""

from __future__ import annotations

import pytest

from sserpent.channels import Channels

pytestmark = pytest.mark.once

SCHEMES = {
    "redis": "redis://user:secret@localhost:6379/0",
    "rediss": "rediss://user:secret@localhost:6379/0",
    "unix": "unix://user:secret@/run/redis.sock",
    "sentinel": "redis+sentinel://user:secret@localhost,other:26380/main/0",
    "sentinel-tls": "rediss+sentinel://user:secret@localhost/main",
    "cluster": "redis+cluster://user:secret@localhost:6379,other:6380",
    "cluster-tls": "rediss+cluster://user:secret@localhost/0",
}


def error_of(url: str) -> str:
    with pytest.raises(ValueError, match="'broker'") as raised:
        Channels(url)
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None
    return str(raised.value)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("family=0", "family"),
        ("timeout=5", "timeout"),
        ("socket_timout=5", "socket_timout"),
        ("client_name=me&famly=", "famly"),
        ("self=1", "self"),
        ("parser=x", "parser"),
        ("parser_class=x", "parser_class"),
        ("connection_class=x", "connection_class"),
        ("retry=x", "retry"),
        ("socket_keepalive_options=x", "socket_keepalive_options"),
        ("db=secret", "db"),
        ("socket_read_size=secret", "socket_read_size"),
        ("encoding=secret", "encoding"),
        ("max_connections=secret", "max_connections"),
    ],
)
def test_an_option_that_redis_py_does_not_take_is_named(scheme: str, query: str, name: str) -> None:
    error = error_of(f"{SCHEMES[scheme]}?{query}")
    assert f"option '{name}'" in error
    if "secret" not in query:
        assert f"{SCHEMES[scheme].partition('://')[0]}://" in error


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("redis://localhost?socket_timout=5", "did you mean 'socket_timeout'?"),
        ("redis://localhost?ssl=true", "for TLS the URL begins with rediss"),
        ("rediss://localhost?ssl_cert_reqs=secret", "option 'ssl_cert_reqs'"),
        ("rediss://localhost?ssl_min_version=9", "option 'ssl_min_version'"),
        ("redis://localhost?path=/run/redis.sock", "option 'path'"),
        ("unix:///run/redis.sock?port=1", "option 'port'"),
        ("redis://localhost/rooms", "the number of a database"),
        ("redis+sentinel://localhost/main/rooms", "the number of a database"),
        ("redis+sentinel://localhost", "host:26379/service/0"),
        ("redis+sentinel://localhost/", "host:26379/service/0"),
        ("redis+sentinel://localhost//0", "host:26379/service/0"),
        (
            "redis+sentinel://localhost/main?sentinel_pasword=secret",
            "which redis-py does not take for redis+sentinel://; did you mean 'sentinel_password'?",
        ),
        (
            "redis+sentinel://localhost/main?sentinel_ssl_cert_reqs=secret",
            "'sentinel_ssl_cert_reqs'",
        ),
        ("redis+sentinel://localhost/main?sentinel_retry=secret", "option 'sentinel_retry'"),
        ("redis://localhost?sentinel_password=secret", "option 'sentinel_password'"),
        ("redis://user:secret@one:6379,two:6380/0", "has several hosts, which only redis+sentinel"),
        ("rediss://one,two/0", "has several hosts"),
        ("redis://localhost/0/1", "the number of a database"),
        ("rediss://localhost//1", "the number of a database"),
        ("redis+sentinel://localhost/main/0/1", "the number of a database"),
        ("redis+cluster://localhost/1", "no database but 0"),
        ("redis+cluster://localhost?db=1", "no database but 0"),
        ("redis://localhost?socket_connect_timeout=nan", "'socket_connect_timeout', which must be"),
        ("redis+cluster://localhost?socket_timeout=inf", "'socket_timeout', which must be finite"),
    ],
)
def test_the_error_says_what_to_do(url: str, error: str) -> None:
    assert error in error_of(url)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+sentinel", "redis+cluster"])
@pytest.mark.parametrize("password", ["#secret", "/secret", "?secret", "1/secret", "1?secret=x"])
def test_a_password_that_is_not_quoted_is_not_shown(scheme: str, password: str) -> None:
    assert "%23, %2F, %3F" in error_of(f"{scheme}://:{password}@localhost/main/0")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "query", ["", "?client_name=me", "?socket_connect_timeout=3&health_check_interval=10", "?db=0"]
)
def test_what_redis_py_takes_is_taken(scheme: str, query: str) -> None:
    Channels(SCHEMES[scheme] + query)


@pytest.mark.parametrize(
    "url",
    [
        "rediss://localhost?ssl_cert_reqs=none&ssl_ca_certs=/not/there",
        "redis://localhost?max_connections=3",
        "redis://localhost/",
        "redis://localhost/1/",
        "redis://us%40er:%23%2F%3F%40@localhost/3",
        "redis://[::1]:6380",
        "redis+cluster://[::1]:6380",
        "redis+sentinel://one,two/main?sentinel_username=user&sentinel_password=secret",
        "rediss+sentinel://[::1]/main/2?ssl_cert_reqs=none&sentinel_ssl_cert_reqs=none&db=2",
        "unix:///run/redis.sock?db=3&username=user&password=secret",
    ],
)
def test_such_urls_are_right(url: str) -> None:
    Channels(url)
