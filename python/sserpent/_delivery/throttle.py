"""Spreads over turns of the event loop what many streams do at once.

When thousands of clients come or leave in one moment, their server wakes a task for each in one
turn of its event loop. Until all of them have done their work, no event, no keep-alive and no other
request gets a turn. So only some do theirs in a turn, and the others stand in line.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from weakref import WeakKeyDictionary


class Throttle:
    """Lets a number of streams do something in one turn of an event loop of asyncio, and others in
    later turns.

    Args:
        most: The number of streams in one turn.
    """

    __slots__ = ("_is_counting", "_left", "_most", "_waiting")

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        # In order. One that is cancelled stays until its turn.
        self._waiting: deque[asyncio.Future[None]] = deque()
        # Whether `_begin_turn` is called in the next turn.
        self._is_counting = False

    def take_turn(self) -> asyncio.Future[None] | None:
        """Returns None if the caller may go on in this turn, else what it has to await before."""
        if not self._is_counting:
            self._count_anew()
        if self._left and not self._waiting:
            self._left -= 1
            return None
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        return turn

    def _count_anew(self) -> None:
        self._is_counting = True
        asyncio.get_running_loop().call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        self._is_counting = False
        self._left = self._most
        while self._left and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._left -= 1
        if self._left < self._most:
            self._count_anew()


class Throttles:
    """The throttle of each event loop.

    Args:
        most: How many streams may do something in one turn.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Throttle] = WeakKeyDictionary()

    def of_this_loop(self) -> Throttle:
        """Returns that of the running event loop, which is asyncio's."""
        loop = asyncio.get_running_loop()
        throttle = self._by_loop.get(loop)
        if throttle is None:
            with self._lock:
                throttle = self._by_loop.setdefault(loop, Throttle(self._most))
        return throttle


#: For streams that end because their clients have left: each takes some 50 µs.
LEAVING = Throttles(64)
#: For requests for streams: each takes some 300 µs from here on.
OPENING = Throttles(8)
