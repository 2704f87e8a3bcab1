"""Ends the streams of one user in all processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

from ..history.broker import Broker, Item
from ..history.position import HistoryKey, Position
from ..history.ring import Entry, Retention

#: Where they are published. No channel has an empty name.
HISTORY = HistoryKey("", None)
LIMITS = Retention(1_000, 3_600, 4 * 2**20)


class Owned(Protocol):
    """A subscriber that may belong to a user."""

    @property
    def owner(self) -> str | None:
        """The user it belongs to, or None."""
        ...


class OwnerDisconnects:
    """Ends, in this process, the streams of owners that are published to `HISTORY`.

    Args:
        end: Ends those subscribers of this process of which a function says so.
    """

    def __init__(self, end: Callable[[Callable[[Owned], bool]], object]) -> None:
        self._end = end
        self._offset: int | None = None

    async def publish(self, broker: Broker, owner: str) -> None:
        """Ends the streams of an owner in every process.

        Raises:
            BrokerUnavailable: the broker could not be reached.
            PublishUncertain: the broker went away while the event was on its way.
        """
        await broker.publish(HISTORY, LIMITS, Item(_digest(owner)))

    # Called by the broker

    def receive(self, entry: Entry) -> bool:
        if self._offset is not None and entry.offset != self._offset + 1:
            self._end_all()
        self._offset = entry.offset
        owner = entry.body
        self._end(lambda each: each.owner is not None and _digest(each.owner) == owner)
        return False

    def receive_ephemeral(self, item: Item) -> bool:
        return False  # there are none

    def count(self) -> int:
        return 0

    def reset(self, reason: str, head: Position) -> None:
        self._offset = head.offset
        self._end_all()

    def _end_all(self) -> None:
        """Ends all streams with an owner: the events that were missed may have named any of them.
        Their clients reconnect."""
        self._end(lambda each: each.owner is not None)


def _digest(owner: str) -> bytes:
    """Returns what stands for an owner in the broker, where its name is not to be read."""
    return hashlib.sha256(owner.encode()).hexdigest().encode()
