"""Checks of the arguments of channels and runs (`_runtime.checks` has the policy)."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import partial
from typing import Any, cast, get_args
from uuid import UUID

from .._fastapi.response import EventSourceResponse, checked_content
from .._runtime.checks import wrong_type
from .fanout.request import Filter, Overflow, Request, Selection, Start
from .history.broker import Broker
from .history.position import MAX_ID

#: How many bytes of UTF-8 a name, a key or an owner may have.
MAX_TEXT = 512

#: The beginnings of the URL of a Redis server.
SCHEMES = (
    *("redis://", "rediss://", "unix://"),
    *("redis+sentinel://", "rediss+sentinel://", "redis+cluster://", "rediss+cluster://"),
)


#: The methods that channels call of a broker.
BROKER_METHODS = tuple(
    name for name, value in vars(Broker).items() if name[0] != "_" and callable(value)
)


def checked_name(name: str, value: Any) -> str:
    """Returns a name, which is not empty and has at most `MAX_TEXT` bytes."""
    if not isinstance(value, str):
        raise wrong_type(name, "a string", value)
    if not value:
        raise ValueError(f"'{name}' must not be empty")
    return checked_text(name, value)


def checked_response_class(value: Any) -> type[EventSourceResponse]:
    """Returns `response_class`.

    Raises:
        TypeError: it is no class of `EventSourceResponse`.
    """
    if isinstance(value, type) and issubclass(value, EventSourceResponse):
        return value
    given = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
    raise TypeError(f"'response_class' must be a class of EventSourceResponse, not {given}")


def checked_prefix(value: Any) -> str:
    """Returns a prefix for names in Redis, which has no braces."""
    prefix = checked_name("prefix", value)
    if "{" in prefix or "}" in prefix:
        raise ValueError(
            f"'prefix' must not have braces, which Redis Cluster gives a meaning: {prefix!r}"
        )
    return prefix


def checked_url(value: str) -> str:
    """Returns the URL of a Redis server."""
    if not value.startswith(SCHEMES):
        raise ValueError(f"'broker' must begin with {' or '.join(SCHEMES)}, if it is a URL")
    return value


def checked_broker(value: Any) -> Broker:
    """Returns an object that has the methods of a broker."""
    missing = [name for name in BROKER_METHODS if not callable(getattr(value, name, None))]
    if missing:
        raise TypeError(
            f"'broker' must be the URL of a Redis server, an object with the methods of"
            f" sserpent.channels.history.broker.Broker, or None, not {type(value).__name__},"
            f" which has no {', '.join(map(repr, missing))}"
        )
    return cast("Broker", value)


def checked_text(name: str, value: str) -> str:
    """Returns a text that has at most `MAX_TEXT` bytes in UTF-8."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"'{name}' must be text that UTF-8 has, without surrogates") from None
    if size > MAX_TEXT:
        raise ValueError(f"'{name}' must have at most {MAX_TEXT} bytes in UTF-8, not {size}")
    return value


def checked_key(name: str, value: Any) -> str:
    """Returns the text of a key, by which keys are compared."""
    # Most keys are such, and each publish has one.
    if type(value) is str and value.isascii() and len(value) <= MAX_TEXT:
        return value
    if isinstance(value, bool) or not isinstance(value, (str, int, UUID)):
        raise TypeError(f"'{name}' must be a str, int or UUID, not {type(value).__name__}")
    # As every Python shows it, also where a subclass (an enum) has a text of its own.
    if isinstance(value, str):
        return checked_text(name, str.__str__(value))
    if isinstance(value, int):
        if value.bit_length() > MAX_TEXT * 4:  # Python refuses to write longer ones
            raise ValueError(f"'{name}' must have at most {MAX_TEXT} digits")
        return checked_text(name, int.__repr__(value))
    return str(value)


def checked_overflow(value: Any) -> Overflow:
    """Returns one of the values of `overflow`."""
    if not isinstance(value, str):
        raise wrong_type("overflow", "a string", value)
    if value not in get_args(Overflow):
        raise ValueError(
            f"'overflow' must be {', '.join(map(repr, get_args(Overflow)))}, not {value!r}"
        )
    return cast("Overflow", value)


def checked_request(
    selections: tuple[Selection, ...], *, several: bool, after: Any, start: Any, filter: Any
) -> Request:
    """Returns what a client asks for."""
    if after is not None and not isinstance(after, str):
        raise wrong_type("after", "an id or None", after)
    if after is not None:
        # A longer one is no id of ours, and need not be kept as long as the stream.
        after = after[: MAX_ID * len(selections) + 1]
    start = checked_start(start)
    if start != "live" and any(each.snapshot is not None for each in selections):
        raise ValueError(
            f"'start' must be 'live' where there is a 'snapshot', not {start!r}: a client without"
            " an id begins with the snapshot"
        )
    return Request(selections, several, after, start, checked_filter(filter))


def checked_snapshot(value: Any) -> Any:
    """Returns `snapshot`.

    Raises:
        TypeError: it is neither a function nor None.
    """
    if value is not None and not callable(value):
        raise TypeError(
            f"'snapshot' must be a function that returns the state, or None, not"
            f" {type(value).__name__}"
        )
    return value


def checked_start(value: Any) -> Start:
    """Returns one of the values of `start`."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise wrong_type("start", "'live', 'earliest' or an integer", value)
    if value in ("live", "earliest") or (isinstance(value, int) and value >= 0):
        start: Any = value
        return cast("Start", start)
    raise ValueError(f"'start' must be 'live', 'earliest' or a number of events, not {value!r}")


def checked_filter(value: Any) -> Filter | None:
    """Returns a function that can return a bool, or None."""
    if value is None:
        return None
    if not callable(value):
        raise wrong_type("filter", "callable or None", value)
    if _returns_what_is_always_true(value):
        raise TypeError(
            "'filter' must be a plain function that returns a bool, not an async function or a"
            " generator function: what these return is always true"
        )
    return cast("Filter", value)


def _returns_what_is_always_true(function: Any) -> bool:
    while isinstance(function, partial):
        function = function.func  # pyright: ignore[reportUnknownMemberType]
    kinds = inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction
    return any(is_one(each) for is_one in kinds for each in (function, type(function).__call__))


def checked_owner(value: Any) -> str | None:
    """Returns the text of an owner, by which owners are compared; None is nobody."""
    return None if value is None else checked_key("owner", value)


def checked_items(value: Any) -> Iterable[Any]:
    """Returns the events to be published, which are no text, bytes, mapping or model."""
    items = checked_content("'items' must be an iterable of events", value)
    if not hasattr(items, "__iter__"):
        raise wrong_type("items", "an iterable of events", items)
    return cast("Iterable[Any]", items)


def checked_selection(value: Any) -> Selection:
    """Returns a selection of a channel."""
    if isinstance(value, Selection):
        return value
    raise wrong_type("selections", "what Channel.on() returns", value)
