"""The options of a stream, and what the delivery needs to know of a response."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from importlib.util import find_spec
from inspect import Parameter, iscoroutinefunction, signature
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from starlette.types import Message

from .._core import Buffer, ServerSentEvent
from .._core.conversion import FastAPIServerSentEvent
from .._runtime.checks import (
    checked_bool,
    checked_count,
    checked_limit,
    checked_optional_seconds,
    checked_seconds,
    wrong_type,
)
from .source_name import SourceName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._shutdown.streams import Stream
    from .compression import Compression
    from .source import Pending, Source


#: The classes of items that are events already.
EVENT_CLASSES: Any = (ServerSentEvent, FastAPIServerSentEvent)


class DeliveryOptions(TypedDict, total=False):
    """The options of any stream, a subscription too; `EventSourceResponse` documents them."""

    ping_interval: float | None
    ping_event: ServerSentEvent[Any] | Callable[[], object] | None
    send_timeout: float | None
    cleanup_timeout: float
    shutdown_grace: float
    max_duration: float | None
    expires_at: datetime | None
    max_pending: int
    compress: bool
    on_disconnect: Callable[[], object] | None


class Options(DeliveryOptions, total=False):
    """The options of `EventSourceResponse`."""

    open_delay: float | None
    framed: bool


_OF_A_CLASS = "it limits all streams of a class: set it as a class attribute, in a subclass"


# Other attributes of each response, which no option is spelled like.
_OF_EVERY_RESPONSE = frozenset(("status_code", "background", "raw_headers", "media_type"))
# Names that people try, and what they mean: of the header, of sse-starlette.
_OTHER_NAMES = {
    "last_event_id": "after",
    "ping": "ping_interval",
    "shutdown_grace_period": "shutdown_grace",
    "client_close_handler_callable": "on_disconnect",
}
#: Sets an attribute that is no option: `__setattr__` would look at its name.
set_unchecked = object.__setattr__


class Streamable:
    """Content with its options, which `EventSourceResponse` documents."""

    _content: Any
    _origin: SourceName
    # Streamed in place of the content, if that pushes.
    _source: Source | None = None
    # Whether its client was dropped because it did not read.
    _stalled = False
    #: Whether the generator is run. If not, the response is its headers, and nobody is told of it.
    _begins = True
    # Whether the body is compressed: it is asked for, and the client takes it.
    _gzip = False
    #: Whether no client may take a part for the whole: what ends the stream before its generator
    #: has come to its end cuts it.
    _cuts = False
    # Names that look like options and are none here, and why.
    _no_options: ClassVar[Mapping[str, str]] = {
        "max_threads": _OF_A_CLASS,
        "max_streams": _OF_A_CLASS,
    }

    # The arguments beside the options, for errors.
    _arguments: ClassVar[tuple[str, ...]] = ()

    ping_interval: float | None = 15.0
    open_delay: float | None = 0.25
    send_timeout: float | None = None
    cleanup_timeout: float = 30.0
    shutdown_grace: float = 0.0
    max_duration: float | None = None
    expires_at: datetime | None = None
    max_pending: int = 65_536
    compress: bool = False
    framed: bool = False
    # A callable or None; type checkers refuse a subclass's method where a callable is declared.
    on_disconnect: Any = None
    ping_event: Any = None

    #: How many sync generators may stream at the same time in this process, each in a thread of
    #: its own; further ones wait for their turn. Not an option of one stream: the streams of the
    #: class that sets it are counted, with those of its subclasses that do not set their own.
    max_threads: ClassVar[int] = 1_000

    #: How many streams may be open at the same time in this process, None for any number; counted
    #: as `max_threads` are.
    max_streams: ClassVar[int | None] = None

    def _make_buffer(self) -> Buffer:
        raise NotImplementedError

    def _make_compression(self, plain: Pending) -> Compression:
        """Returns what stands before the events and compresses them."""
        from .compression import Window  # where Python has no zlib nobody comes here

        return Window(plain)

    def _opened(self, stream: Stream) -> None:
        """Called when the stream opens, in its event loop, before the generator runs."""

    def _close(self, buffer: Any, error: BaseException | None, is_lost: bool = False) -> bool:
        """Appends the last events to a buffer, after which nothing is pushed. Never raises.

        Args:
            buffer: That of the stream, or its source.
            error: What the generator has raised.
            is_lost: Whether the stream is about to be cut.

        Returns:
            Whether the body ends whole.
        """
        return error is None and not is_lost

    def _unavailable(self) -> Exception:
        """Returns what is raised where a stream ends before it has begun."""
        raise NotImplementedError

    def _late_error(self, error: BaseException) -> BaseException | None:
        """Returns what is raised for an error that comes after the headers, if anything is."""
        return error

    def _start_message(self) -> Message:
        """Returns the ASGI message with status and headers, as they are when it is asked for."""
        raise NotImplementedError

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for mixin in cls.__mro__[1:]:
            if not issubclass(mixin, Streamable):
                _check_mixin(mixin)  # pyright: ignore[reportUnknownArgumentType]
        for name, value in list(vars(cls).items()):
            if name not in _CHECKS and name not in _CLASS_CHECKS:
                _check_spelling(cls, name, value, _OTHER_NAMES.get(name))
            elif not isinstance(value, property):
                _check_value(name, value)
        for name in _FUNCTIONS:
            function = vars(cls).get(name)
            if isinstance(function, FunctionType) and not _takes_argument(function):
                # A function that takes no `self` is an option's value, not a method.
                setattr(cls, name, staticmethod(function))

    def __setattr__(self, name: str, value: object) -> None:
        # No option has such a name; this is called for every attribute.
        if name[:1] != "_" and name not in _OF_EVERY_RESPONSE:
            if name in _CHECKS or name in self._no_options:
                self._check_option(name, value)
            else:
                _check_spelling(type(self), name, value)
        set_unchecked(self, name, value)

    def _set_options(self, options: Mapping[str, object]) -> None:
        """Sets options for this stream alone.

        Raises:
            TypeError: there is no such option, or a value has the wrong type; the message names
                the option.
            ValueError: a value breaks a rule; the message names the option.
        """
        for name, value in options.items():
            self._check_option(name, value)
            set_unchecked(self, name, value)

    def _check_option(self, name: str, value: object) -> None:
        if name not in _CHECKS or name in self._no_options:
            raise TypeError(f"{type(self).__name__} has no option '{name}'{self._hint(name)}")
        _check_value(name, value)

    def _hint(self, name: str) -> str:
        if name in self._no_options:
            return f": {self._no_options[name]}"
        checked = [each for each in _CHECKS if each not in self._no_options]
        options = [*self._arguments, *checked]
        other = _OTHER_NAMES.get(name)
        near = (
            [other]
            if other in options
            else _similar(name, options, 0.6)
            or [each for each in options if name in each or each in name]
        )
        meant = f": did you mean '{near[0]}'?" if near else "."
        return f"{meant} Its options are {', '.join(options)}"


def _check_mixin(mixin: type) -> None:
    """Checks the options that a class has which is another base of a response's class."""
    for name in (_CHECKS | _CLASS_CHECKS).keys() & vars(mixin).keys():
        value = vars(mixin)[name]
        if not isinstance(value, property):
            _check_value(name, value)


def _check_value(name: str, value: object) -> None:
    check = _CHECKS.get(name) or _CLASS_CHECKS[name]
    try:
        check(name, value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"EventSourceResponse option {error}") from None


def _check_spelling(cls: type, name: str, value: object, other: str | None = None) -> None:
    """Refuses an attribute whose name is nearly that of an option."""
    option = other if other in _CHECKS else _nearly(name)
    if option is None or any(hasattr(base, name) for base in cls.__bases__):
        return
    if option not in _FUNCTIONS and (callable(value) or hasattr(type(value), "__get__")):
        return  # a method of the user's own: the values of these options are none
    raise TypeError(f"{cls.__name__} has no option '{name}': did you mean '{option}'?")


@lru_cache
def _nearly(name: str) -> str | None:
    """Returns the option whose name differs by a slip of the pen."""
    if name.startswith("_"):
        return None
    # Those that could be: at most a tenth of all letters has no counterpart. Most names end here.
    options = [
        each
        for each in (*_CHECKS, *_CLASS_CHECKS)
        if len(set(name) ^ set(each)) * 10 <= len(name) + len(each)
    ]
    near = _similar(name, options, 0.9) if options else []
    return near[0] if near else None


def _similar(name: str, options: list[str], cutoff: float) -> list[str]:
    import difflib  # few processes ever need it

    return difflib.get_close_matches(name, options, 1, cutoff)


def _check_seconds(name: str, value: object) -> None:
    checked_seconds(name, value, or_zero=True)


def _check_seconds_or_none(name: str, value: object) -> None:
    checked_optional_seconds(name, value, or_zero=True)


def _check_positive_seconds_or_none(name: str, value: object) -> None:
    _check_seconds_or_none(name, value)
    if value == 0:
        raise ValueError(f"'{name}' must be more than 0; None turns it off")


def _check_datetime_or_none(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, datetime):
        raise wrong_type(name, "a datetime with a time zone, or None", value)
    if value.utcoffset() is None:
        raise ValueError(
            f"'{name}' must be a datetime with a time zone, not {value!r}, of which nobody knows"
            " when it is: datetime.fromtimestamp(claims['exp'], timezone.utc)"
        )


def _check_count(name: str, value: object) -> None:
    checked_count(name, value, 1)


def _check_compress(name: str, value: object) -> None:
    checked_bool(name, value)
    if value and find_spec("zlib") is None:
        raise ValueError(f"'{name}' must be False: this Python was built without zlib")


def _check_callable_or_none(name: str, value: object) -> None:
    function = getattr(value, "__func__", value)  # of a staticmethod or classmethod
    if function is not None and not callable(function):
        raise wrong_type(name, "callable", function)


def _check_ping_event(name: str, value: object) -> None:
    function = getattr(value, "__func__", value)
    if iscoroutinefunction(function):
        raise wrong_type(name, "a function that is not async, for it is not awaited", function)
    if function is not None and not isinstance(function, EVENT_CLASSES) and not callable(function):
        raise wrong_type(name, "a ServerSentEvent, a function that returns one, or None", function)


#: The options whose values may be functions.
_FUNCTIONS = "on_disconnect", "ping_event"
_CHECKS: dict[str, Callable[[str, object], object]] = {
    "ping_interval": _check_seconds_or_none,
    "ping_event": _check_ping_event,
    "open_delay": _check_seconds_or_none,
    "send_timeout": _check_positive_seconds_or_none,
    "cleanup_timeout": _check_seconds,
    "shutdown_grace": _check_seconds,
    "max_duration": _check_positive_seconds_or_none,
    "expires_at": _check_datetime_or_none,
    "max_pending": _check_count,
    "compress": _check_compress,
    "framed": checked_bool,
    "on_disconnect": _check_callable_or_none,
}
# Of class attributes that are no options of one stream.
_CLASS_CHECKS: dict[str, Callable[[str, object], object]] = {
    "max_threads": _check_count,
    "max_streams": checked_limit,
}


def sets(response: Streamable, name: str) -> type[Streamable]:
    """Returns the class that sets a class attribute for a response: its streams are counted, with
    those of its subclasses that do not set their own."""
    return next(each for each in type(response).__mro__ if name in vars(each))


def _takes_argument(function: FunctionType) -> bool:
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL)
    return any(each.kind in kinds for each in signature(function).parameters.values())
