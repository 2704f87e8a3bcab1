"""Picks the backend, once: the compiled core where it is installed, else its pure-Python twin.

The twin's names are loaded when they are first asked for: a reader of streams needs its parser
alone, and neither FastAPI nor pydantic. Type checkers read the twin, which has the same names and
signatures.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

#: Which core runs: the compiled one, or the pure-Python one. `SSERPENT_PURE=1` forces the latter.
BACKEND: Literal["rust", "python"]

if TYPE_CHECKING:
    from .pure import *  # noqa: F403

    BACKEND = "python"
elif os.environ.get("SSERPENT_PURE") == "1":
    BACKEND = "python"
else:
    try:
        _compiled = import_module(".compiled", __name__)

        BACKEND = "rust"
    except ModuleNotFoundError as error:
        # Only a missing extension falls back. One that is there and does not load is an error
        # that its user has to see.
        if error.name != f"{__package__}.compiled":
            raise
        BACKEND = "python"

# In which module the twin has a name.
MODULES = {
    "Buffer": "buffer",
    "DeclaredEvents": "declared",
    "EventStreamParser": "parse",
    "EventTooLarge": "parse",
    "ItemRules": "rules",
    "ItemSchema": "json",
    "MessageEvent": "parse",
    "Meter": "meter",
    "BaseSender": "base_sender",
    "Pump": "pump",
    "ServerSentEvent": "event",
    "format_sse_event": "event",
    "step": "stepping",
    "step_as": "stepping",
}


if not TYPE_CHECKING and BACKEND == "rust":
    for _name in MODULES:
        if not hasattr(_compiled, _name):
            raise ImportError(f"cannot import name {_name!r} from {_compiled.__name__!r}")
        globals()[_name] = getattr(_compiled, _name)


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f".{MODULES[name]}", __name__), name)
    globals()[name] = found
    return found
