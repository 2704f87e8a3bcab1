"""The bytes of a response's body and the ASGI messages that carry them, on any event loop.

The last lines of a stream that the server ends tell its client when to come back. They are two
lines without a blank line after them: "If the field name is 'retry' ... set the event stream's
reconnection time" takes effect at once
(https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation), and a
decoder that dispatches on any blank line gets no phantom of an event.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from starlette.types import Message, Scope

from .. import _shutdown
from .._core import Buffer
from .life import Ending
from .options import Streamable

if TYPE_CHECKING:
    from .compression import Compression
    from .source import Metered, Pending

# https://html.spec.whatwg.org/multipage/server-sent-events.html#authoring-notes recommends "a
# comment line (one starting with a ':' character) every 15 seconds or so". Without a blank line:
# some decoders (httpx-sse, the OpenAI SDK) dispatch an empty event for a blank line that follows
# an earlier `id`, while a lone comment line is ignored by all.
#: The keep-alive: a comment line, without a blank line after it.
KEEPALIVE_COMMENT = b": ping\n"

# Milliseconds. With jitter, so that those who are cut off at the same moment do not all come back
# at the same moment: a process takes some thousand connects a second, so the more streams there
# are, the longer the last of them waits.
_GOODBYE = 1_000, 5_000
_FOR_EACH_STREAM = 1
_FULL = 5_000, 15_000


class Body:
    """The body of one response, as ASGI messages.

    Each byte of a body goes through `pending.take`, `ping` or `end`, on both event loops. So what
    changes the bytes of a response belongs here, as compression does: it stands before what is
    pending, and `ping` and `end` give it their bytes.

    Args:
        response: Whose body it is.
        buffer: Where its events wait.
        metered: Returns what counts what is taken of the events, where somebody counts.

    Attributes:
        pending: What is taken and sent. For an event alone `BaseSender.flush` of the core does
            that: it makes the same message as `events`.
    """

    __slots__ = ("_compression", "_plain", "_response", "_said_bytes", "pending")

    def __init__(self, response: Streamable, buffer: Pending, metered: Metered | None) -> None:
        self._response = response
        self._plain = self.pending = buffer if metered is None else metered(buffer, self)
        self._compression: Compression | None = None
        if response._gzip and response._begins:
            self._compression = self.pending = response._make_compression(self._plain)
        # Of what was said besides the events, where it was not compressed.
        self._said_bytes = 0

    def wire_bytes(self, event_bytes: int) -> int:
        """Returns how many bytes of the body have been made.

        Args:
            event_bytes: How many of its events were taken.
        """
        if self._compression is not None:
            return self._compression.wire_bytes
        return event_bytes + self._said_bytes

    def head(self) -> Message:
        """Returns the message with status and headers."""
        message = self._response._start_message()
        if self._compression is not None and not self._response._gzip:
            # By now the headers say something else of the body.
            self._compression.leave_plain()
            self._compression = None
        return message

    def events(self) -> Message:
        """Takes the pending events and returns the message with them."""
        return _part(self.pending.take())

    def ping(self, keepalive: bytes) -> Message:
        """Returns the message with a keep-alive."""
        if self._compression is None:
            self._said_bytes += len(keepalive)
            return _part(keepalive)
        if self._response.ping_event is None:
            return _part(self._compression.keep_alive())
        return _part(self._compression.say(keepalive))

    def end(self, ending: Ending | None) -> Message:
        """Takes the pending events, and returns the message that ends the body after them. Its last
        lines are a farewell if that belongs to the reason of the end and a line begins there.

        Args:
            ending: The reason of the end; None if the generator has come to its end.
        """
        last = self._plain.take()
        farewell = self._farewell(ending)
        if self._compression is not None:
            return _part(self._compression.end(last + farewell), more_body=False)
        self._said_bytes += len(farewell)
        return _part(last + farewell, more_body=False)

    def _farewell(self, ending: Ending | None) -> bytes:
        says = ending is not None and ending.farewell and self._plain.at_line_start
        response = self._response
        # A source says goodbye itself.
        return goodbye() if says and not response._cuts and response._source is None else b""


def _part(content: bytes, more_body: bool = True) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more_body}


def goodbye() -> bytes:
    """Returns the last lines of a stream that the server ends. Called in its event loop."""
    first, last = _GOODBYE
    last = max(last, first + _FOR_EACH_STREAM * _shutdown.count_open())
    return b": goodbye\nretry: %d\n" % random.randint(first, last)


def come_back_later() -> bytes:
    """Returns the whole stream of a client that is told to come back later."""
    return b": not now\nretry: %d\n" % random.randint(*_FULL)


def can_ping(response: Streamable, pending: Pending, buffer: object) -> bool:
    """Returns whether a keep-alive may stand here: a comment where a line begins, an event where
    one does.

    Args:
        response: What is streamed.
        pending: What is taken for the body.
        buffer: What the generator's items go to.
    """
    if response.ping_event is None:
        return pending.at_line_start
    return not (response.framed and isinstance(buffer, Buffer)) or buffer.at_event_start


def keepalive(response: Streamable, scope: Scope) -> bytes:
    """Returns the next keep-alive.

    Raises:
        BaseException: what `ping_event` raises, or what it returns cannot be encoded. A
            cancellation is a RuntimeError: it is neither the stream's nor its request's.
    """
    event = response.ping_event
    if event is None:
        return KEEPALIVE_COMMENT
    try:
        return _encoded(event() if callable(event) else event, response, scope)
    except (Exception, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        name = type(error).__name__
        raise RuntimeError(f"'ping_event' of {response._origin} raised {name}") from error


def _encoded(event: object, response: Streamable, scope: Scope) -> bytes:
    buffer = Buffer(framed=response.framed)
    try:
        buffer.push(event)
    except Exception as error:
        raise response._origin.explain(error, event, scope) from error.__cause__
    return buffer.take()
