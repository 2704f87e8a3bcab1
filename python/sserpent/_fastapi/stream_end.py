"""How a stream or a run has ended, as `closing_event` is told."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any, Literal, NamedTuple

from .._core import EventStreamParser

_INTERNAL_ERROR = "Internal server error"
_STOPPED = "The answer was stopped"
_INTERRUPTED = "The answer was interrupted"

#: The reason of a run that was stopped because its server shuts down.
SHUTDOWN = "shutdown"


class StreamEnd(NamedTuple):
    """How a stream or a run has ended.

    Attributes:
        kind: "done" if the generator has come to its end, "error" if it has raised, or yielded an
            item that cannot be sent. Only for runs: "stopped" if the run was stopped by request or
            by a shutdown of its server, "lost" if its process died.
        reason: For a run, the `reason` of its `run-end`. For an `HTTPException`, its detail, if
            that is a str. Otherwise None.
        status: The status of an `HTTPException`, or None for any other end.
        first: The data of the first event, parsed if it is JSON. None without an event, or if the
            class does not set `keeps_first`.
        last: The data of the last event, parsed if it is JSON. None without an event.
        count: How many events there were. For a run this counts all events, even if its follower
            resumed later.
    """

    kind: Literal["done", "error", "stopped", "lost"]
    reason: str | None = None
    status: int | None = None
    first: Any = None
    last: Any = None
    count: int = 0  # type: ignore[assignment]  # it hides a method of tuples

    @property
    def message(self) -> str:
        """A sentence for the client: the detail of an `HTTPException`, but never the text of
        another exception. Empty if the stream is done."""
        if self.kind == "done":
            return ""
        if self.is_interrupted:
            return _INTERRUPTED
        if self.is_stopped:
            return _STOPPED
        if self.status is None:
            return _INTERNAL_ERROR
        return self.reason or phrase_of(self.status)

    @property
    def is_interrupted(self) -> bool:
        """Whether the run was lost, or interrupted by a shutdown of its server."""
        return self.kind == "lost" or (self.kind == "stopped" and self.reason == SHUTDOWN)

    @property
    def is_stopped(self) -> bool:
        """Whether the run was stopped by request."""
        return self.kind == "stopped" and self.reason != SHUTDOWN


def phrase_of(status: int) -> str:
    """Returns a status in words, for a client."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return _INTERNAL_ERROR


def data_of(framed: bytes) -> Any:
    """Returns the data of the last event in what is framed: parsed if it is JSON, else its text.
    None if there is no event."""
    if not framed:
        return None
    # The server has made this event: its size is no reason to refuse it.
    events = [*EventStreamParser(len(framed)).feed(framed)]
    if not events:
        return None
    try:
        return json.loads(events[-1].data)
    except (ValueError, RecursionError):
        return events[-1].data


def ends_event(framed: bytes) -> bool:
    """Returns whether what is framed ends with a whole event, or is empty."""
    return not framed or framed.endswith((b"\n\n", b"\r\r", b"\n\r\n"))
