"""What a stream says of itself between the events: where it stands, what is missing, goodbye.

`gap` and `reset` are events, because a browser sees nothing else. The farewell is two lines
without a blank line after them: "If the field name is 'retry' ... set the event stream's
reconnection time" takes effect at once
(https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation), and a
decoder that dispatches on any blank line gets no phantom of an event.
"""

from __future__ import annotations

import random

from .._core import ServerSentEvent

#: The names of events that channels and runs keep for themselves.
GAP, RESET, RUN_END = "gap", "reset", "run-end"

# Milliseconds. With jitter, so that those who are cut off at the same moment do not all come back
# at the same moment.
_GOODBYE = 1_000, 5_000
_FULL = 5_000, 15_000


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


def goodbye() -> bytes:
    """Returns the last lines of a stream that the server ends."""
    return b": goodbye\nretry: %d\n" % random.randint(*_GOODBYE)


def come_back_later() -> bytes:
    """Returns the whole stream of a client that comes back while there is no place."""
    return b": full\nretry: %d\n" % random.randint(*_FULL)
