"""Picks the backend, once: the compiled core where it is installed, else its pure-Python twin.

Type checkers read the twin, which has the same names and signatures.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

__all__ = [
    "BACKEND",
    "Buffer",
    "DeclaredEvents",
    "EventStreamParser",
    "EventTooLarge",
    "ItemSchema",
    "MessageEvent",
    "Meter",
    "Outlet",
    "Pump",
    "ServerSentEvent",
    "format_sse_event",
    "step",
    "step_as",
]

BACKEND: Literal["rust", "python"]

if TYPE_CHECKING or os.environ.get("SSERPENT_PURE") == "1":
    from .pure import (
        Buffer,
        DeclaredEvents,
        EventStreamParser,
        EventTooLarge,
        ItemSchema,
        MessageEvent,
        Meter,
        Outlet,
        Pump,
        ServerSentEvent,
        format_sse_event,
        step,
        step_as,
    )

    BACKEND = "python"
else:
    try:
        from .compiled import (
            Buffer,
            DeclaredEvents,
            EventStreamParser,
            EventTooLarge,
            ItemSchema,
            MessageEvent,
            Meter,
            Outlet,
            Pump,
            ServerSentEvent,
            format_sse_event,
            step,
            step_as,
        )

        BACKEND = "rust"
    except ModuleNotFoundError as error:
        # Only a missing extension falls back. One that is there and does not load is an error
        # that its user has to see.
        if error.name != f"{__package__}.compiled":
            raise
        from .pure import (
            Buffer,
            DeclaredEvents,
            EventStreamParser,
            EventTooLarge,
            ItemSchema,
            MessageEvent,
            Meter,
            Outlet,
            Pump,
            ServerSentEvent,
            format_sse_event,
            step,
            step_as,
        )

        BACKEND = "python"
