"""Tells open streams that their server shuts down. `streams` has the whole story."""

from .streams import (
    ServerStreams,
    ShutdownEvent,
    can_close,
    closed,
    count_open,
    current,
    end_streams,
    is_ending,
    look,
    open_streams,
    opened,
    shutdown_event,
    watch_connection,
)

__all__ = [
    "ServerStreams",
    "ShutdownEvent",
    "can_close",
    "closed",
    "count_open",
    "current",
    "end_streams",
    "is_ending",
    "look",
    "open_streams",
    "opened",
    "shutdown_event",
    "watch_connection",
]
