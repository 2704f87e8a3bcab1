"""Server-Sent Events for FastAPI: the API of `fastapi.sse`, many times faster, and with a delivery
that keeps its promises.

    from sserpent import EventSourceResponse, ServerSentEvent

Names are loaded on first use, so that `sserpent.client` needs neither FastAPI nor Starlette.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING
from typing import Any as _Any

from ._core import BACKEND

if TYPE_CHECKING:
    from ._core import ServerSentEvent, format_sse_event
    from ._delivery.wire import KEEPALIVE_COMMENT
    from ._fastapi.acceleration import accelerate
    from ._fastapi.declarations import Named
    from ._fastapi.response import EventSourceResponse
    from ._shutdown import ShutdownEvent, end_streams, shutdown_event

    __version__: str

__all__ = [
    "BACKEND",
    "KEEPALIVE_COMMENT",
    "EventSourceResponse",
    "Named",
    "ServerSentEvent",
    "ShutdownEvent",
    "__version__",
    "accelerate",
    "end_streams",
    "format_sse_event",
    "shutdown_event",
]

# The module that has a name. That of FastAPI's side installs the seam.
_MODULES = {
    "KEEPALIVE_COMMENT": "._delivery.wire",
    "EventSourceResponse": "._fastapi.installed",
    "Named": "._fastapi.installed",
    "ServerSentEvent": "._fastapi.installed",
    "ShutdownEvent": "._shutdown",
    "accelerate": "._fastapi.installed",
    "end_streams": "._shutdown",
    "format_sse_event": "._core",
    "shutdown_event": "._shutdown",
}


def __getattr__(name: str) -> _Any:
    if name == "__version__":
        from importlib.metadata import version

        found: _Any = version("sserpent")
    elif name in _MODULES:
        found = getattr(_import_module(_MODULES[name], __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
