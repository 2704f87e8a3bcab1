"""The part of a stream that is alike on asyncio and on Trio."""

from __future__ import annotations

from inspect import isawaitable

import anyio

from .._runtime.log import logger
from .options import Streamable


async def call_on_disconnect(response: Streamable) -> None:
    """Tells the application that the client has left. What fails there ends nothing here."""
    on_disconnect = response.on_disconnect
    if on_disconnect is None or not response._begins:
        return
    with anyio.move_on_after(response.cleanup_timeout, shield=True):
        try:
            called = on_disconnect()
            if isawaitable(called):
                await called
        except Exception:
            logger.exception("on_disconnect of %s failed", response._origin)


def warn_of_stall(response: Streamable) -> None:
    response._stalled = True
    logger.warning(
        "A client of %s has not read for send_timeout (%s s) and is dropped",
        response._origin,
        response.send_timeout,
    )
