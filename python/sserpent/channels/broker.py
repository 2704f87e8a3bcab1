"""What channels need of whoever keeps their histories: the protocol of a log.

`memory` keeps them in this process, `redis` in Redis; another takes the same few methods, and
passes the same tests.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import NamedTuple, Protocol

from .log import Entry, Limits
from .position import Position, Stream


class BrokerUnavailable(Exception):
    """The broker could not be reached: what was to be published is not, and will not be."""


class PublishUncertain(BrokerUnavailable):
    """The broker went away while an event was on its way: whether it was published is not known,
    and it will not be published again."""


class Item(NamedTuple):
    """What is published: see `Entry`."""

    body: bytes
    raw: bool = False
    conflate: str | None = None


class Follower(Protocol):
    """Who is told of each new entry of a stream. Called in any thread, in the order of offsets;
    never waits."""

    def receive(self, entry: Entry) -> bool:
        """Takes the next entry.

        Returns:
            Whether so many are waiting that the publisher should let the event loop turn.
        """
        ...

    def reset(self, reason: str, head: Position) -> None:
        """Says that what follows does not continue what came before.

        Args:
            reason: "epoch" or "diverged", as the event `reset` has it.
            head: The new position.
        """
        ...


class Log(Protocol):
    """Keeps histories, and tells followers what is new.

    Each stream is created by its first event and has an epoch of its own. Its limits are those of
    its channel, the same for all calls.
    """

    def publish_soon(self, stream: Stream, limits: Limits, item: Item) -> Future[str]:
        """Appends an event. May be called in any thread.

        Returns:
            What will be the event's id, or raise as `publish`.
        """
        ...

    async def publish(self, stream: Stream, limits: Limits, item: Item) -> str:
        """Appends an event, and returns its id.

        Raises:
            BrokerUnavailable: the broker could not be reached.
            PublishUncertain: it went away while the event was on its way.
        """
        ...

    async def follow(self, stream: Stream, limits: Limits, follower: Follower) -> Position:
        """Gives a follower all entries from now on, and returns the position after which.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        ...

    def unfollow(self, stream: Stream, follower: Follower) -> None:
        """Gives a follower nothing more. Does nothing if it follows no longer."""
        ...

    async def read(
        self, stream: Stream, limits: Limits, first: int, before: int
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
