"""The URL of a Redis server, and the options that it may have."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from contextlib import suppress
from math import isfinite
from typing import Any, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio import ConnectionPool

# Arguments of redis-py's connections that nobody can write in a URL.
_OBJECTS = {
    "credential_provider",
    "driver_info",
    "encoder_class",
    "event_dispatcher",
    "himport_registry",
    "parser_class",
    "redis_connect_func",
    "retry",
    "retry_on_error",
    "socket_keepalive_options",
    "socket_type",
}
# Arguments of redis-py's pool.
_OF_THE_POOL = {"max_connections"}


def split(url: str) -> SplitResult:
    """Returns the parts of a URL.

    Raises:
        ValueError: it is none. The message has nothing of it, because that may be a password.
    """
    try:
        parts = urlsplit(url)
        if "," not in parts.netloc:  # of several hosts each is read by itself
            _ = parts.port
    except ValueError:
        raise not_a_url() from None
    # Otherwise it is the rest of a password, or what redis-py would not read.
    path = "" if parts.scheme == "unix" else parts.path
    if parts.fragment or "@" in path + parts.query:
        raise not_a_url()
    return parts


def not_a_url() -> ValueError:
    """Returns the error for a URL of which nothing may be shown, because it may be a password."""
    return ValueError(
        "'broker' is not the URL of a Redis server; in a user or a password '#', '/', '?' and '@'"
        " are written as %23, %2F, %3F and %40"
    )


def read_url(
    url: str, scheme: str | None = None, prefix: str = ""
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Returns the class of redis-py's connections to a server, and its options.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        scheme: As the user has given it; that of the URL if it is left out.
        prefix: What the user has written before the name of each option.

    Raises:
        ValueError: the URL is none, or has an option that redis-py does not take for its scheme.
            The message has no value of an option: it may be a password.
    """
    parts = split(url)
    scheme = scheme or parts.scheme
    if "," in parts.netloc.rpartition("@")[2]:
        raise ValueError(
            "'broker' has several hosts, which only redis+sentinel:// and redis+cluster:// take"
        )
    _check_database(parts)
    try:
        kind = _pool(f"{parts.scheme}://localhost").connection_class
    except ValueError:
        raise not_a_url() from None
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _names(kind):
            raise ValueError(_unknown(name, scheme, _names(kind), prefix))
        _try(f"{parts.scheme}://localhost?{urlencode({name: value})}", name, prefix)
    pool = _try(url)
    for name, value in pool.connection_kwargs.items():
        if isinstance(value, float) and not isfinite(value):
            raise ValueError(f"'broker' has the option '{prefix}{name}', which must be finite")
    return pool.connection_class, pool.connection_kwargs


def _try(url: str, option: str = "", prefix: str = "") -> Any:
    """Returns redis-py's pool of connections, after a look at whether they can be made.

    Args:
        option: The one that the URL has; "" for all of them.
    """
    try:
        pool = _pool(url)
        connection = pool.connection_class(**pool.connection_kwargs)
        connection.encoder.encode("")
        if option.startswith("ssl"):
            with suppress(OSError):  # a file that is not there may come
                connection.ssl_context.get()
    except Exception:  # of redis-py, or of Python where a value has the wrong type
        of_what = f"the option '{prefix}{option}'" if option else "its options"
        raise ValueError(f"'broker' is refused by redis-py for the value of {of_what}") from None
    return pool


def _pool(url: str) -> Any:
    return cast(Any, ConnectionPool).from_url(url)


def _names(kind: type) -> set[str]:
    """Returns the names of the options of a class of connections."""
    names = set(_OF_THE_POOL)
    for each in kind.__mro__:
        parameters = inspect.signature(vars(each)["__init__"]).parameters
        kinds = {name: parameter.kind for name, parameter in parameters.items()}
        names.update(kinds)
        rest = [name for name, kind in kinds.items() if kind is inspect.Parameter.VAR_KEYWORD]
        if not rest:  # the next of the classes is given nothing more
            break
        names.difference_update(rest)
    return names - _OBJECTS - {"self"}


def _unknown(name: str, scheme: str, names: set[str], prefix: str) -> str:
    near = difflib.get_close_matches(name, sorted(names), 1)
    hint = f"; did you mean '{prefix}{near[0]}'?" if near else ""
    if name.startswith("ssl") and not any(each.startswith("ssl") for each in names):
        hint = "; for TLS the URL begins with rediss"
    return (
        f"'broker' has the option '{prefix}{name}', which redis-py does not take for"
        f" {scheme}://{hint}"
    )


def _check_database(parts: SplitResult) -> None:
    """Raises ValueError where redis-py would take database 0 without a word."""
    database = unquote(parts.path).removeprefix("/").removesuffix("/")
    if parts.scheme != "unix" and database and not (database.isascii() and database.isdigit()):
        raise ValueError(
            "'broker' must end with the number of a database, as in redis://localhost/0"
        )
