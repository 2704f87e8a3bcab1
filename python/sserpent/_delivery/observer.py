"""Counts what streams and channels do, for `metrics`. Until somebody observes, nothing is counted,
and streams cost nothing more.

Events and bytes are added up in the record of each open stream, and read when they are asked for.
Listeners are told of what happens once in the life of a stream, such as its end.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from starlette.types import Scope

from .._core import Meter
from .generator_thread import running_threads
from .life import Ending

if TYPE_CHECKING:
    from .source import Pending, Wire


class Record:
    """The account of one open stream so far.

    Attributes:
        route: Which route it is of.
        opened_at: When it was opened.
    """

    __slots__ = ("_meter", "_observer", "_pending", "_wire", "opened_at", "route")

    def __init__(self, observer: Observer, route: str) -> None:
        self._observer = observer
        self.route = route
        self.opened_at = monotonic()
        self._meter: Meter | None = None
        self._pending: Pending | None = None
        self._wire: Wire | None = None

    def metered(self, pending: Pending, wire: Wire) -> Pending:
        """Returns a meter, which counts what is taken of a stream's events."""
        told = partial(self._observer.first_event, self.route, self.opened_at)
        self._pending = pending
        self._wire = wire
        self._meter = Meter(pending, told)
        return self._meter

    def totals(self) -> dict[str, int]:
        """Returns what the stream has sent so far: events, bytes before and after compression, and
        calls of `send`."""
        sends, events, sent_bytes = (0, 0, 0) if self._meter is None else self._meter.counted
        wire_bytes = 0 if self._wire is None else self._wire.wire_bytes(sent_bytes)
        return {
            "events": events,
            "sent_bytes": sent_bytes,
            "wire_bytes": wire_bytes,
            "sends": sends,
        }

    def pending_bytes(self) -> int:
        """Returns how many bytes wait for the stream's client now."""
        of_source = getattr(self._pending, "pending_bytes", None)
        if of_source is not None:
            return int(of_source())
        return 0 if self._pending is None else self._pending.pending


class MetricsSink(Protocol):
    """An exporter, which is told of first events, ends, gaps and resets. It is called in the event
    loop of the stream, and must not raise."""

    def first_event(self, route: str, seconds: float) -> None:
        """Called when the first event of a stream has been sent, so many seconds after it was
        opened."""
        ...

    def ended(self, route: str, reason: str, seconds: float) -> None:
        """Called when a stream has ended, so many seconds after it was opened, for the reason of an
        `Ending`."""
        ...

    def gap(self, channel: str, reason: str, missed: int) -> None:
        """Called when a subscriber has been told that it has missed so many events."""
        ...

    def reset(self, channel: str, reason: str) -> None:
        """Called when a subscriber has been told that continuity cannot be proved."""
        ...


class Observer:
    """Knows the open streams of this process, and what all streams have done. Safe to use from any
    thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[Record] = set()
        # By route: of the streams that have ended, and how many never began.
        self._ended: dict[str, Counter[str]] = {}
        self._published: Counter[str] = Counter()
        self._listeners: tuple[MetricsSink, ...] = ()

    def listen(self, listener: MetricsSink) -> Callable[[], None]:
        """Has a listener told, and returns what ends that."""
        with self._lock:
            self._listeners = (*self._listeners, listener)
        return lambda: self._forget(listener)

    def _forget(self, listener: MetricsSink) -> None:
        with self._lock:
            self._listeners = tuple(each for each in self._listeners if each is not listener)

    # For streams and channels

    def opened(self, scope: Scope) -> Record:
        """Notes that a stream begins, and returns its record, which `closed` is called with."""
        record = Record(self, route_of(scope))
        with self._lock:
            self._open.add(record)
        return record

    def closed(self, record: Record, ending: Ending | None) -> None:
        """Notes that a stream has ended, and why; None stands for one that failed before that was
        decided."""
        reason = (ending or Ending.FAILED).name.lower()
        with self._lock:
            self._open.discard(record)
            self._ended.setdefault(record.route, Counter()).update(record.totals())
        for listener in self._listeners:
            listener.ended(record.route, reason, monotonic() - record.opened_at)

    def refused(self, scope: Scope) -> None:
        """Counts a request that was refused because of a limit."""
        with self._lock:
            self._ended.setdefault(route_of(scope), Counter())["refused"] += 1

    def first_event(self, route: str, opened_at: float) -> None:
        """Tells the listeners how long a stream's first event took.

        Args:
            route: The template of the route's path.
            opened_at: When the stream began, in `time.monotonic()`.
        """
        for listener in self._listeners:
            listener.first_event(route, monotonic() - opened_at)

    def gap(self, channel: str, reason: str, missed: int) -> None:
        """Tells the listeners that a client was told of missing events.

        Args:
            channel: The channel's name.
            reason: "trimmed" or "overflow".
            missed: How many events.
        """
        for listener in self._listeners:
            listener.gap(channel, reason, missed)

    def reset(self, channel: str, reason: str) -> None:
        """Tells the listeners that a client was told that its place is not known, and why."""
        for listener in self._listeners:
            listener.reset(channel, reason)

    def published(self, channel: str) -> None:
        """Counts an event that was published to a channel."""
        with self._lock:
            self._published[channel] += 1

    # The account of all streams

    def by_route(self) -> dict[str, Counter[str]]:
        """Returns for each route how many streams are `open`, were `refused`, and the `events`,
        `sent_bytes`, `wire_bytes` and `sends` of all its streams, and the `pending_bytes`."""
        with self._lock:
            records = list(self._open)
            found = {route: Counter(totals) for route, totals in self._ended.items()}
        for record in records:
            totals = found.setdefault(record.route, Counter())
            totals.update(record.totals())
            totals["open"] += 1
            totals["pending_bytes"] += record.pending_bytes()
        return found

    def by_channel(self) -> dict[str, int]:
        """Returns how many events have been published to each channel in this process."""
        with self._lock:
            return dict(self._published)

    @staticmethod
    def threads() -> int:
        """Returns how many threads sync generators have."""
        return running_threads()


def route_of(scope: Scope) -> str:
    """Returns the path of the route that a request has reached, with its parameters' names, or
    else the name of its endpoint: never more of them than there are routes."""
    route: Any = scope.get("route")
    # FastAPI has one route of a router for all the places where that is included, and notes here
    # which of them it is.
    of_fastapi: Any = scope.get("fastapi") or {}
    included = of_fastapi.get("effective_route_context")
    if included is not None and getattr(included, "original_route", None) is route:
        route = included
    path = getattr(route, "path", None)
    if path is not None:
        return str(path)
    return str(getattr(scope.get("endpoint"), "__qualname__", ""))


_lock = threading.Lock()
#: The observer of this process, if somebody observes.
current: Observer | None = None


def observe() -> Observer:
    """Returns the observer of this process, which from now on knows of each stream that opens."""
    global current
    with _lock:
        if current is None:
            current = Observer()
        return current
