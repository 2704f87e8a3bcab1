"""The last lines of a stream that the server ends, for its client to know when to come back.

They are two lines without a blank line after them: "If the field name is 'retry' ... set the event
stream's reconnection time" takes effect at once
(https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation), and a
decoder that dispatches on any blank line gets no phantom of an event.
"""

from __future__ import annotations

import random

from starlette.types import Scope

from .._core import Buffer
from .ending import Ending
from .options import Streamable

# https://html.spec.whatwg.org/multipage/server-sent-events.html#authoring-notes recommends "a
# comment line (one starting with a ':' character) every 15 seconds or so". Without a blank line:
# some decoders (httpx-sse, the OpenAI SDK) dispatch an empty event for a blank line that follows
# an earlier `id`, while a lone comment line is ignored by all.
KEEPALIVE_COMMENT = b": ping\n"

# Milliseconds. With jitter, so that those who are cut off at the same moment do not all come back
# at the same moment.
_GOODBYE = 1_000, 5_000
_FULL = 5_000, 15_000


def goodbye() -> bytes:
    """Returns the last lines of a stream that the server ends."""
    return b": goodbye\nretry: %d\n" % random.randint(*_GOODBYE)


def farewell(ending: Ending | None, response: Streamable) -> bytes:
    """Returns what is sent before the end of the body. A source says goodbye itself."""
    says = ending is not None and ending.farewell and response._source is None
    return goodbye() if says else b""


def come_back_later() -> bytes:
    """Returns the whole stream of a client that comes back while there is no place."""
    return b": full\nretry: %d\n" % random.randint(*_FULL)


def keepalive(response: Streamable, scope: Scope) -> bytes:
    """Returns the next keep-alive.

    Raises:
        Exception: what `ping_event` raises, or what it returns cannot be encoded.
    """
    event = response.ping_event
    if event is None:
        return KEEPALIVE_COMMENT
    if callable(event):
        event = event()
    buffer = Buffer(framed=response.framed)
    try:
        buffer.push(event)
    except Exception as error:
        raise response._origin.explain(error, event, scope) from error.__cause__
    return buffer.take()
