"""The hub of each event loop, and how many subscribers there may be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..._fastapi.limits import Slots
from ..._runtime.loops import current_token
from ..history.broker import Broker
from .hub import Hub, HubSubscriber
from .request import Request


class Hubs:
    """The hub of each event loop, and how many subscribers there may be.

    Args:
        log: Where the streams come from.
        max_subscribers: How many there may be in all; None for any number.
        max_per_owner: How many of one owner; None for any number.

    Attributes:
        places: Where they are counted.
    """

    def __init__(self, log: Broker, max_subscribers: int | None, max_per_owner: int | None) -> None:
        self.log = log
        self.places = Slots()
        self._max_subscribers = max_subscribers
        self._max_per_owner = max_per_owner
        # Reentrant: a finalizer that runs while it is held may end a stream.
        self._lock = threading.RLock()
        self._hubs: dict[Any, Hub] = {}

    def hub(self) -> Hub:
        """Returns the hub of the running event loop."""
        token = current_token()
        with self._lock:
            hub = self._hubs.get(token)
            if hub is None:
                self._hubs = {t: h for t, h in self._hubs.items() if not h.has_ended()}
                hub = self._hubs[token] = Hub(self.log, self._forget)
            return hub

    def _forget(self, hub: Hub) -> None:
        with self._lock:
            self._hubs = {t: h for t, h in self._hubs.items() if h is not hub}

    def limits_of(self, request: Request, owner: str | None) -> dict[Any, int]:
        """Returns how many subscribers there may be, for each of what has a limit."""
        limits: dict[Any, int] = {
            selection.stream.channel: selection.max_subscribers
            for selection in request.selections
            if selection.max_subscribers is not None
        }
        if self._max_subscribers is not None:
            limits[None] = self._max_subscribers
        if self._max_per_owner is not None and owner is not None:
            limits["owner", owner] = self._max_per_owner
        return limits

    def end(self, wanted: Callable[[HubSubscriber], bool]) -> int:
        """Ends the streams of some subscribers, and returns how many that are."""
        with self._lock:
            hubs = list(self._hubs.values())
        return sum(hub.end(wanted) for hub in hubs)

    def end_all(self) -> None:
        """Ends all streams. Who comes after that follows the log anew."""
        with self._lock:
            hubs, self._hubs = self._hubs, {}
        for hub in hubs.values():
            hub.end(lambda _: True)
