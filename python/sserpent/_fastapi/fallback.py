"""The event class for a FastAPI that the seam does not fit: FastAPI's own pipeline serves the
routes then, and it knows only its own class."""

from __future__ import annotations

import fastapi.sse

from .._core import Buffer

__all__ = ["ServerSentEvent"]


class ServerSentEvent(fastapi.sse.ServerSentEvent):
    """FastAPI's event, with `encode()`."""

    def encode(self) -> bytes:
        """The event in wire format, with the blank line that ends it."""
        buffer = Buffer()
        buffer.push(self)
        return buffer.take()
