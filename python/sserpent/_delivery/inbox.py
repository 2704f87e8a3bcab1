"""Shares the client's messages between the two that read them: the delivery, which waits for the
client to leave, and the request, whose body a generator may read.

ASGI gives both the same `receive`, and each message to one of them. So one reads at a time, for
both: a part of the body is kept for the request, and the disconnect is told to everyone.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio
from starlette.types import Message, Receive, Scope

from .. import _shutdown

#: How many bytes of the body are kept for a request that does not read them yet. Beyond that
#: nothing is read for the time being, so that the server holds the client back.
MAX_KEPT = 65_536
#: How many seconds a request may take then to read on. One that does not is taken for one that
#: never will: its body is thrown away, because a client that leaves is noticed only by reading on.
PATIENCE = 5.0
#: How many seconds later a `receive` is asked again that has said nothing new.
ASK_AGAIN = 1.0
# How many parts of a body are read before the event loop gets a turn.
_PARTS_A_TURN = 16
# How many bytes a message counts besides its part of the body, so that empty ones are bounded too.
_MESSAGE = 64

_DISCONNECT: Message = {"type": "http.disconnect"}
# Kept in place of the server's own, which most streams would keep to their end.
_NO_BODY: Message = {"type": "http.request", "body": b"", "more_body": False}


class Pace:
    """How often one `receive` is asked.

    After the end of the body only a disconnect is news, but some middlewares that log bodies give
    the same message to whoever asks, for ever and without waiting, which would hold the event loop.

    Args:
        scope: The request's ASGI scope.

    Attributes:
        over: Whether the body has ended.
    """

    __slots__ = ("_empty", "_is_closed", "_parts", "_scope", "over")

    def __init__(self, scope: Scope) -> None:
        self.over = False
        self._scope = scope
        self._empty = False  # the last message had no part of the body
        self._parts = 0  # how many parts of the body came
        self._is_closed: Callable[[], bool] | None = None

    def pause_after(self, message: Message) -> float | None:
        """Returns for how many seconds `receive` is left alone after a message that is no
        disconnect and that nobody waits for: None if it can be asked at once."""
        if self.over or message["type"] != "http.request":
            return ASK_AGAIN
        if not message.get("more_body"):
            self.over = True
            return None
        was_empty, self._empty = self._empty, not message.get("body")
        if was_empty and self._empty:
            return ASK_AGAIN
        # Parts that have arrived are read at once, so that a disconnect behind them is known before
        # anything begins. The event loop gets a turn all the same.
        self._parts += 1
        return None if self._parts % _PARTS_A_TURN else 0

    async def pause(self, seconds: float | None) -> bool:
        """Waits for as long as `pause_after` says, and returns whether the client has left: what
        replays the body may never say so, and no server's `send` fails then."""
        if seconds is None:
            return False
        is_closed = self.watch() if seconds else _never
        await anyio.sleep(seconds)
        return is_closed()

    def watch(self) -> Callable[[], bool]:
        """Returns what says later whether the client has left. To be called while the server knows
        of the connection."""
        if self._is_closed is None:
            self._is_closed = _shutdown.watch_connection(self._scope)
        return self._is_closed


class Inbox:
    """Shares one ASGI `receive`."""

    __slots__ = (
        "_gone",
        "_kept",
        "_kept_size",
        "_lost",
        "_news",
        "_pace",
        "_reading",
        "_reads",
        "_receive",
    )

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._kept: list[Message] = []
        self._kept_size = 0
        self._reads = 0  # how often the request has read
        self._pace = Pace(scope)
        self._lost = False  # a part of the body was thrown away
        self._gone = False
        self._reading = False  # somebody is in `receive()`
        self._news: anyio.Event | None = None

    async def receive(self) -> Message:
        """Returns the next message for the request, as its own `receive` would.

        Raises:
            RuntimeError: a part of the body was thrown away.
        """
        self._reads += 1
        while not self._kept:
            if self._gone:
                return _DISCONNECT
            if self._lost:
                raise RuntimeError(
                    f"The request's body is gone: it has more than {MAX_KEPT} bytes, and the"
                    f" generator did not read on within {PATIENCE:g} s"
                )
            if self._reading:
                await self._wait()
            else:
                self._reading = True
                try:
                    pause = self._keep(await self._receive())
                    if await self._pace.pause(pause):
                        self._gone = True
                finally:
                    self._end_reading()
        message = self._kept.pop(0)
        self._kept_size -= _size(message)
        self._tell()
        return message

    async def receive_disconnect(self) -> Message:
        """Returns the last message there is, for the delivery."""
        while not self._gone:
            if self._reading:
                await self._wait()
            elif self._kept_size <= MAX_KEPT:
                # Here, not in a coroutine of its own, which each idle stream would have to keep.
                self._reading = True
                try:
                    pause = self._keep(await self._receive())
                    if await self._pace.pause(pause):
                        self._gone = True
                finally:
                    self._end_reading()
            else:
                await self._wait_for_request()
        return _DISCONNECT

    async def _wait_for_request(self) -> None:
        reads, is_closed = self._reads, self._pace.watch()
        with anyio.move_on_after(PATIENCE):
            while self._reads == reads:
                with anyio.move_on_after(ASK_AGAIN):
                    await self._wait()
                # Its server may know, from a `send`, and not say so before all of the body is read.
                if is_closed():
                    self._gone = True
                    self._tell()
                    return
        if self._reads == reads:
            self._lost = True
            self._kept.clear()
            self._kept_size = 0

    def _keep(self, message: Message) -> float | None:
        """Keeps a message for the request; returns for how long to pause after one that is none."""
        if message["type"] == "http.disconnect":
            self._gone = True
            return None
        was_over = self._pace.over
        pause = self._pace.pause_after(message)
        if was_over or self._lost or message["type"] != "http.request":
            return pause
        is_end = self._pace.over and not message.get("body")
        self._kept.append(_NO_BODY if is_end else message)
        self._kept_size += _size(message)
        return None

    def _end_reading(self) -> None:
        self._reading = False
        self._tell()

    async def _wait(self) -> None:
        if self._news is None:
            self._news = anyio.Event()
        await self._news.wait()

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None


def _never() -> bool:
    return False


def _size(message: Message) -> int:
    return _MESSAGE + len(message.get("body", b""))
