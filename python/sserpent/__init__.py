"""Server-Sent Events for FastAPI: the API of `fastapi.sse`, many times faster, and with a delivery
that keeps its promises.

    from sserpent import EventSourceResponse, ServerSentEvent
"""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from ._core import BACKEND, ServerSentEvent, format_sse_event
from ._delivery.sender import KEEPALIVE_COMMENT
from ._fastapi import routing as _routing
from ._fastapi.acceleration import accelerate
from ._fastapi.declarations import Named
from ._fastapi.response import EventSourceResponse
from ._shutdown import shutdown_event

__version__ = _version("sserpent")
__all__ = [
    "BACKEND",
    "KEEPALIVE_COMMENT",
    "EventSourceResponse",
    "Named",
    "ServerSentEvent",
    "__version__",
    "accelerate",
    "format_sse_event",
    "shutdown_event",
]

if TYPE_CHECKING:
    pass
elif not _routing.install():
    from ._fastapi.fallback import ServerSentEvent
