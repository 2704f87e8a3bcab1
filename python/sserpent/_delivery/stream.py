"""The part of a stream that is alike on asyncio and on Trio."""

from __future__ import annotations

from inspect import isawaitable

import anyio

from .._runtime.log import logger
from .._shutdown.connections import came_from_a_closed_connection
from .options import Streamable

# Streams of anyio and Trio raise these when the other end is gone, or they are closed for that.
_GONE = {"BrokenResourceError", "ClosedResourceError"}


def is_disconnect(error: BaseException) -> bool:
    """Returns whether a `send` or `receive` that raises this says that the client has gone: ASGI
    2.4 has it "raise an OSError". Transports raise other errors when they are written to after
    that, so for others the connection that they came from is looked at."""
    if isinstance(error, TimeoutError):
        return error.errno is not None  # without a number it is a timeout of a middleware's
    return (
        isinstance(error, OSError)
        or type(error).__name__ in _GONE
        or came_from_a_closed_connection(error)
    )


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


def log_send_error(error: BaseException | None) -> None:
    logger.error("A send failed after its stream had ended", exc_info=error)
