"""The options of a stream, and what the delivery needs to know of a response."""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import Parameter, signature
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar

from starlette.types import Message

from .._core import Buffer
from .origin import Origin

if TYPE_CHECKING:
    from .stream import Source


class Streamable:
    """Content with its options, which `EventSourceResponse` documents."""

    content: Any
    origin: Origin
    #: Streamed in place of `content`, if the content pushes.
    source: Source | None = None

    ping_interval: float | None = 15.0
    open_delay: float | None = 0.25
    send_timeout: float | None = None
    cleanup_timeout: float = 30.0
    shutdown_grace: float = 0.0
    max_duration: float | None = None
    max_pending: int = 65_536
    # A callable or None; type checkers refuse a subclass's method where a callable is declared.
    on_disconnect: Any = None

    #: How many sync generators may stream at the same time in this process, each in a thread of
    #: its own; further ones wait for their turn. Not an option of one stream: the streams of the
    #: class that sets it are counted, with those of its subclasses that do not set their own.
    max_threads: ClassVar[int] = 1_000

    #: How many streams may be open at the same time in this process, None for any number; counted
    #: as `max_threads` are.
    max_streams: ClassVar[int | None] = None

    def make_buffer(self) -> Buffer:
        raise NotImplementedError

    def start_message(self) -> Message:
        """The ASGI message with status and headers, as they are when it is asked for."""
        raise NotImplementedError

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, check in {**_CHECKS, **_CLASS_CHECKS}.items():
            if name in cls.__dict__ and not isinstance(cls.__dict__[name], property):
                check(name, cls.__dict__[name])
        on_disconnect = cls.__dict__.get("on_disconnect")
        if isinstance(on_disconnect, FunctionType) and not _takes_argument(on_disconnect):
            # A function that takes no `self` is an option's value, not a method.
            cls.on_disconnect = staticmethod(on_disconnect)

    def set_options(self, options: dict[str, Any]) -> None:
        """Sets options for this stream alone.

        Raises:
            TypeError: there is no such option.
            ValueError: a value is bad; the message names the option.
        """
        for name, value in options.items():
            check = _CHECKS.get(name)
            if check is None:
                raise TypeError(f"{type(self).__name__} has no option '{name}'")
            check(name, value)
            setattr(self, name, value)


def _check_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(
            f"EventSourceResponse option '{name}' must be a number of seconds,"
            f" not {type(value).__name__}"
        )
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(
            f"EventSourceResponse option '{name}' must be finite and not negative, not {value!r}"
        )


def _check_seconds_or_none(name: str, value: object) -> None:
    if value is not None:
        _check_seconds(name, value)


def _check_positive_seconds_or_none(name: str, value: object) -> None:
    _check_seconds_or_none(name, value)
    if value == 0:
        raise ValueError(
            f"EventSourceResponse option '{name}' must be more than 0; None turns it off"
        )


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(
            f"EventSourceResponse option '{name}' must be an integer, not {type(value).__name__}"
        )
    if value < 1:
        raise ValueError(f"EventSourceResponse option '{name}' must be at least 1, not {value}")


def _check_count_or_none(name: str, value: object) -> None:
    if value is not None:
        _check_count(name, value)


def _check_callable_or_none(name: str, value: object) -> None:
    function = getattr(value, "__func__", value)  # of a staticmethod or classmethod
    if function is not None and not callable(function):
        raise ValueError(
            f"EventSourceResponse option '{name}' must be callable, not {type(function).__name__}"
        )


_CHECKS: dict[str, Callable[[str, object], None]] = {
    "ping_interval": _check_seconds_or_none,
    "open_delay": _check_seconds_or_none,
    "send_timeout": _check_positive_seconds_or_none,
    "cleanup_timeout": _check_seconds,
    "shutdown_grace": _check_seconds,
    "max_duration": _check_positive_seconds_or_none,
    "max_pending": _check_count,
    "on_disconnect": _check_callable_or_none,
}
# Of class attributes that are no options of one stream.
_CLASS_CHECKS: dict[str, Callable[[str, object], None]] = {
    "max_threads": _check_count,
    "max_streams": _check_count_or_none,
}


def sets(response: Streamable, name: str) -> type[Streamable]:
    """Returns the class that sets a class attribute for a response: its streams are counted, with
    those of its subclasses that do not set their own."""
    return next(each for each in type(response).__mro__ if name in vars(each))


def _takes_argument(function: FunctionType) -> bool:
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL)
    return any(each.kind in kinds for each in signature(function).parameters.values())
