"""What channels refuse, by name, where it is given."""

from __future__ import annotations

import math
from typing import Any, get_args
from uuid import UUID

from .subscriber import Overflow, Request, Selection

#: What the URL of a Redis server begins with.
SCHEMES = (
    *("redis://", "rediss://", "unix://"),
    *("redis+sentinel://", "rediss+sentinel://", "redis+cluster://", "rediss+cluster://"),
)


def checked_count(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"'{name}' must be an integer, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"'{name}' must be at least {least}, not {value}")
    return value


def checked_bool(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"'{name}' must be True or False, not {type(value).__name__}")
    return value


def checked_limit(name: str, value: Any) -> int | None:
    return None if value is None else checked_count(name, value, 1)


def checked_seconds(name: str, value: Any, *, or_zero: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"'{name}' must be a number of seconds, not {type(value).__name__}")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not or_zero):
        rule = "not negative" if or_zero else "more than 0"
        raise ValueError(f"'{name}' must be finite and {rule}, not {seconds!r}")
    return seconds


def checked_name(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"'{name}' must be a string, not {type(value).__name__}")
    if not value:
        raise ValueError(f"'{name}' must not be empty")
    return checked_text(name, value)


def checked_prefix(value: Any) -> str:
    prefix = checked_name("prefix", value)
    if "{" in prefix or "}" in prefix:
        raise ValueError("'prefix' must not have braces, which Redis Cluster gives a meaning")
    return prefix


def checked_url(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"'url' must be a str or None, not {type(value).__name__}")
    if not value.startswith(SCHEMES):
        raise ValueError(f"'url' must begin with {' or '.join(SCHEMES)}")
    return value


def checked_text(name: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"'{name}' must be text that UTF-8 has, without surrogates") from None
    return value


def checked_key(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, UUID)):
        raise TypeError(f"'{name}' must be a str, int or UUID, not {type(value).__name__}")
    return checked_text(name, str(value))


def checked_overflow(value: Any) -> Overflow:
    if value not in get_args(Overflow):
        raise ValueError(
            f"'overflow' must be {', '.join(map(repr, get_args(Overflow)))}, not {value!r}"
        )
    overflow: Overflow = value
    return overflow


def checked_request(
    selections: tuple[Selection, ...], *, several: bool, after: Any, start: Any, filter: Any
) -> Request:
    if after is not None and not isinstance(after, str):
        raise TypeError(f"'after' must be an id or None, not {type(after).__name__}")
    checked_start(start)
    if filter is not None and not callable(filter):
        raise TypeError(f"'filter' must be callable or None, not {type(filter).__name__}")
    return Request(selections, several, after, start, filter)


def checked_start(value: Any) -> Any:
    if isinstance(value, str):
        if value in ("live", "earliest"):
            return value
    elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"'start' must be 'live', 'earliest' or a number of events, not {value!r}")


def checked_owner(value: Any) -> str | None:
    """Returns the text of an owner, by which owners are compared; None is nobody."""
    return None if value is None else checked_key("owner", value)


def checked_selection(value: Any) -> Selection:
    if isinstance(value, Selection):
        return value
    raise TypeError(f"'selections' must be what Channel.on() returns, not {type(value).__name__}")
