"""`EventSourceResponse`: options, headers, and the way into the delivery engine.

Intended differences from `fastapi.sse`:

1.  The class works: FastAPI's is a marker that FastAPI's router reads. Ours can be returned from
    an endpoint, used in plain Starlette, and subclassed to set options.
2.  Headers wait for the first event (`open_delay`), so an exception before it becomes a real
    error response, and what the generator sets on an injected `Response` is sent.
3.  Events yielded before an exception are all delivered.
4.  The keep-alive is a bare comment line, which no client takes for an event.
5.  CR and LF in `event` or `id`, and NUL in `id`, are refused by `format_sse_event` too.
6.  JSON is compact UTF-8. What a client parses is the same.
7.  A server that shuts down ends its streams. One whose generator was still running is cut off,
    without the end of the body, so that its client does not take it for complete.
8.  HEAD returns the headers and does not start the generator.
9.  A `model_dump_json()` that does not return a string is a TypeError.
10. The request can be read inside the generator.
11. Sync generators run in threads of their own.
12. A client that does not read can be dropped (`send_timeout`), a client that leaves is told
    (`on_disconnect`), and the cleanup that follows is bounded (`cleanup_timeout`).
"""

from __future__ import annotations

import inspect
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from functools import lru_cache, partial
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
import fastapi
import fastapi.sse
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from .._core import Buffer, DeclaredEvents, ItemRules, ItemSchema, ServerSentEvent
from .._core.conversion import FastAPIServerSentEvent
from .._delivery import observer
from .._delivery.on_asyncio import Delivery
from .._delivery.options import DeliveryOptions, Options, Streamable, set_unchecked, sets
from .._delivery.source import close_unstarted
from .._delivery.source_name import SourceName
from .._runtime.log import logger
from .._runtime.loops import on_asyncio
from .limits import Slots, headers_of_503, refusal
from .negotiation import add_vary, can_be_gzip, negotiated, takes_gzip
from .requests import shared_receive
from .stream_end import StreamEnd, data_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

_RULE = "streams an async iterable or an iterable of events"

# nginx and its kin hold back a response of unknown length without the second one.
_HEADERS = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
_HEADER_NAMES = [name for name, _ in _HEADERS]

# Starlette's, for the headers of a response that has none of its own.
_INIT: Any = Response.init_headers

# Of the open streams, by the class that sets `max_streams`.
_places = Slots()


class ResponseOptions(DeliveryOptions, total=False):
    """The options of a subscription; `EventSourceResponse` documents them."""

    status_code: int
    headers: Mapping[str, str] | None
    media_type: str | None
    background: BackgroundTask | None


class EventSourceResponse(Streamable, fastapi.sse.EventSourceResponse):
    """A response that streams events to a client as `text/event-stream`.

    Use it like FastAPI's class of this name, as `response_class=EventSourceResponse` of a path
    operation that yields. Or return `EventSourceResponse(content)` from any endpoint.

    Options are class attributes. Set them in a subclass for a route, or as keyword arguments for
    one response.

    Args:
        content: What to stream: an async or sync generator, or any other async iterable or
            iterable, of events or of values for their `data` field.
        status_code: The status of the response. The default is 200.
        headers: Headers to add. `Cache-Control: no-cache` and `X-Accel-Buffering: no` are sent
            unless you give others.
        media_type: The content type. The default is `text/event-stream`.
        background: A task to run after the stream has ended, unless the stream failed.
        ping_interval: Seconds without traffic after which a comment line is sent as a keep-alive.
            The default is 15. None or 0 turns it off.
        ping_event: The keep-alive, instead of the comment: a `ServerSentEvent`, or a function
            without arguments that returns one. The function is called in the event loop for each
            keep-alive. If it raises, the stream ends with that error. None, the default, sends the
            comment.
        open_delay: Seconds to wait for the first event before the headers are sent. The default is
            0.25. 0 sends the headers at once, None waits without a limit.
        send_timeout: Seconds after which a client that does not read is dropped, together with its
            connection. None, the default, waits for ever.
        cleanup_timeout: Seconds that the generator's cleanup may take after a disconnect or
            shutdown. When the server shuts down, a client also has that time to read the rest. The
            default is 30.
        max_duration: Seconds after which the stream ends, with a `retry` of 1 to 5 s for its
            client. None, the default, sets no limit. Each stream ends up to a tenth earlier, at
            random, so that clients that connected together do not reconnect together.
        expires_at: The `datetime`, with a time zone, at which the stream ends and its client
            reconnects, such as the `exp` of a token. None, the default, sets no limit.
        shutdown_grace: Seconds that the stream may go on when the server shuts down. The default is
            0. See `shutdown_event`.
        max_pending: How many bytes may be buffered for a slow client before the generator is
            paused, plus one event. The default is 65,536.
        compress: Whether the stream is compressed for clients that accept gzip (`Accept-Encoding`).
            The default is False. The stream is flushed after each event. Lengths leak: leave
            compression off if one stream contains both a secret and text that an attacker can
            choose, and the attacker can watch the traffic.
        framed: Whether `str`, `bytes`, `bytearray` and `memoryview` items are sent unchanged,
            because your code has framed them already. They are not checked, and need not be whole
            events. The default is False: such items are data.
        on_disconnect: A function without arguments, called once if the client disconnects before
            the end of the stream, or is dropped. It may be async, and may then take
            `cleanup_timeout`.

    A subclass may have a method `closing_event`, which returns the last event to send, and
    `default_headers`, a mapping of headers to add unless the response has them.

    Two options are class attributes only. `max_threads` limits how many sync generators may stream
    at the same time. The default is 1,000. `max_streams` limits how many streams may be open at the
    same time in a process. There is no limit by default. A further client gets a 503 with
    `Retry-After`. If it reconnects with a last event ID, it gets an empty stream with a `retry` of
    5 to 15 s instead.

    Raises:
        TypeError: there is no option of that name, an option has the wrong type, `content` cannot
            be iterated, or `content` is a single `str`, `bytes`, mapping or model.
        ValueError: an option has a bad value. Both messages name the option. Class attributes are
            checked when the class is defined.
    """

    media_type = "text/event-stream"
    _arguments: ClassVar[tuple[str, ...]] = ("status_code", "headers", "media_type", "background")
    status_code = 200
    background: BackgroundTask | None = None

    #: Headers of the class, which are sent unless the response has them.
    default_headers: ClassVar[Mapping[str, str]] = {}

    #: The type of the items, where the class knows it: for the OpenAPI document of a route that
    #: returns this class.
    item_type: ClassVar[Any] = None

    # The route as FastAPI knows it.
    _item_schema: ItemSchema | DeclaredEvents | None = None
    # The rules of the class for its items, and for those that end its streams.
    _rules: ItemRules | None = None
    _closing_rules: ItemRules | None = None
    # Whether the body ends whole, once `closing_event` has said so of what was replaced.
    _ends_whole: bool | None = None
    # Whether the generator has yielded, as its last item, the mark at the end of a protocol's
    # streams.
    _has_end_mark = False
    # A HTTPException of the generator, once the client was told of it.
    _told: HTTPException | None = None
    _injected: _Injected | None = None
    # `body_iterator`, once somebody has looked at it, and the request's scope, for its errors.
    _body: Any = None
    _scope_of_body: Scope | None = None
    # Iterators that others have been put in the place of, the newest first.
    _replaced: tuple[Any, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _check_plain_function(cls, "closing_event")
        _check_headers(cls)
        cls._set_rules()

    @classmethod
    def _set_rules(cls) -> None:
        if cls.closing_event is not EventSourceResponse.closing_event:
            # They are for `StreamEnd`.
            cls._rules = cls._closing_rules = ItemRules(cls.__name__, only_objects=False)

    def __init__(
        self,
        content: AsyncIterable[Any] | Iterable[Any],
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        background: BackgroundTask | None = None,
        **options: Unpack[Options],
    ) -> None:
        self._set_up(status_code, headers, media_type, background, **options)
        content = checked_content(f"{type(self).__name__} {_RULE}", content)
        set_unchecked(self, "_content", content)
        set_unchecked(self, "_origin", SourceName(content))

    def _set_up(
        self,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        background: BackgroundTask | None = None,
        **options: Unpack[Options],
    ) -> None:
        """Sets all but the content."""
        if options:
            self._set_options(options)
        # A value that the class has already is not set once more: each stream would keep it.
        if status_code != self.status_code:
            self.status_code = status_code
        if media_type is not None:
            self.media_type = media_type
        if background is not None:
            self.background = background
        if headers is None and not self.default_headers and type(self).init_headers is _INIT:
            raw_headers = [*_headers_of(self.media_type, self.charset)]
            set_unchecked(self, "raw_headers", raw_headers)
        else:
            self.init_headers(headers)
            self._add_default_headers()

    def _add_default_headers(self) -> None:
        given = {name for name, _ in self.raw_headers}
        if not self.default_headers and given.isdisjoint(_HEADER_NAMES):
            self.raw_headers.extend(_HEADERS)
            return
        for header in (*_encoded(self.default_headers), *_HEADERS):
            if header[0] not in given:
                given.add(header[0])
                self.raw_headers.append(header)

    def _add_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Adds headers, in the place of those that are sent by default."""
        names = {name for name, _ in headers}
        defaults = *_encoded(self.default_headers), *_HEADERS
        for header in defaults:
            if header[0] in names and header in self.raw_headers:
                self.raw_headers.remove(header)
        self.raw_headers.extend(headers)

    def closing_event(self, end: StreamEnd) -> Any:
        """Returns what is sent at the end of the stream: an item, a list of items, or None.

        A subclass has its own, a plain function. None, the default: the body ends after the last
        event if the generator is done, and the connection is cut if it has raised.

        Args:
            end: How it has ended.
        """
        return None

    def _bind(self, origin: SourceName, item_schema: ItemSchema | DeclaredEvents | None) -> None:
        """Tells the response what FastAPI knows of its route."""
        set_unchecked(self, "_origin", origin)
        set_unchecked(self, "_item_schema", item_schema)

    def _inject(self, injected: Response) -> None:
        """Copies what has been set on the `Response` that FastAPI injects, and has what is still
        to be set on it copied when the headers are sent."""
        if injected.status_code:
            self.status_code = injected.status_code
        self._add_headers(injected.raw_headers)
        self._injected = _Injected(injected)

    # The end

    def _stream_end(self, buffer: Any, error: BaseException | None, is_lost: bool) -> StreamEnd:
        """Returns how the stream has ended, for `closing_event`."""
        first, last, count, has_end_mark = buffer.kept()
        if has_end_mark:
            set_unchecked(self, "_has_end_mark", True)
        facts = {"first": data_of(first), "last": data_of(last), "count": count}
        if is_lost:
            return StreamEnd("lost", **facts)
        if error is None:
            return StreamEnd("done", **facts)
        if not isinstance(error, HTTPException):
            return StreamEnd("error", **facts)
        detail: Any = error.detail
        reason = detail if isinstance(detail, str) else None
        return StreamEnd("error", reason, error.status_code, **facts)

    def _close(self, buffer: Any, error: BaseException | None, is_lost: bool = False) -> bool:
        if self._ends_whole is not None:
            return self._ends_whole
        ends_whole = self._append_closing_event(buffer, error, is_lost)
        if self._replaced:  # both what is in the place of the events and they themselves end
            set_unchecked(self, "_ends_whole", ends_whole)
        return ends_whole

    def _append_closing_event(
        self, buffer: Any, error: BaseException | None, is_lost: bool
    ) -> bool:
        """Appends what `closing_event` returns, and returns whether the body ends whole."""
        ends_whole = error is None and not is_lost
        own = getattr(self.closing_event, "__func__", None)
        if own is EventSourceResponse.closing_event or self._source is not None:
            return ends_whole
        try:
            end = self._stream_end(buffer, error, is_lost)
            frames = self._closing_frames(end)
            if (frames or self._cuts) and not buffer.at_event_start:
                raise ValueError("the last item was framed already, and did not end an event")
        except BaseException:  # one that leaves here would end no stream, or all of them
            logger.exception("%s cannot be ended as it should be, and is cut", self._origin)
            return False
        for frame in frames or ():
            buffer.append(frame)
        if frames is None:
            return ends_whole
        if isinstance(error, HTTPException) and not self._is_over(end):
            set_unchecked(self, "_told", error)
        return not is_lost

    def _is_over(self, end: StreamEnd) -> bool:
        """Returns whether the client expects nothing more than what belongs to every end."""
        return end.kind == "done"

    def _closing_frames(self, end: StreamEnd) -> list[bytes] | None:
        """Returns what `closing_event` returns, framed; None if it returns that."""
        closing: Any = self.closing_event(end)
        if closing is None:
            return None
        events: list[Any] = [*closing] if type(closing) in (list, tuple) else [closing]
        buffer = Buffer(rules=self._closing_rules)
        frames: list[bytes] = []
        for event in events:
            buffer.push(event)
            frames.append(buffer.take())
        return frames

    def _unavailable(self) -> HTTPException:
        headers = headers_of_503(self.compress)
        return fastapi.HTTPException(503, "The answer was interrupted", headers)

    def _late_error(self, error: BaseException) -> BaseException | None:
        if error is self._told:
            return None
        if not isinstance(error, HTTPException):
            return error
        late = RuntimeError(
            f"{self._origin} raised HTTPException({error.status_code}) when its headers had been"
            f" sent, with the first event or after open_delay ({self.open_delay} s): its client has"
            " a 200. Check in a dependency what may refuse a request, or before the first event"
            " with open_delay=None"
        )
        late.__cause__ = error
        return late

    def _make_buffer(self) -> Buffer:
        if self._replaced:
            # The iterator in the place of the events has them as they are sent.
            return Buffer(max_pending=self.max_pending, framed=True, rules=self._closing_rules)
        return Buffer(
            self._item_schema,
            max_pending=self.max_pending,
            framed=self.framed,
            rules=self._rules,
        )

    def _start_message(self) -> Message:
        if self._injected is not None:
            self._injected.apply(self)
        headers = self.raw_headers
        if self.compress:
            set_unchecked(self, "_gzip", self._gzip and can_be_gzip(self))
            # Not in place: a response may be used again, for a client that takes something else.
            headers = negotiated(headers, self._gzip)
        return {"type": "http.response.start", "status": self.status_code, "headers": headers}

    # Starlette's class has it as a plain attribute, which other code looks at, wraps and replaces.

    @property
    def body_iterator(self) -> Any:
        """The bytes of the stream, without keep-alives: an async iterator. Looking at it changes
        nothing. An iterator that is put in its place is streamed instead, as by `framed`."""
        if self._body is None:
            self._scope_of_body = {}
            explain = partial(_explained, self._origin, self._scope_of_body)
            self._body = _body_of(self._readable(), self._make_buffer(), explain, self._close)
        return self._body

    @body_iterator.setter
    def body_iterator(self, iterator: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        if iterator is None or iterator is not self._body:
            checked_content(f"body_iterator of {type(self).__name__} {_RULE}", iterator)
            before = () if self._body is None else (self._body,)
            self._replaced = (*before, self._content, *self._replaced)
            self._body = self._content = iterator

    def _readable(self) -> Any:
        """Returns what a reader of `body_iterator` reads."""
        return self._content

    # No coroutine of ours stands between the server's and the delivery's where there is nothing for
    # it to do: a stream that waits would keep it.

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, scope: Scope, receive: Receive, send: Send
    ) -> Coroutine[Any, Any, None]:
        if self._scope_of_body is not None:
            self._scope_of_body.update(scope)
        if scope["type"] == "websocket":
            return super().__call__(scope, receive, send)
        answering = self._answer(scope, receive, send)
        return answering if self.background is None else self._then_background(answering)

    async def _then_background(self, answering: Coroutine[Any, Any, None]) -> None:
        await answering
        if self._told is None and self.background is not None:
            await self.background()

    def _answer(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        if self.compress and takes_gzip(scope) is not self._gzip:
            set_unchecked(self, "_gzip", not self._gzip)
        if scope["method"] == "HEAD":
            return self._answer_head(scope, receive, send)
        if self.max_streams is None:
            return self._stream(scope, receive, send)
        return self._stream_if_there_is_a_place(scope, receive, send)

    def _stream(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        receive = shared_receive(scope, receive, (self._content, *self._replaced)[-1])
        if observer.current is not None:
            delivering = _observed(observer.current, self, scope, receive, send)
        else:
            delivering = _delivery_class()(self, scope, receive, send).run()
        return self._then_close_replaced(delivering) if self._replaced else delivering

    async def _then_close_replaced(self, delivering: Coroutine[Any, Any, None]) -> None:
        try:
            await delivering
        finally:
            await self._close_contents(*self._replaced)

    async def _close_unstarted(self) -> None:
        await self._close_contents(self._content, *self._replaced)

    async def _close_contents(self, *contents: Any) -> None:
        with anyio.move_on_after(self.cleanup_timeout, shield=True) as timeout:
            for content in contents:
                # Not one whose cleanup has outlived its time, and goes on by itself.
                if not getattr(content, "ag_running", False):
                    await close_unstarted(content)
        if timeout.cancelled_caught:
            logger.error(
                "The cleanup of %s did not end within cleanup_timeout (%s s)",
                self._origin,
                self.cleanup_timeout,
            )

    async def _stream_if_there_is_a_place(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.max_streams is not None
        limits = {sets(self, "max_streams"): self.max_streams}
        if _places.take(limits):
            try:
                await self._stream(scope, receive, send)
            finally:
                _places.give_back(limits)
        else:
            try:
                await self._refuse("streams", scope, receive, send)
            finally:
                await self._close_unstarted()

    async def _refuse(self, what: str, scope: Scope, receive: Receive, send: Send) -> None:
        if observer.current is not None:
            observer.current.refused(scope)
        comes_back = self._comes_back(scope) and not self._cuts
        await self._answer_instead(refusal(what, self, comes_back), scope, receive, send)

    async def _answer_instead(
        self, answer: Response, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Sends what is no stream in the place of one. It is never compressed."""
        if self.compress:
            add_vary(answer)
        await answer(scope, receive, send)

    def _comes_back(self, scope: Scope) -> bool:
        """Returns whether the client has had a part of the stream before."""
        return bool(Headers(scope=scope).get("last-event-id"))

    def _answer_head(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Sends a stream that ends before it begins, so that its sends are bounded as any
        other's."""
        self._begins, self._source = False, None
        answering: Coroutine[Any, Any, None] = _delivery_class()(self, scope, receive, send).run()
        if self._replaced:
            answering = self._then_close_replaced(answering)
        return self._then_begin_again(answering)

    async def _then_begin_again(self, answering: Coroutine[Any, Any, None]) -> None:
        try:
            await answering
        finally:
            self._begins = True  # a GET may follow, if one response answers all requests


async def _body_of(
    content: Any,
    buffer: Buffer,
    explain: Callable[[Exception, object], Exception],
    close: Callable[[Buffer, BaseException | None], bool],
) -> AsyncIterator[bytes]:
    iterator = StreamingResponse(content).body_iterator.__aiter__()
    has_begun = False
    try:
        async for item in iterator:
            try:
                buffer.push(item)
            except Exception as error:
                raise explain(error, item) from error.__cause__
            if taken := buffer.take():
                has_begun = True
                yield taken
        close(buffer, None)
    except Exception as error:
        if has_begun:
            close(buffer, error)
            if taken := buffer.take():
                yield taken
        raise
    else:
        if taken := buffer.take():
            yield taken
    finally:
        await close_unstarted(iterator)
        if hasattr(content, "close"):  # a sync generator, which may block
            await run_in_threadpool(content.close)


@lru_cache
def _headers_of(media_type: str | None, charset: str) -> tuple[tuple[bytes, bytes], ...]:
    """Returns the headers of a stream that has none of its own: those of each are alike."""
    response = Response()
    response.media_type, response.charset = media_type, charset
    del response.body  # a length
    response.init_headers()
    return (*response.raw_headers, *_HEADERS)


def _encoded(headers: Mapping[str, str]) -> Iterator[tuple[bytes, bytes]]:
    for name, value in headers.items():
        yield name.lower().encode("latin-1"), value.encode("latin-1")


def _check_plain_function(cls: type, name: str) -> None:
    """Refuses a method that is not called as others are.

    Raises:
        TypeError: it is asynchronous, or a generator.
    """
    value = vars(cls).get(name)
    function = getattr(value, "__func__", value)
    if value is not None and not callable(function):
        raise TypeError(f"{name} of {cls.__name__} must be a method, not {type(value).__name__}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{name} of {cls.__name__} must be a plain function, not async: it is not awaited"
        )
    if inspect.isgeneratorfunction(function):
        raise TypeError(f"{name} of {cls.__name__} must return what is sent, not yield it")


def _check_headers(cls: type) -> None:
    headers: Any = vars(cls).get("default_headers", {})
    parts: list[Any] = [*headers.keys(), *headers.values()] if _is_mapping(headers) else [None]
    if not all(isinstance(part, str) for part in parts):
        raise TypeError(
            f"default_headers of {cls.__name__} must be a mapping of str to str, not {headers!r}"
        )


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _explained(origin: SourceName, scope: Scope, error: Exception, item: object) -> Exception:
    return origin.explain(error, item, scope)


# Iterables whose parts nobody means to send one by one.
_WHOLES: dict[Any, str] = {
    (str, bytes, bytearray, memoryview): "of which each character would be an event",
    Mapping: "of which the keys alone would be sent",
    BaseModel: "of which each field would be an event",
}
# Kinds that need no look at those: the classes of two of them look at an object for long.
_USUAL = AsyncGeneratorType, GeneratorType, list, tuple


def checked_content(rule: str, content: Any) -> Any:
    """Returns content that can be streamed, one item after the other.

    Args:
        rule: What takes the content, and which content it takes, for errors.
        content: What is to be streamed.

    Raises:
        TypeError: the content is no iterable of events; the message says what to do.
    """
    if isinstance(content, _USUAL):
        return content  # pyright: ignore[reportUnknownVariableType]
    kind = type(content).__name__
    into_list = "put it into a list to send it as one"
    for classes, why in _WHOLES.items():
        if isinstance(content, classes):
            raise TypeError(f"{rule}, not {kind}, {why}: {into_list}")
    if isinstance(content, (ServerSentEvent, FastAPIServerSentEvent)):
        raise TypeError(f"{rule}, not {kind}: {into_list}")
    if inspect.isawaitable(content) and not hasattr(content, "__aiter__"):
        # That of `__anext__()` and a future can be iterated too, which is how they are awaited.
        if isinstance(content, Coroutine):
            content.close()  # nobody else will
        raise TypeError(f"{rule}, not {kind}: await it, or yield in it")
    # The methods of a class are those of its instances.
    iterated: Any = type(content) if isinstance(content, type) else content
    if hasattr(iterated, "__aiter__") or hasattr(iterated, "__iter__"):
        return content
    if isinstance(content, type):
        raise TypeError(f"{rule}, not the class {content.__name__}: call it")
    hint = ": call it" if callable(content) else ""
    raise TypeError(f"{rule}, not {kind}{hint}")


async def _observed(
    observing: observer.Observer,
    response: Streamable,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    record = observing.opened(scope)
    delivery = _delivery_class()(response, scope, receive, send, record.metered)
    try:
        await delivery.run()
    finally:
        observing.closed(record, delivery.ending)


def _delivery_class() -> Any:
    if on_asyncio():
        return Delivery
    from .._delivery.on_trio import TrioDelivery

    return TrioDelivery


class _Injected:
    """The `Response` that FastAPI injects into endpoints and dependencies. FastAPI copies its
    headers when it makes the response; what the generator sets afterwards is applied here."""

    __slots__ = ("_copied", "_response")

    def __init__(self, response: Response) -> None:
        self._response = response
        self._copied = list(response.raw_headers)

    def apply(self, response: EventSourceResponse) -> None:
        if self._response.status_code:
            response.status_code = self._response.status_code
        current = self._response.raw_headers
        if current == self._copied:
            return
        for header in self._copied:
            if header not in current and header in response.raw_headers:
                response.raw_headers.remove(header)
        response._add_headers([header for header in current if header not in self._copied])
