"""All channels of an application, and the broker behind them."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from .._fastapi.response import EventSourceResponse
from .._runtime.checks import checked_bool, checked_count, checked_limit, checked_seconds
from .channel import Channel, Definition, Key
from .checks import (
    checked_broker,
    checked_key,
    checked_name,
    checked_overflow,
    checked_owner,
    checked_prefix,
    checked_request,
    checked_response_class,
    checked_selection,
    checked_url,
)
from .fanout.hubs import Hubs
from .fanout.owner_disconnects import OwnerDisconnects
from .fanout.request import Filter, Overflow, Request, Selection, Start
from .fanout.subscriber import Subscriber
from .history.broker import Broker
from .history.memory import MemoryBroker
from .history.ring import Retention
from .listener import Listener
from .runs.runs import Runs, RunsDefinition
from .subscription import Subscription

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .._fastapi.response import ResponseOptions

T = TypeVar("T")

#: How many channels one stream may have.
MAX_CHANNELS = 32


class Channels:
    """The channels of an application.

        channels = Channels()
        rooms = channels.channel("rooms", Message, keyed=True)
        app = FastAPI(lifespan=channels.lifespan)

    Without a URL the channels live in this process, and you need not start anything: `lifespan`, or
    `async with channels`, only ends open streams when the application ends.

        channels = Channels("redis://localhost:6379/0")

    With the URL of a Redis server all processes that use it share the channels. This needs `pip
    install "sserpent[redis]"`, and asyncio.

    Args:
        broker: The URL of a Redis server, in the form of redis-py: `redis://`, `rediss://` (with
            TLS) or `unix://`. With Sentinels `redis+sentinel://host:26379,host:26379/service/0`,
            for a cluster `redis+cluster://host:6379,host:6379`. None, the default, keeps everything
            in this process. You can also pass a broker of your own: an object with the methods of
            `sserpent.channels.history.broker.Broker`.
        prefix: The names of all keys and pub/sub channels in Redis begin with this.
        publish_timeout: How many seconds to wait for Redis before `BrokerUnavailable` is raised.
        max_subscribers: How many streams may be open in this process. None, the default, sets no
            limit. A further client gets a 503 with `Retry-After`. If it reconnects with an id, it
            gets an empty stream with a `retry` of 5 to 15 s instead.
        max_subscribers_per_owner: How many streams of one `owner` may be open in this process.
        shared_limits: Whether the limits of subscribers, including those of single channels, count
            the streams of all processes on this Redis together. The streams of a process that was
            killed count for another 15 s. Without Redis this changes nothing.

    Raises:
        TypeError: an argument has the wrong type; the message names it.
        ValueError: an argument breaks a rule; the message names it.
        ImportError: `broker` is a URL, and redis-py is not installed.
    """

    def __init__(
        self,
        broker: str | Broker | None = None,
        *,
        prefix: str = "sserpent",
        publish_timeout: float = 5.0,
        max_subscribers: int | None = None,
        max_subscribers_per_owner: int | None = None,
        shared_limits: bool = False,
    ) -> None:
        checked_limit("max_subscribers", max_subscribers)
        checked_limit("max_subscribers_per_owner", max_subscribers_per_owner)
        checked_bool("shared_limits", shared_limits)
        checked_prefix(prefix)
        checked_seconds("publish_timeout", publish_timeout)
        disconnects = OwnerDisconnects(lambda wanted: self._hubs.end(wanted))
        if isinstance(broker, str):
            url = checked_url(broker)
            self._broker = _redis_broker(url, prefix, publish_timeout, disconnects, shared_limits)
        else:
            self._broker = MemoryBroker() if broker is None else checked_broker(broker)
        self._disconnects = None if broker is None else disconnects
        self._hubs = Hubs(
            self._broker,
            max_subscribers,
            max_subscribers_per_owner,
            # The one on Redis follows them by itself.
            ends_disconnected=not isinstance(broker, (str, type(None))),
        )
        if shared_limits:
            self._hubs.share_limits()
        self._named: dict[str, Channel[Any] | Runs[Any]] = {}
        self._lock = threading.RLock()  # a finalizer may make a channel while it is held

    # An application's life

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncGenerator[None, None]:
        """Enters the channels for an application: `FastAPI(lifespan=channels.lifespan)`."""
        async with self:
            yield

    async def __aenter__(self) -> Channels:
        self._broker.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def ready(self) -> None:
        """Returns when events can be published and received: for a readiness check. Without Redis
        it returns at once, with Redis when Redis answers, within `publish_timeout`.

        Raises:
            BrokerUnavailable: Redis cannot be reached, or refuses commands; the message has the
                address and the reason.
            ChannelsClosed: the channels are closed.
        """
        await self._broker.ready()

    async def aclose(self) -> None:
        """Ends all runs, each within its `shutdown_grace`, and then all streams, and frees the
        histories in memory. After that `publish` raises `ChannelsClosed`, until the channels are
        entered again."""
        several = [named for named in list(self._named.values()) if isinstance(named, Runs)]
        for runs in several:
            runs._shut_down()
            runs._log_wait()
        for runs in several:
            await runs._ended()
        self._hubs.end_all()
        await self._broker.aclose()

    async def disconnect(self, *, owner: Key) -> int:
        """Ends the streams that were opened with this `owner`, for example after a logout. With
        Redis it ends them in every process, even one that is just reconnecting to Redis, as soon as
        it has reconnected.

        Args:
            owner: The owner of the streams, compared by its text: 7 is "7".

        Returns:
            How many streams were ended in this process.

        Raises:
            TypeError: `owner` is no str, int or UUID.
            BrokerUnavailable: Redis could not be reached. The streams of this process are ended.
            PublishUncertain: The connection to Redis broke meanwhile. The streams of this process
                are ended.
        """
        text = checked_key("owner", owner)
        ended = self._hubs.end(lambda each: each.owner == text)
        if self._disconnects is not None:
            await self._disconnects.publish(self._broker, text)
        return ended

    # Channels

    @overload
    def channel(
        self,
        name: str,
        item_type: type[T],
        *,
        keyed: bool = ...,
        history: int = ...,
        history_ttl: float = ...,
        history_bytes: int = ...,
        overflow: Overflow = ...,
        max_subscribers: int | None = ...,
        ephemeral: bool = ...,
    ) -> Channel[T]: ...

    @overload
    def channel(
        self,
        name: str,
        item_type: Any = None,
        *,
        keyed: bool = ...,
        history: int = ...,
        history_ttl: float = ...,
        history_bytes: int = ...,
        overflow: Overflow = ...,
        max_subscribers: int | None = ...,
        ephemeral: bool = ...,
    ) -> Channel[Any]: ...

    def channel(
        self,
        name: str,
        item_type: Any = None,
        *,
        keyed: bool = False,
        history: int = 1_000,
        history_ttl: float = 3_600,
        history_bytes: int = 4 * 2**20,
        overflow: Overflow = "gap",
        max_subscribers: int | None = None,
        ephemeral: bool = False,
    ) -> Channel[Any]:
        """Makes a channel. Its history is stored for clients that reconnect or subscribe later.

        Args:
            name: The name of the channel. No other channel of this object has it.
            item_type: The type of the published items, which pydantic validates. Without it any
                item can be published.
            keyed: Whether there is a history for each `key`, for example for each room or user.
                Every call then needs a `key`. Otherwise no call may have one.
            history: How many events are stored for each key. With 0 no events are replayed: only
                the newest is stored, to know which id comes next.
            history_ttl: How many seconds each event is stored. A key that is not used for so long
                is deleted.
            history_bytes: How many bytes of events are stored for each key.
            overflow: What happens to a slow subscriber whose next events are no longer stored.
                "gap" tells it how many events it has missed, and continues. "latest" continues with
                the newest event. "disconnect" ends its stream, so that it can reconnect with its
                last event ID.
            max_subscribers: How many streams of this channel may be open in this process.
            ephemeral: Whether events are not stored in the history, unless `publish` says
                otherwise. For typing indicators, cursors and presence.

        Raises:
            TypeError: an argument has the wrong type; the message names it.
            ValueError: an argument breaks a rule; the message names it.
        """
        definition = Definition(
            checked_name("name", name),
            item_type,
            checked_bool("keyed", keyed),
            Retention(
                checked_count("history", history, 0),
                checked_seconds("history_ttl", history_ttl),
                checked_count("history_bytes", history_bytes, 1),
            ),
            checked_overflow(overflow),
            checked_limit("max_subscribers", max_subscribers),
            checked_bool("ephemeral", ephemeral),
        )
        channel: Channel[Any] = Channel(definition, self._broker, self._subscribe, self._listen)
        self._add(name, channel)
        return channel

    @overload
    def runs(
        self,
        name: str,
        item_type: type[T],
        *,
        ttl: float = ...,
        max_bytes: int = ...,
        shutdown_grace: float = ...,
        max_threads: int = ...,
        max_runs_per_owner: int | None = ...,
        response_class: type[EventSourceResponse] = ...,
    ) -> Runs[T]: ...

    @overload
    def runs(
        self,
        name: str,
        item_type: Any = None,
        *,
        ttl: float = ...,
        max_bytes: int = ...,
        shutdown_grace: float = ...,
        max_threads: int = ...,
        max_runs_per_owner: int | None = ...,
        response_class: type[EventSourceResponse] = ...,
    ) -> Runs[Any]: ...

    def runs(
        self,
        name: str,
        item_type: Any = None,
        *,
        ttl: float = 3_600,
        max_bytes: int = 4 * 2**20,
        shutdown_grace: float = 20,
        max_threads: int = 1_000,
        max_runs_per_owner: int | None = None,
        response_class: type[EventSourceResponse] = EventSourceResponse,
    ) -> Runs[Any]:
        """Makes runs: generators that go on when their clients disconnect.

            runs = channels.runs("answers", str)

        Args:
            name: The name of these runs. No channel of this object may have it.
            item_type: The type of the items, or of the events, that the generators yield. pydantic
                validates them. Without it they can yield anything.
            ttl: How many seconds a run can be followed after its end.
            max_bytes: How many bytes of events a run may have. A run that yields more ends with an
                error.
            shutdown_grace: How many seconds a run may go on when its server shuts down. Then it
                ends as "stopped", with the reason "shutdown". Set it below the time after which the
                server is killed (30 s on Kubernetes), so that the end can still be stored.
            max_threads: How many sync generators of these runs may be active at the same time in
                this process. Each has its own thread, and further ones wait.
            max_runs_per_owner: How many of these runs may be active for one `owner` in this
                process. None, the default, sets no limit. Beyond it `Runs.start` raises a 429.
            response_class: The class of the responses that follow these runs, with its options,
                headers and protocol (`sserpent.protocols`). Use the same class in every process.

        Raises:
            TypeError: an argument has the wrong type; the message names it.
            ValueError: an argument breaks a rule; the message names it.
        """
        definition = RunsDefinition(
            checked_name("name", name),
            None if item_type is Any else item_type,
            checked_seconds("ttl", ttl),
            checked_count("max_bytes", max_bytes, 1),
            checked_seconds("shutdown_grace", shutdown_grace, or_zero=True),
            checked_count("max_threads", max_threads, 1),
            checked_limit("max_runs_per_owner", max_runs_per_owner),
            checked_response_class(response_class),
        )
        runs: Runs[Any] = Runs[Any]._made(definition, self._hubs, self._broker.runs)
        self._add(name, runs)
        return runs

    def _add(self, name: str, named: Channel[Any] | Runs[Any]) -> None:
        with self._lock:
            if name in self._named:
                raise ValueError(f"'name' must be new: there are channels or runs '{name}' already")
            self._named[name] = named

    # Subscribing

    def subscribe(
        self,
        *selections: Selection,
        after: str | None = None,
        start: Start = "live",
        owner: Key | None = None,
        filter: Filter | None = None,
        **options: Unpack[ResponseOptions],
    ) -> Subscription[Any]:
        """Returns the response that streams several channels to a client. Its last event ID covers
        all of them.

            channels.subscribe(news.on(), rooms.on(room), after=last_event_id)

        Args:
            selections: Up to 32 values that `Channel.on` returns.
            after, start, owner, filter, options: As in `Channel.subscribe`.

        Raises:
            TypeError: an argument has the wrong type; the message names it.
            ValueError: an argument breaks a rule; the message names it.
        """
        for selection in selections:
            channel = self._named.get(checked_selection(selection).key.channel)
            if not (isinstance(channel, Channel) and channel._made(selection)):
                raise ValueError("'selections' must be of these channels")
        if not 1 <= len(selections) <= MAX_CHANNELS:
            raise ValueError(f"'selections' must be 1 to {MAX_CHANNELS}, not {len(selections)}")
        if len({selection.key.label for selection in selections}) < len(selections):
            raise ValueError("'selections' must not have the same channel and key twice")
        request = checked_request(selections, several=True, after=after, start=start, filter=filter)
        return self._subscribe(request, owner, options)

    def _subscribe(
        self, request: Request, owner: Key | None, options: ResponseOptions
    ) -> Subscription[Any]:
        return Subscription(self._hubs, request, checked_owner(owner), **options)

    def _listen(self, request: Request) -> Listener:
        return Listener(lambda: Subscriber(self._hubs.hub(), request))


def _redis_broker(
    url: str, prefix: str, timeout: float, disconnects: OwnerDisconnects, shares_limits: bool
) -> Broker:
    try:
        from .redis import Pace, RedisBroker
    except ImportError as error:
        raise ImportError(
            f'Channels on Redis need redis-py and hiredis: pip install "sserpent[redis]" ({error})'
        ) from error
    return RedisBroker(url, prefix, Pace(timeout), disconnects, shares_limits)
