"""The protocol of a broker, which keeps the histories of channels.

`memory` keeps them in this process, `redis` in Redis. Another broker begins with `BaseBroker`, has
the rest of the same methods, and passes the same tests. `Channels(broker)` takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from .position import HistoryKey, Position, new_tag
from .ring import Entry, Retention


class BrokerError(Exception):
    """The base class of `BrokerUnavailable` and `PublishUncertain`."""


class BrokerUnavailable(BrokerError):
    """The broker could not be reached. The event is not published, and will not be."""


class Refused(BrokerUnavailable):
    """The broker was reached, and says why it does not do what it is asked."""


class ChannelsClosed(RuntimeError):
    """The channels are closed, and have not been entered again."""

    def __init__(self) -> None:
        super().__init__("These channels are closed")


class PublishUncertain(BrokerError):
    """The connection to the broker broke during a publish. Nobody knows whether the event was
    published, and it will not be published again. If you publish it again, it may be published
    twice."""


class Item(NamedTuple):
    """An event to publish; `Entry` documents the fields."""

    body: bytes
    raw: bool = False
    conflate: str | None = None
    #: Whether it goes to followers alone, by `receive_ephemeral`: it is in no history, and has no
    #: id.
    ephemeral: bool = False

    def entry(self, head: Position, time: float) -> Entry:
        """Returns the next entry of a history.

        Args:
            head: The position of the newest event.
            time: The time by the broker's clock.
        """
        position = Position(head.epoch, head.offset + 1, new_tag())
        return Entry(position, self.body, time, self.raw, self.conflate)


class Follower(Protocol):
    """Is given each new entry of a history. Called in any thread, in the order of offsets; never
    waits."""

    def receive(self, entry: Entry) -> bool:
        """Takes the next entry.

        Returns:
            Whether so many are waiting that the publisher should let the event loop turn.
        """
        ...

    def receive_ephemeral(self, item: Item) -> bool:
        """Takes an event that is in no history, and returns as `receive`."""
        ...

    def count(self) -> int:
        """Returns how many subscribers it gives the entries to."""
        ...

    def reset(self, reason: str, head: Position) -> None:
        """Says that what follows does not continue what came before.

        Args:
            reason: "epoch" or "diverged", as the event `reset` has it.
            head: The new position.
        """
        ...


class Broker(Protocol):
    """Keeps histories, and tells followers what is new.

    Each history has an epoch of its own, from when it is first followed or published to. Its limits
    are those of its channel, the same for all calls.

    Attributes:
        runs: The runs that are kept in the same place.
    """

    @property
    def runs(self) -> RunBroker:
        """The part for runs."""
        ...

    def open(self) -> None:
        """Begins, also again after `aclose`. Called in the event loop of the application, if it
        tells: without it, the first use begins.

        Raises:
            RuntimeError: the broker does not run on this event loop.
        """
        ...

    async def ready(self) -> None:
        """Returns when it can be used.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        ...

    def publish_soon(self, key: HistoryKey, limits: Retention, item: Item) -> Future[str]:
        """Appends an event. May be called in any thread.

        Returns:
            What will be the event's id, or raise as `publish`.
        """
        ...

    async def publish(self, key: HistoryKey, limits: Retention, item: Item) -> str:
        """Appends an event, and returns its id; "" of an ephemeral one.

        Raises:
            BrokerUnavailable: the broker could not be reached.
            PublishUncertain: it went away while the event was on its way.
        """
        ...

    async def publish_many(
        self, key: HistoryKey, limits: Retention, items: Sequence[Item]
    ) -> list[str]:
        """Appends several events, none of them ephemeral, one after the other: all of them or none.
        Returns their ids.

        Raises:
            BrokerUnavailable: the broker could not be reached.
            PublishUncertain: it went away while they were on their way.
        """
        ...

    async def count_subscribers(self, key: HistoryKey) -> int:
        """Returns how many subscribers a history has, in all processes that answer within a second.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        ...

    async def position(self, key: HistoryKey, limits: Retention) -> Position:
        """Returns the position of the newest event; the history begins, if there is none.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        ...

    async def follow(self, key: HistoryKey, limits: Retention, follower: Follower) -> Position:
        """Gives a follower all entries from now on, and returns the position after which.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        ...

    async def catch_up(self, key: HistoryKey) -> None:
        """Returns once the followers of a history have been given everything that was published to
        it before the call, in any process. A client may bring an id that has not come to them yet.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        ...

    def unfollow(self, key: HistoryKey, follower: Follower) -> None:
        """Gives a follower nothing more. Does nothing if it follows no longer."""
        ...

    async def read(
        self, key: HistoryKey, limits: Retention, first: int, before: int
    ) -> tuple[Position, list[Entry]]:
        """Returns entries of the history.

        Args:
            first: The offset of the first that is wanted.
            before: The offset before which to end.

        Returns:
            The position before the first entry returned, and the entries: without a hole up to
            `before`, and from `first` on unless those have been trimmed. Where nothing is left,
            the position is the one before `before`.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        ...

    def now(self) -> float:
        """Returns the time by the clock that `Entry.time` is taken from, in seconds."""
        ...

    async def aclose(self) -> None:
        """Ends what was started. What was accepted before is published, or raises."""
        ...


class Lease:
    """How long a producer has its run for itself, the same for all runs of a process.

    Attributes:
        RENEWAL: Seconds between two renewals.
        DURATION: Seconds until a lease that is not renewed is over.
    """

    RENEWAL = 5.0
    DURATION = 15.0


class Fenced(Exception):
    """Another has taken over, or the run has ended: nothing more of this producer is accepted."""


class RunRecord(NamedTuple):
    """The state of a run, as its broker knows it.

    Attributes:
        head: The position of its newest event; `NOWHERE` if there is none.
        end_body: Its last event, framed, without its id; None if it has not ended.
        is_evicted: Whether its history is no longer there, for want of memory.
        is_alive: Whether it has not ended, and its producer's lease lives.
    """

    head: Position
    end_body: bytes | None = None
    is_evicted: bool = False
    is_alive: bool = False

    @property
    def events(self) -> int:
        """How many events its generator has yielded."""
        return self.head.offset - (self.end_body is not None)


class RunBroker(Protocol):
    """Keeps runs: histories with one producer, and an end. Nothing of a run is trimmed, and nothing
    expires while it goes on; afterwards all of it does, after its `ttl`.

    A producer has a fence, which is its own, and a lease, which it renews: without that it is
    taken for dead.

    A key has one holder at a time, for as long as a lease lasts, which the holder renews too.
    """

    async def start(
        self, run: HistoryKey, ttl: float, on_stop: Callable[[str], None]
    ) -> str | None:
        """Begins a run.

        Args:
            ttl: For how many seconds it can be followed after its end.
            on_stop: Called in any thread when it is to stop, with the reason.

        Returns:
            The producer's fence; None if there is such a run already, whether or not it has ended.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        ...

    async def append(self, run: HistoryKey, fence: str, items: Sequence[Item]) -> None:
        """Appends events, in order.

        Raises:
            Fenced: this producer may append nothing more.
            BrokerUnavailable: the broker could not be reached. What is appended next begins with
                the same events, and so it is after a cancellation: they may be in the history
                already, and are not added twice.
        """
        ...

    @property
    def append_now(self) -> Callable[[HistoryKey, str, Sequence[Item]], bool] | None:
        """As `append`, for a broker that never has to be waited for; None for others.

        Returns whether the event loop should turn.
        """
        ...

    async def renew(self, run: HistoryKey, fence: str) -> str | None:
        """Renews the producer's lease, and returns the reason if the run is to stop.

        Raises:
            Fenced: this producer may append nothing more.
            BrokerUnavailable: the broker could not be reached.
        """
        ...

    async def end(self, run: HistoryKey, fence: str | None, item: Item) -> bool:
        """Appends the last event, unless there is one.

        Args:
            fence: The producer's; None for anyone, who can end it only once its lease is over.

        Returns:
            Whether it was appended.

        Raises:
            BrokerUnavailable: the broker could not be reached; the end may be tried again.
        """
        ...

    async def release(self, run: HistoryKey, fence: str) -> None:
        """Forgets a producer that has ended: it is told of a stop no more."""
        ...

    async def stop(self, run: HistoryKey, reason: str) -> bool:
        """Records that a run is to stop, the first time, and has its producer told.

        Returns:
            Whether there is such a run.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        ...

    async def status(self, run: HistoryKey) -> RunRecord | None:
        """Returns what is known of a run, None if there is none.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        ...

    async def claim(
        self, key: HistoryKey, holder: str, instead_of: str | None = None
    ) -> str | None:
        """Holds a key for `Lease.DURATION` from now, unless another holds it. The holder calls this
        again to renew that.

        Args:
            holder: Who is to hold it, and nobody else is called so.
            instead_of: Who may hold it, and then does no more.

        Returns:
            Who else holds it; None if the key is held as asked.

        Raises:
            BrokerUnavailable: the broker could not be reached; the key may be held all the same.
        """
        ...

    async def holder(self, key: HistoryKey) -> str | None:
        """Returns who holds a key.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        ...

    async def free(self, key: HistoryKey, holder: str) -> None:
        """Frees a key, if it is held by this one. Does not raise: where the broker cannot be
        reached, the key is free as soon as it can, or when its time is over."""
        ...
