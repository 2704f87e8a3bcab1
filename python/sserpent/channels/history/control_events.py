"""The events that channels write themselves: where a stream stands, and which events are missing.

`gap` and `reset` are events, because a browser sees nothing else.
"""

from __future__ import annotations

from ..._core import ServerSentEvent

#: The names of events that channels and runs keep for themselves.
GAP, RESET, RUN_END = "gap", "reset", "run-end"
#: The line that names the last event of a run, in a frame. It is a line of its own, as no data has
#: it.
RUN_END_LINE = b"\nevent: %b\n" % RUN_END.encode()


def position_block(id: str) -> bytes:
    """Returns a block that moves a client's last event ID and dispatches no event."""
    return b"id: %b\n\n" % id.encode()


def gap(reason: str, missed: int, from_id: str, to_id: str, id: str) -> ServerSentEvent:
    """Returns the event that says how many events are missing, and between which."""
    data = {"reason": reason, "missed": missed, "from": from_id, "to": to_id}
    return ServerSentEvent(data=data, event=GAP, id=id)


def reset(reason: str, id: str) -> ServerSentEvent:
    """Returns the event that says that continuity cannot be proved."""
    return ServerSentEvent(data={"reason": reason}, event=RESET, id=id)
