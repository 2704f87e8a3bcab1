"""Reading a channel in this process, as an async iterator."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType

import anyio

from .._core import ServerSentEvent
from .subscriber import Subscriber


class Listener:
    """Iterates over the events of a channel, those of its own (`gap`, `reset`) included.

        async with rooms.listen(key="lobby") as events:
            async for event in events:
                ...

    It ends when the channels are closed. One that falls behind gets a `gap`, as a client does.
    """

    def __init__(self, subscriber: Callable[[], Subscriber]) -> None:
        self._make_subscriber = subscriber
        self._events: deque[ServerSentEvent] = deque()
        self._news = anyio.Event()
        self._error: Exception | None = None
        self._finished = False

    async def __aenter__(self) -> Listener:
        self._subscriber = self._make_subscriber()
        try:
            await self._subscriber.open()
        except BaseException:
            self._subscriber.close()
            raise
        self._subscriber.start(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._finished = True
        self._subscriber.close()

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> ServerSentEvent:
        while not self._events:
            if self._error is not None:
                raise self._error
            if self._subscriber.pending:
                self._events.extend(self._subscriber.take_events())
            elif self._finished:
                raise StopAsyncIteration
            else:
                self._news = anyio.Event()
                await self._news.wait()
        return self._events.popleft()

    # What the subscriber asks of a sink

    def flush(self) -> None:
        self._news.set()

    def finish(self) -> None:
        self._finished = True
        self._news.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._news.set()
