"""One channel: what is published to it, and who gets it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar
from uuid import UUID

from .._core import ServerSentEvent
from .._delivery import observer
from .._runtime.checks import checked_bool
from .checks import (
    checked_items,
    checked_key,
    checked_request,
    checked_snapshot,
)
from .fanout.request import Filter, Overflow, Request, Selection, Snapshot, Start
from .history.broker import Broker, Item
from .history.encoding import Encoding
from .history.position import HistoryKey
from .history.ring import Retention
from .listener import Listener
from .subscription import Subscription

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .._fastapi.response import ResponseOptions

T = TypeVar("T")
#: A key of a channel, a key of runs, or an owner. Two keys with the same text are the same.
Key = str | int | UUID


class Definition(NamedTuple):
    """The arguments of `Channels.channel`."""

    name: str
    item_type: Any
    keyed: bool
    limits: Retention
    overflow: Overflow
    max_subscribers: int | None
    ephemeral: bool


class Channel(Generic[T]):
    """A channel of events, made by `Channels.channel`.

    A channel has one history, or with `keyed=True` one for each key. Every call of a keyed channel
    needs a `key`. No call of another channel may have one.
    """

    def __init__(
        self,
        definition: Definition,
        broker: Broker,
        subscribe: Callable[..., Any],
        listen: Callable[[Request], Listener],
    ) -> None:
        self._definition = definition
        self._broker = broker
        self._subscribe = subscribe
        self._listen = listen
        self._only_key = HistoryKey(definition.name, None)
        self._encoding = Encoding(definition.item_type, f"channel {definition.name!r}")
        self._decode = self._encoding.decode  # one for all selections
        # One for all subscribers, where there are no keys and no snapshot.
        self._selection = None if definition.keyed else self._select(self._only_key, None)

    def __repr__(self) -> str:
        return f"<Channel {self._definition.name!r}>"

    # Publishing

    async def publish(
        self,
        item: T | ServerSentEvent,
        *,
        key: Key | None = None,
        event: str | None = None,
        conflate: Key | None = None,
        ephemeral: bool | None = None,
    ) -> str:
        """Publishes an event to all subscribers, and stores it in the history.

        Args:
            item: A value for the `data` field, which is validated if the channel has a type, or an
                event without an `id`.
            key: Which of the channel's histories, of a channel with `keyed=True`.
            event: The name of the event, unless the item is an event with a name.
            conflate: A slow subscriber gets only the newest pending event of each `conflate` value.
            ephemeral: Whether the event is not stored and has no id. It then reaches only
                subscribers that are connected and keep up. With `conflate`, the newest event of
                each value waits for a slow subscriber. None, the default, takes the channel's
                setting.

        Returns:
            The event's id, or "" for an ephemeral event.

        Raises:
            TypeError: an argument has the wrong type; the message names it.
            ValueError: an argument breaks a rule, or a field of the event does.
            pydantic.ValidationError: the item is not of the channel's type.
            BrokerUnavailable: the broker could not be reached; nothing is published.
            PublishUncertain: the connection to the broker broke meanwhile; the event may be
                published.
            ChannelsClosed: the channels are closed.
        """
        history_key = self._history_key(key)
        event_id = await self._broker.publish(
            history_key, self._definition.limits, self._item(item, event, conflate, ephemeral)
        )
        self._count()
        return event_id

    def publish_soon(
        self,
        item: T | ServerSentEvent,
        *,
        key: Key | None = None,
        event: str | None = None,
        conflate: Key | None = None,
        ephemeral: bool | None = None,
    ) -> Future[str]:
        """Publishes as `publish` does, from a sync route or any thread, without waiting.

        Args:
            item, key, event, conflate, ephemeral: As in `publish`.

        Returns:
            A future of the event's id. If the broker cannot store the event, its result raises
            `BrokerUnavailable` or `PublishUncertain`.

        Raises:
            TypeError: an argument has the wrong type; the message names it.
            ValueError: an argument breaks a rule, or a field of the event does.
            pydantic.ValidationError: the item is not of the channel's type.
            ChannelsClosed: the channels are closed.
        """
        history_key = self._history_key(key)
        future = self._broker.publish_soon(
            history_key, self._definition.limits, self._item(item, event, conflate, ephemeral)
        )
        self._count()
        return future

    def _count(self) -> None:
        if observer.current is not None:
            observer.current.published(self._definition.name)

    def _item(
        self, item: Any, event: str | None, conflate: Key | None, ephemeral: bool | None
    ) -> Item:
        newest_of = None if conflate is None else checked_key("conflate", conflate)
        if ephemeral is None:
            ephemeral = self._definition.ephemeral
        else:
            checked_bool("ephemeral", ephemeral)
        encoded = self._encoding.item(item, event, newest_of)
        return encoded._replace(ephemeral=True) if ephemeral else encoded

    async def publish_many(
        self,
        items: Iterable[T | ServerSentEvent],
        *,
        key: Key | None = None,
        event: str | None = None,
    ) -> list[str]:
        """Publishes several events in order, with no other event between them, for example for an
        import. With Redis this takes one call.

        Args:
            items: Each as for `publish`. All are validated before the first is published.
            key: Which of the channel's histories, of a channel with `keyed=True`.
            event: The name of each event, unless the item is an event with a name.

        Returns:
            The ids of the events.

        Raises:
            TypeError: an argument has the wrong type; the message names it.
            ValueError: an argument breaks a rule, or a field of an event does.
            pydantic.ValidationError: an item is not of the channel's type.
            BrokerUnavailable: the broker could not be reached; none is published.
            PublishUncertain: the connection to the broker broke meanwhile; all events may be
                published, or none.
            ChannelsClosed: the channels are closed.
        """
        history_key, limits = self._history_key(key), self._definition.limits
        encoded = [self._item(each, event, None, None) for each in checked_items(items)]
        if self._definition.ephemeral:
            ids = [await self._broker.publish(history_key, limits, item) for item in encoded]
        elif encoded:
            ids = await self._broker.publish_many(history_key, limits, encoded)
        else:
            return []
        for _ in ids:
            self._count()
        return ids

    async def subscriber_count(self, *, key: Key | None = None) -> int:
        """Returns how many streams and listeners are subscribed. With Redis it counts those of all
        processes that answer within a second.

        Args:
            key: Which of the channel's histories, of a channel with `keyed=True`.

        Raises:
            TypeError: `key` has the wrong type.
            ValueError: `key` breaks a rule, or is missing, or must be left out.
            BrokerUnavailable: the broker could not be reached.
            ChannelsClosed: the channels are closed.
        """
        return await self._broker.count_subscribers(self._history_key(key))

    async def position(self, *, key: Key | None = None) -> str:
        """Returns the id of the newest event, or of the beginning of the history if there is no
        event yet. For `snapshot`, this is the id of the state with which your application starts.

        Args:
            key: Which of the channel's histories, of a channel with `keyed=True`.

        Raises:
            TypeError: `key` has the wrong type.
            ValueError: `key` breaks a rule, or is missing, or must be left out.
            BrokerUnavailable: the broker could not be reached.
            ChannelsClosed: the channels are closed.
        """
        position = await self._broker.position(self._history_key(key), self._definition.limits)
        return str(position)

    # Subscribing

    def on(
        self, key: Key | None = None, *, snapshot: Callable[..., Any] | None = None
    ) -> Selection:
        """Returns a selection for `Channels.subscribe`, which puts several channels into one
        stream.

        Args:
            key, snapshot: As in `subscribe`.

        Raises:
            TypeError: an argument has the wrong type; the message names it.
            ValueError: an argument breaks a rule; the message names it.
        """
        history_key = self._history_key(key)
        if snapshot is None and self._selection is not None:
            return self._selection
        return self._select(history_key, self._snapshot(key, snapshot))

    def _select(self, history_key: HistoryKey, snapshot: Snapshot | None) -> Selection:
        definition = self._definition
        return Selection(
            history_key,
            definition.limits,
            definition.overflow,
            definition.max_subscribers,
            self._decode,
            snapshot=snapshot,
        )

    @staticmethod
    def _snapshot(key: Key | None, function: Any) -> Snapshot | None:
        if checked_snapshot(function) is None:
            return None
        return Snapshot(function, () if key is None else (key,))

    def _made(self, selection: Selection) -> bool:
        """Returns whether a selection is one of this very channel."""
        return selection.limits is self._definition.limits

    def subscribe(
        self,
        *,
        key: Key | None = None,
        after: str | None = None,
        start: Start = "live",
        owner: Key | None = None,
        filter: Filter | None = None,
        snapshot: Callable[..., Any] | None = None,
        **options: Unpack[ResponseOptions],
    ) -> Subscription[T]:
        """Returns the response that streams the channel to a client.

        Args:
            key: Which of the channel's histories, of a channel with `keyed=True`.
            after: The last event ID of the client (`LastEventID`). The client gets newer events. If
                the id cannot be used, the client gets a `reset`, and then begins as `start` says.
            start: Where a client without an id begins: "live" with the next event, "earliest" with
                the whole history, a number with so many of the newest events.
            owner: The user that this stream belongs to; `Channels.disconnect` ends all of their
                streams, and `max_subscribers_per_owner` counts them.
            filter: A function that gets each event, including those of the history, and returns
                whether it is sent. It must not change the event's `data`, because other filters and
                listeners get the same object.
            snapshot: A function, which may be async, that returns the state of the channel. With
                `keyed=True` it is called with the `key`. New clients, and clients that would get a
                `gap` or `reset`, get this state, and then newer events. A value becomes the data of
                an event `snapshot`. A `ServerSentEvent` is sent unchanged. If it has an `id`, that
                must be the id that `publish` returned for the newest event in the state. Clients
                that wait for the same function share one call, which may take 30 s. `filter` does
                not apply to snapshots.
            options: `status_code`, `headers`, `background` and the options of
                `EventSourceResponse`.

        Raises:
            TypeError: an argument has the wrong type; the message names it.
            ValueError: an argument breaks a rule; the message names it.
        """
        request = self._request(key, after, start, filter, snapshot)
        subscription: Subscription[T] = self._subscribe(request, owner, options)
        return subscription

    def listen(
        self,
        *,
        key: Key | None = None,
        after: str | None = None,
        start: Start = "live",
        filter: Filter | None = None,
        snapshot: Callable[..., Any] | None = None,
    ) -> Listener:
        """Returns an async context manager for an async iterator over the channel's events. Filters
        and other listeners get the same `data`, so copy it before you change it.

        Args:
            key, after, start, filter, snapshot: As in `subscribe`.

        Raises:
            TypeError: an argument has the wrong type; the message names it.
            ValueError: an argument breaks a rule; the message names it.
        """
        return self._listen(self._request(key, after, start, filter, snapshot))

    def _request(
        self,
        key: Key | None,
        after: str | None,
        start: Start,
        filter: Filter | None,
        snapshot: Callable[..., Any] | None,
    ) -> Request:
        return checked_request(
            (self.on(key, snapshot=snapshot),),
            several=False,
            after=after,
            start=start,
            filter=filter,
        )

    def _history_key(self, key: Key | None) -> HistoryKey:
        name = self._definition.name
        if self._definition.keyed:
            if key is None:
                raise ValueError(f"`key` is missing: channel {name!r} was created with keyed=True")
            return HistoryKey(name, checked_key("key", key))
        if key is not None:
            raise ValueError(
                f"`key` must be left out: channel {name!r} was created without keyed=True"
            )
        return self._only_key
