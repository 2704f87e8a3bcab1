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

    It has one history; with `keyed=True`, one for each key. Every call of a keyed channel takes a
    `key`, and no call of another channel does.
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
        """Publishes an event to all who are subscribed, and to the history.

        Args:
            item: What a path operation can yield: a value for the `data` field, validated if the
                channel has a type, or an event without an `id`.
            key: Which of the channel's histories, of a channel with `keyed=True`.
            event: The name of the event, if the item is not an event that has one.
            conflate: Of the events that are pending for a slow subscriber, only the newest of each
                value is sent.
            ephemeral: Whether the event is in no history and has no id: it reaches those who are
                subscribed now and keep up. Of those with a `conflate`, the newest waits for who is
                slow. None, the default, for what the channel was given.

        Returns:
            The event's id; "" of an ephemeral event.

        Raises:
            TypeError: an argument has the wrong type; the message names it.
            ValueError: an argument breaks a rule, or a field of the event does.
            pydantic.ValidationError: the item is not of the channel's type.
            BrokerUnavailable: the broker could not be reached; nothing is published.
            PublishUncertain: the broker went away while the event was on its way; it may be
                published.
            RuntimeError: the channels are closed.
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

        Returns:
            A future for the event's id. What is wrong with an argument is raised at once.
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
        """Publishes several events, one after the other, with nothing between them: for imports,
        and for what has gathered. On Redis that takes one call.

        Args:
            items: Each as for `publish`. All are validated before the first is published.
            key: Which of the channel's histories, of a channel with `keyed=True`.
            event: The name of each event, if the item is not an event that has one.

        Returns:
            The ids of the events.

        Raises:
            TypeError: an argument has the wrong type; the message names it.
            ValueError: an argument breaks a rule, or a field of an event does.
            pydantic.ValidationError: an item is not of the channel's type.
            BrokerUnavailable: the broker could not be reached; none is published.
            PublishUncertain: the broker went away while the events were on their way; all of them
                may be published, or none.
            RuntimeError: the channels are closed.
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
        """Returns how many streams and listeners are subscribed; on Redis in all processes that
        answer within a second.

        Args:
            key: Which of the channel's histories, of a channel with `keyed=True`.

        Raises:
            TypeError: `key` has the wrong type.
            ValueError: `key` breaks a rule, or is missing, or must be left out.
            BrokerUnavailable: the broker could not be reached.
            RuntimeError: the channels are closed.
        """
        return await self._broker.count_subscribers(self._history_key(key))

    async def position(self, *, key: Key | None = None) -> str:
        """Returns the id of the newest event, or of the history's beginning where there is none
        yet: of the state with which an application starts, for `snapshot`.

        Args:
            key: Which of the channel's histories, of a channel with `keyed=True`.

        Raises:
            TypeError: `key` has the wrong type.
            ValueError: `key` breaks a rule, or is missing, or must be left out.
            BrokerUnavailable: the broker could not be reached.
            RuntimeError: the channels are closed.
        """
        position = await self._broker.position(self._history_key(key), self._definition.limits)
        return str(position)

    # Subscribing

    def on(
        self, key: Key | None = None, *, snapshot: Callable[..., Any] | None = None
    ) -> Selection:
        """Returns what `Channels.subscribe` takes, to have several channels in one stream; the
        arguments are those of `subscribe`."""
        definition = self._definition
        return Selection(
            self._history_key(key),
            definition.limits,
            definition.overflow,
            definition.max_subscribers,
            self._encoding.decode,
            snapshot=self._snapshot(key, snapshot),
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
            after: The last event ID of the client, as it came (`LastEventID`): it gets what is
                newer. An id that is of no use is said by an event `reset`, and then as `start`.
            start: Where somebody begins who has no id: "live", with what is published from now
                on; "earliest", with all the history; or with that many of the newest events.
            owner: The user whom this stream belongs to; `Channels.disconnect` ends all of their
                streams, and `max_subscribers_per_owner` counts them.
            filter: Is given each event, of the history too, and returns whether it is sent. It must
                not change the event's `data`, which other filters and listeners get too.
            snapshot: Returns the state of the channel, or of a `key`, with which it is called, and
                may be async. Clients get that, and then what is newer: new clients, and those that
                would get a `gap` or `reset`. A value becomes the data of an event `snapshot`; a
                `ServerSentEvent` is sent as it is, and its `id`, if it has one, is what `publish`
                returned for the newest event that the state has. One call, of 30 s at most, is
                shared by all who wait for the same function. `filter` is not asked about it.
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
        """Returns an async context manager for an async iterator of the channel's events; the
        arguments are those of `subscribe`. Filters and other listeners get the same `data`: copy
        it before you change it."""
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
