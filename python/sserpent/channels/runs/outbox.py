"""Events that a run has yielded, on their way to the broker."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import anyio

from ..._runtime.loops import current_time
from ..history.broker import Item

#: How many events, or bytes of them, may wait before the generator has to.
MAX_EVENTS, MAX_BYTES = 100, 65_536
#: Seconds for which events are gathered after some were appended, and how many are enough. What is
#: written after a pause is appended at once.
GATHERING, ENOUGH = 0.05, 20


class Outbox:
    """Events that wait to be appended. Those that come while some are on their way, or soon after
    it, go together.

    Args:
        append: Appends events, in order. What it fails with, it is given again, with more.
    """

    def __init__(self, append: Callable[[Sequence[Item]], Awaitable[object]]) -> None:
        self._append = append
        self._items: list[Item] = []
        self._bytes = 0
        self._gathers_until = 0.0
        self._news = anyio.Event()
        self._enough = anyio.Event()
        self._space = anyio.Event()
        self._released = False

    def __len__(self) -> int:
        return len(self._items)

    # Called for the generator's side

    async def put(self, item: Item) -> None:
        """Adds an event, and waits while there are too many."""
        self.add(item)
        while self._is_full and not self._released:
            await self._space.wait()

    def add(self, item: Item) -> None:
        """Adds an event, however many there are."""
        self._items.append(item)
        self._bytes += len(item.body)
        self._tell()

    def _tell(self) -> None:
        """Tells the broker's side what waits."""
        if len(self._items) >= ENOUGH or self._is_full:
            self.wake()
        elif self._items:
            self._news.set()

    @property
    def _is_full(self) -> bool:
        return len(self._items) >= MAX_EVENTS or self._bytes >= MAX_BYTES

    # Called for the broker's side

    def wake(self) -> None:
        """Ends a wait for news, and for more of it."""
        self._news.set()
        self._enough.set()

    async def news(self) -> None:
        """Waits until events are there that are not to wait for more, or `wake` is called."""
        await self._news.wait()
        remaining = self._gathers_until - current_time()
        if remaining > 0 and not self._enough.is_set():
            with anyio.move_on_after(remaining):
                await self._enough.wait()
        self._news, self._enough = anyio.Event(), anyio.Event()

    async def flush(self) -> None:
        """Appends what waits now. If that fails it goes on waiting."""
        items = self._items[:]
        if items:
            await self._append(items)
            self._gathers_until = current_time() + GATHERING
            self._remove(len(items))
            self._tell()

    def release(self) -> None:
        """Ends every wait for space: the generator is not asked for more events."""
        self._released = True
        self._space.set()

    def clear(self) -> None:
        """Lets go of what waits: it is not wanted."""
        self._remove(len(self._items))

    def _remove(self, count: int) -> None:
        was_full = self._is_full
        self._bytes -= sum(len(item.body) for item in self._items[:count])
        del self._items[:count]
        if was_full:
            self._space.set()
            self._space = anyio.Event()


class Gathered:
    """Events that a generator has yielded in its thread, until the event loop takes them
    (`_delivery.generator_thread.Pushed`).

    Args:
        encode: Makes an event of an item, in the thread; None if it is left out.
    """

    def __init__(self, encode: Callable[[Any], Item | None]) -> None:
        self._encode = encode
        self._items: deque[Item] = deque()
        # Each is changed in one thread only.
        self._pushed_bytes = self._taken_bytes = 0

    @property
    def pending(self) -> int:
        return self._pushed_bytes - self._taken_bytes

    def push(self, item: Any) -> bool:
        encoded = self._encode(item)
        if encoded is None:
            return False
        self._pushed_bytes += len(encoded.body)
        self._items.append(encoded)
        return self.pending >= MAX_BYTES or len(self._items) >= MAX_EVENTS

    def take(self) -> Iterator[Item]:
        """Returns those that are there now, each once."""
        for _ in range(len(self._items)):
            item = self._items.popleft()
            self._taken_bytes += len(item.body)
            yield item
