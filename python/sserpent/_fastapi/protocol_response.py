"""`ProtocolResponse`: a stream in the protocol of somebody else's client."""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from typing import Any, ClassVar

from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from .. import _shutdown
from .._core import ItemRules
from .response import EventSourceResponse
from .stream_end import StreamEnd


def field_of(data: Any, name: str) -> Any:
    """Returns a field of the data of an event; None if it has none."""
    return data.get(name) if isinstance(data, dict) else None  # pyright: ignore


def has_own_as_event(cls: type) -> bool:
    """Returns whether a class makes something else of its items."""
    # That of `ProtocolResponse` would be called for each item and change nothing.
    return any("as_event" in vars(each) for each in cls.__mro__ if each.__module__ != __name__)


def _check_attributes(cls: type) -> None:
    for name in ("exclude_none", "event_ids", "keeps_first"):
        value: Any = vars(cls).get(name, True)
        if not isinstance(value, bool):
            raise _wrong_type(cls, name, "True or False", value)
    value = vars(cls).get("name_from")
    if value is not None and not isinstance(value, str):
        raise _wrong_type(cls, "name_from", "a str or None", value)
    as_event: Any = vars(cls).get("as_event")
    if as_event is None:
        return
    function: Any = getattr(as_event, "__func__", None)
    if function is None:
        raise _wrong_type(cls, "as_event", "a class method", as_event)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise _wrong_type(cls, "as_event", "a plain function, which is not awaited", function)


def _wrong_type(cls: type, name: str, rule: str, value: object) -> TypeError:
    return TypeError(f"{name} of {cls.__name__} must be {rule}, not {type(value).__name__}")


class ProtocolResponse(EventSourceResponse):
    """A response that streams in the protocol of an existing client. `sserpent.protocols` has
    classes for the protocols of model providers. For a protocol of your own, write a subclass with
    a `closing_event`, and if items are not sent as they are, a class method `as_event(item,
    number)`.

    Items are events, dicts or models. If something ends the stream before its generator has come to
    its end, the connection is cut, so that clients can tell that the stream is incomplete. If
    something ends the stream before it has begun, the response is a 503 with `Retry-After`.

    Attributes:
        name_from: The field of an item that names its event. None, the default, names no event.
        exclude_none: Whether fields of models that are None are left out. The default is True.
        event_ids: Whether the events of a run have ids. The default is False.
        keeps_first: Whether `StreamEnd.first` is kept. The default is False.

    Raises:
        TypeError: a class attribute has the wrong type, or `as_event` is no class method; when the
            class is made.
    """

    _cuts = True

    #: The field of an item that names its event; None for events without a name.
    name_from: ClassVar[str | None] = None
    #: Whether the fields of models that are None are left out. What a route says of its response
    #: model (`response_model_exclude_unset`, for example) holds instead.
    exclude_none: ClassVar[bool] = True
    #: Whether the events of a run have ids.
    event_ids: ClassVar[bool] = False
    #: Whether `StreamEnd.first` is known, for which the first event is kept.
    keeps_first: ClassVar[bool] = False

    # The field of an item that gets its number, and the whole data of events that are left out: the
    # mark at the end of the protocol's streams, which the class sends itself.
    _number_as: ClassVar[str | None] = None
    _leaves_out: ClassVar[str | None] = None
    # The types of events after which a client expects nothing more.
    _last_types: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        _check_attributes(cls)
        super().__init_subclass__(**kwargs)

    @classmethod
    def _set_rules(cls) -> None:
        cls._rules = ItemRules(
            cls.__name__,
            name_from=cls.name_from,
            exclude_none=cls.exclude_none,
            number_as=cls._number_as,
            leaves_out=cls._leaves_out,
            keeps_first=cls.keeps_first,
            convert=cls.as_event if has_own_as_event(cls) else None,
        )
        cls._closing_rules = ItemRules(
            cls.__name__, name_from=cls.name_from, exclude_none=cls.exclude_none
        )

    @classmethod
    def as_event(cls, item: Any, number: int) -> Any:
        """Returns what is sent for an item: the item itself, unless a subclass has its own.

        Args:
            item: What the generator has yielded, a `ServerSentEvent` too; not what is framed
                already.
            number: How many events came before it.

        Returns:
            A dict, a model or an event; None for nothing.
        """
        return item

    def _is_over(self, end: StreamEnd) -> bool:
        is_over = super()._is_over(end) or self._has_end_mark
        return is_over or field_of(end.last, "type") in self._last_types

    def _answer(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        if scope["method"] != "HEAD" and _shutdown.is_ending(scope):
            return self._answer_unavailable(scope, receive, send)
        return super()._answer(scope, receive, send)

    async def _answer_unavailable(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._unavailable()
        answer = PlainTextResponse(error.detail, error.status_code, error.headers)
        try:
            await self._answer_instead(answer, scope, receive, send)
        finally:
            await self._close_unstarted()
