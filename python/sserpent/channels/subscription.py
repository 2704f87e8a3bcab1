"""The response that streams channels to one client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import ref

from fastapi import HTTPException
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from .._core import Buffer
from .._delivery.options import set_unchecked
from .._delivery.source_name import SourceName
from .._fastapi.limits import empty_stream, headers_of_503
from .._fastapi.response import EventSourceResponse
from .fanout.hubs import Hubs
from .fanout.request import Request
from .fanout.subscriber import Subscriber
from .history.broker import BrokerError, ChannelsClosed
from .listener import Sink

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .._delivery.compression import Compression
    from .._delivery.source import Pending
    from .._fastapi.response import ResponseOptions

T_co = TypeVar("T_co", covariant=True)


class Subscription(EventSourceResponse, Generic[T_co]):
    """The response that streams channels to one client. `Channel.subscribe` and
    `Channels.subscribe` return it.

    It has all options of `EventSourceResponse` but `framed` and `open_delay`: its headers are sent
    as soon as the client is subscribed, so that it gets every event that is published from then on.

    `Subscription[Message]` as a route's return annotation puts the type of the items into the
    OpenAPI document.
    """

    _no_options = {  # noqa: RUF012
        **EventSourceResponse._no_options,
        "open_delay": "its headers are sent as soon as the client is subscribed",
        "framed": "its events are framed where they are published",
    }

    _content: Any = ()
    _hubs: Hubs
    _request: Request
    _owner: str | None
    # How often owners had been disconnected when this was made.
    _disconnects_before: int

    _arguments = (
        "key",
        "after",
        "start",
        "owner",
        "filter",
        "snapshot",
        *EventSourceResponse._arguments,
    )

    if not TYPE_CHECKING:  # FastAPI looks for a class where a route returns a response

        def __class_getitem__(cls, item_type: Any) -> type:
            return type(cls.__name__, (cls,), {"item_type": item_type, "__doc__": cls.__doc__})

    def __init__(
        self,
        hubs: Hubs,
        request: Request,
        owner: str | None = None,
        **options: Unpack[ResponseOptions],
    ) -> None:
        set_unchecked(self, "_hubs", hubs)
        set_unchecked(self, "_request", request)
        set_unchecked(self, "_owner", owner)
        if owner is not None:
            set_unchecked(self, "_disconnects_before", hubs.disconnects)
        # Not the `__init__` of a class which stands between, as where a run is followed. There is
        # no content: the stream finds its source, a subscriber, when it begins.
        self._set_up(**options)

    def _readable(self) -> Any:
        return _Frames(self)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        if scope["type"] == "websocket":
            # It can only be denied, and a denial has an end.
            return Response(None, self.status_code, self.headers)(scope, receive, send)
        return super().__call__(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        limits = self._hubs.limits_of(self._request, self._owner)
        try:
            give_back = await self._hubs.take(limits)
        except (BrokerError, ChannelsClosed):
            if self._cuts:
                raise broker_is_away(self.compress) from None
            await self._answer_instead(empty_stream(self), scope, receive, send)
            return
        if give_back is None:
            await self._refuse("subscribers", scope, receive, send)
            return
        subscriber = self._make_subscriber()
        try:
            if self._replaced:  # what was put in the place of the events subscribes by itself
                await super()._stream(scope, receive, send)
            elif await self._open(subscriber):
                self._check_opened(subscriber)
                set_unchecked(self, "_source", subscriber)
                if subscriber.holds_headers:
                    set_unchecked(self, "open_delay", None)
                await super()._stream(scope, receive, send)
            elif self._cuts:
                raise broker_is_away(self.compress)
            else:
                await self._answer_instead(empty_stream(self), scope, receive, send)
        finally:
            subscriber.close()
            give_back()

    def _make_subscriber(self) -> Subscriber:
        return Subscriber(self._hubs.hub(), self._request, self.max_pending, self._owner)

    async def _open(self, subscriber: Subscriber) -> bool:
        """Opens a subscriber, and returns whether the broker could be reached."""
        try:
            await subscriber.open()
        except (BrokerError, ChannelsClosed):
            return False
        if self._owner is not None and self._hubs.disconnects != self._disconnects_before:
            self._hubs.end_late(subscriber, self._disconnects_before)
        return True

    def _check_opened(self, subscriber: Subscriber) -> None:
        """Raises a HTTPException if what was opened cannot be followed."""

    def _make_buffer(self) -> Buffer:
        return Buffer(max_pending=self.max_pending, framed=True)

    def _start_message(self) -> Message:
        subscriber = self._source
        if isinstance(subscriber, Subscriber) and subscriber.lost_snapshot is not None:
            set_unchecked(self, "_gzip", False)  # all that is sent is when to come back
        return super()._start_message()

    def _make_compression(self, plain: Pending) -> Compression:
        subscriber = self._source
        if isinstance(subscriber, Subscriber) and subscriber.is_alike:
            from .fanout.shared_compression import SharedCompression  # needs zlib

            return SharedCompression(plain, subscriber)
        return super()._make_compression(plain)

    def _comes_back(self, scope: Scope) -> bool:
        return bool(self._request.after)


Subscription._origin = SourceName(Subscription)


def broker_is_away(compress: bool) -> HTTPException:
    """Returns the error for a client that comes while the broker cannot be reached."""
    return HTTPException(503, "The broker is away", headers_of_503(compress))


class _Frames:
    """The bytes of a subscription without keep-alives and goodbyes, for readers of
    `body_iterator`.

    Args:
        subscription: Whose content this is; it is referred to weakly.
    """

    def __init__(self, subscription: Subscription[Any]) -> None:
        self._subscription = ref(subscription)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        subscription = self._subscription()
        if subscription is None:
            return
        subscriber, sink = subscription._make_subscriber(), Sink()
        try:
            if not await subscription._open(subscriber):
                return
            subscriber.start(sink)
            while True:
                if subscriber.pending:
                    yield subscriber.take_without_goodbye()
                elif not (sink.finished or sink.error):
                    await sink.wait()
                elif subscription._close(subscriber, sink.error):
                    if subscriber.pending:
                        yield subscriber.take_without_goodbye()
                    return
                elif sink.error is not None:
                    raise sink.error
                else:
                    return
        finally:
            subscriber.close()
