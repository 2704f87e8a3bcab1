"""The last lines of a stream that the server ends, for its client to know when to come back.

They are two lines without a blank line after them: "If the field name is 'retry' ... set the event
stream's reconnection time" takes effect at once
(https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation), and a
decoder that dispatches on any blank line gets no phantom of an event.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .ending import Ending
    from .options import Streamable

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
