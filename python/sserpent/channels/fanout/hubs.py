"""The hub of each event loop, and how many subscribers there may be."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from ..._fastapi.limits import Slots
from ..._runtime.loops import current_token, nothing
from ..history.broker import Broker
from .hub import Hub, HubSubscriber
from .owner_disconnects import Owned
from .request import Request

# How many disconnects are kept for streams that are about to open.
_KEPT = 1_000

#: Gives places back that were taken.
GiveBack = Callable[[], None]


@runtime_checkable
class SharedLimits(Protocol):
    """Counts subscribers in all processes."""

    async def take_slots(self, limits: Mapping[Any, int]) -> GiveBack | None:
        """Takes a place under each limit, and returns what gives them back; None if there is not a
        place under each, and none was taken.

        Raises:
            BrokerUnavailable: the broker could not be reached.
        """
        ...


class Hubs:
    """The hub of each event loop, and how many subscribers there may be.

    Args:
        broker: Keeps the histories.
        max_subscribers: How many there may be in all; None for any number.
        max_per_owner: How many of one owner; None for any number.
        ends_disconnected: Whether the hubs, not the broker, follow `owner_disconnects.HISTORY`.

    Attributes:
        slots: Counts the subscribers.
        disconnects: How many times owners were disconnected.
    """

    def __init__(
        self,
        broker: Broker,
        max_subscribers: int | None,
        max_per_owner: int | None,
        ends_disconnected: bool = False,
    ) -> None:
        self.broker = broker
        self.slots = Slots()
        self.disconnects = 0
        self._latest_disconnects: deque[Callable[[Owned], bool]] = deque(maxlen=_KEPT)
        #: Where they are counted in all processes, if limits are shared.
        self.shared: SharedLimits | None = None
        self._max_subscribers = max_subscribers
        self._ends_disconnected = ends_disconnected
        self._max_per_owner = max_per_owner
        # Reentrant: a finalizer that runs while it is held may end a stream.
        self._lock = threading.RLock()
        self._by_loop: dict[Any, Hub] = {}

    def hub(self) -> Hub:
        """Returns the hub of the running event loop."""
        token = current_token()
        with self._lock:
            hub = self._by_loop.get(token)
            if hub is None:
                self._by_loop = {t: h for t, h in self._by_loop.items() if not h.has_ended()}
                end = self.end if self._ends_disconnected else None
                hub = self._by_loop[token] = Hub(self.broker, self._forget, end)
            return hub

    def known(self, token: Any) -> Hub | None:
        """Returns the hub of an event loop, if it has one."""
        return self._by_loop.get(token)

    def _forget(self, hub: Hub) -> None:
        with self._lock:
            self._by_loop = {t: h for t, h in self._by_loop.items() if h is not hub}

    def limits_of(self, request: Request, owner: str | None) -> dict[Any, int]:
        """Returns how many subscribers there may be, for each of what has a limit."""
        limits: dict[Any, int] = {
            selection.key.channel: selection.max_subscribers
            for selection in request.selections
            if selection.max_subscribers is not None
        }
        if self._max_subscribers is not None:
            limits[None] = self._max_subscribers
        if self._max_per_owner is not None and owner is not None:
            limits["owner", owner] = self._max_per_owner
        return limits

    def share_limits(self) -> None:
        """Counts subscribers in all processes, if the broker does."""
        if isinstance(self.broker, SharedLimits):
            self.shared = self.broker

    async def take(self, limits: Mapping[Any, int]) -> GiveBack | None:
        """Takes a place under each limit, and returns what gives them back; None if there is not a
        place under each, and none was taken.

        Raises:
            BrokerUnavailable: limits are shared, and the broker could not be reached.
        """
        if not limits:
            return nothing
        if not self.slots.take(limits):
            return None
        if self.shared is None:
            return lambda: self.slots.give_back(limits)
        give_back_shared: GiveBack | None = None
        try:
            give_back_shared = await self.shared.take_slots(limits)
        finally:
            if give_back_shared is None:
                self.slots.give_back(limits)
        if give_back_shared is None:
            return None
        give_back = give_back_shared

        def give_all_back() -> None:
            self.slots.give_back(limits)
            give_back()

        return give_all_back

    def end(self, wanted: Callable[[Owned], bool]) -> int:
        """Ends the streams of some owners, and returns how many that are."""
        with self._lock:
            # Before the look at who is open: who opens later looks at this.
            self._latest_disconnects.append(wanted)
            self.disconnects += 1
            hubs = list(self._by_loop.values())
        return sum(hub.end(wanted) for hub in hubs)

    def end_late(self, subscriber: HubSubscriber, before: int) -> None:
        """Ends a stream that has just opened, if its owner was disconnected while it was about to.

        Args:
            before: `disconnects`, when the response was made.
        """
        with self._lock:
            missed, latest = self.disconnects - before, list(self._latest_disconnects)
        if missed > len(latest) or any(wanted(subscriber) for wanted in latest[-missed:]):
            subscriber.disconnected = True
            subscriber.end()

    def end_all(self) -> None:
        """Ends all streams. Later subscribers follow the broker anew."""
        with self._lock:
            hubs, self._by_loop = self._by_loop, {}
        for hub in hubs.values():
            hub.end(lambda _: True)
