"""Reading a channel in this process, as an async iterator."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType

import anyio

from .._core import ServerSentEvent
from .fanout.subscriber import Subscriber


class Listener:
    """An async iterator over the events of a channel, including `gap` and `reset`.

        async with rooms.listen(key="lobby") as events:
            async for event in events:
                ...

    The iteration ends when the channels are closed. A listener that falls behind gets a `gap`, or a
    snapshot, like a client. If the function for snapshots raises, the iteration raises the same
    exception.
    """

    def __init__(self, subscriber: Callable[[], Subscriber]) -> None:
        self._make_subscriber = subscriber
        self._subscriber: Subscriber | None = None
        self._events: deque[ServerSentEvent] = deque()
        self._sink = Sink()

    async def __aenter__(self) -> Listener:
        if self._subscriber is not None:
            raise RuntimeError("'listen()' can be entered once: call it again for another listener")
        self._subscriber = subscriber = self._make_subscriber()
        try:
            await subscriber.open()
        except BaseException:
            self._subscriber = None
            subscriber.close()
            raise
        subscriber.start(self._sink)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sink.finish()
        self._entered().close()

    def __aiter__(self) -> Listener:
        self._entered()
        return self

    async def __anext__(self) -> ServerSentEvent:
        subscriber, sink = self._entered(), self._sink
        while not self._events:
            if sink.error is not None:
                raise sink.error
            if subscriber.pending:
                self._events.extend(subscriber.take_events())
            elif sink.finished:
                if subscriber.lost_snapshot is not None:
                    raise subscriber.lost_snapshot
                raise StopAsyncIteration
            else:
                await sink.wait()
        return self._events.popleft()

    def _entered(self) -> Subscriber:
        if self._subscriber is None:
            raise RuntimeError(
                "'listen()' must be entered first: async with channel.listen() as events"
            )
        return self._subscriber


class Sink:
    """Tells a listener what its subscriber has (`_delivery.source.Sink`)."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.finished = False
        self._news = anyio.Event()

    async def wait(self) -> None:
        """Waits until there is something new."""
        self._news = anyio.Event()
        await self._news.wait()

    def flush(self) -> None:
        self._news.set()

    def finish(self) -> None:
        self.finished = True
        self._news.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self._news.set()
