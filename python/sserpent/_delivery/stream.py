"""What a stream does alike on asyncio and on Trio."""

from __future__ import annotations

from inspect import isawaitable
from typing import Any
from weakref import WeakSet

import anyio

from .options import Streamable
from .origin import logger

_streaming: WeakSet[Any] = WeakSet()


def claim(content: Any) -> None:
    """Makes sure that no other response streams `content`: two readers of one generator would
    take events from each other."""
    if getattr(content, "__aiter__", lambda: None)() is not content:
        return
    try:
        if content in _streaming:
            raise RuntimeError(f"{content!r} is already being streamed by another response")
        _streaming.add(content)
    except TypeError:
        pass  # not hashable or not weakly referable: a class of the user's own


def release(content: Any) -> None:
    try:
        _streaming.discard(content)
    except TypeError:
        pass


async def call_on_disconnect(response: Streamable) -> None:
    """Tells the application that the client has left. What fails there ends nothing here."""
    on_disconnect = response.on_disconnect
    if on_disconnect is None:
        return
    with anyio.move_on_after(response.cleanup_timeout, shield=True):
        try:
            called = on_disconnect()
            if isawaitable(called):
                await called
        except Exception:
            logger.exception("on_disconnect of %s failed", response.origin)


def warn_of_stall(response: Streamable) -> None:
    logger.warning(
        "A client of %s has not read for send_timeout (%s s) and is dropped",
        response.origin,
        response.send_timeout,
    )
