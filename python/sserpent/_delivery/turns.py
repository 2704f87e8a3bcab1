"""Spreads over turns of the event loop what many streams do at once.

When thousands of clients come or leave in one moment, their server wakes a task for each in one
turn of its event loop. Until all of them have done their work, no event, no keep-alive and no other
request gets a turn. So only some do theirs in a turn, and the others stand in line.
"""

from __future__ import annotations

import asyncio
import threading
from itertools import islice
from weakref import WeakKeyDictionary


class Turns:
    """The streams that may do something in one turn of an event loop of asyncio, and those that
    wait for a later one.

    Args:
        most: How many may do it in one turn.
    """

    __slots__ = ("_is_counting", "_left", "_most", "_waiting")

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        # In order.
        self._waiting: dict[asyncio.Future[None], None] = {}
        # A next turn is asked for.
        self._is_counting = False

    def take(self) -> bool:
        """Returns whether the caller may go on in this turn. If not, it has to `wait`."""
        if not self._is_counting:
            self._count_anew()
        if self._waiting or not self._left:
            return False
        self._left -= 1
        return True

    async def wait(self) -> None:
        """Waits for a turn in which the caller may go on."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = None
        try:
            await turn
        finally:
            self._waiting.pop(turn, None)

    def _count_anew(self) -> None:
        self._is_counting = True
        asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._is_counting = False
        self._left = self._most
        for turn in list(islice(self._waiting, self._most)):
            del self._waiting[turn]
            if not turn.done():  # nobody has cancelled it
                turn.set_result(None)
                self._left -= 1
        if self._waiting or self._left < self._most:
            self._count_anew()


class TurnsOfLoops:
    """The turns of each event loop.

    Args:
        most: How many streams may do something in one turn.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()

    def of_this_loop(self) -> Turns:
        """Returns those of the running event loop, which is asyncio's."""
        loop = asyncio.get_running_loop()
        turns = self._by_loop.get(loop)
        if turns is None:
            with self._lock:
                turns = self._by_loop.setdefault(loop, Turns(self._most))
        return turns


#: In which streams end whose clients have left: one takes some 30 µs.
LEAVING = TurnsOfLoops(64)
#: In which requests for streams are answered: one takes some 300 µs.
OPENING = TurnsOfLoops(8)
