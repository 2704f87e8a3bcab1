"""The public names that belong to FastAPI, with the seam in place: code that has one of them may
declare a route next.

Importing raises:
    ImportError: FastAPI is not installed.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if find_spec("fastapi") is None:
    raise ImportError(
        "sserpent needs FastAPI to serve streams: pip install fastapi. Reading them does not:"
        " sserpent.client"
    )
# Here, not where they are first used, by when someone may have patched what they look up.
# `conversion` says which FastAPI is needed.
import_module("sserpent._core.conversion")
import_module("sserpent._core.treatment")

from .._core import ServerSentEvent  # noqa: E402
from . import routing  # noqa: E402
from .acceleration import accelerate  # noqa: E402
from .declarations import Named  # noqa: E402
from .response import EventSourceResponse  # noqa: E402

__all__ = ["EventSourceResponse", "Named", "ServerSentEvent", "accelerate"]

if TYPE_CHECKING:
    pass
elif not routing.install():
    # FastAPI's own pipeline serves the routes then, and it knows only its own class.
    import fastapi.sse

    from .._core import Buffer

    class ServerSentEvent(fastapi.sse.ServerSentEvent):
        """FastAPI's event, with `encode()`."""

        def encode(self) -> bytes:
            """Returns the event in wire format, with the blank line that ends it."""
            buffer = Buffer()
            buffer.push(self)
            return buffer.take()
