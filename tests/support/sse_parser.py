"""A reader of event streams, written from the standard and from nothing in the package.

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream

Unlike a browser it is strict where a browser is lenient: bytes that are not UTF-8 are an error,
and every line is kept, so that a test sees what a lenient reader would pass over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# "end-of-line = ( cr lf / cr / lf )"
_END_OF_LINE = re.compile("\r\n|\r|\n")


@dataclass(frozen=True)
class Event:
    """What a browser would dispatch."""

    data: str
    type: str = "message"
    last_event_id: str = ""


@dataclass
class Stream:
    """What the bytes of a stream mean."""

    events: list[Event] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    # Every field line in order, also unknown and ignored ones; None stands for a blank line.
    fields: list[tuple[str, str] | None] = field(default_factory=list)
    retry: int | None = None
    last_event_id: str = ""
    # Whether the stream stops inside a line or before the blank line that ends an event.
    is_cut: bool = False


def parse(stream: bytes) -> Stream:
    """Reads a whole stream."""
    # "Streams must be decoded using the UTF-8 decode algorithm", which drops one BOM.
    text = stream.decode().removeprefix("\ufeff")
    *lines, rest = _END_OF_LINE.split(text)
    return _Interpreter().interpret(lines, rest)


class _Interpreter:
    """https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation"""

    def __init__(self) -> None:
        self.stream = Stream()
        self.data = ""
        self.event_type = ""
        self.last_event_id = ""

    def interpret(self, lines: list[str], rest: str) -> Stream:
        for line in lines:
            self.process_line(line)
        ended = not lines or not self.stream.fields or self.stream.fields[-1] is None
        # "Once the end of the file is reached, any pending data must be discarded."
        self.stream.is_cut = rest != "" or not ended
        return self.stream

    def process_line(self, line: str) -> None:
        if line == "":
            self.stream.fields.append(None)
            self.dispatch()
        elif line.startswith(":"):
            self.stream.comments.append(line[1:])
        else:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            self.stream.fields.append((name, value))
            self.process_field(name, value)

    def process_field(self, name: str, value: str) -> None:
        # "Field names must be compared literally, with no case folding performed."
        if name == "event":
            self.event_type = value
        elif name == "data":
            self.data += value + "\n"
        elif name == "id":
            if "\0" not in value:
                self.last_event_id = value
        elif name == "retry" and re.fullmatch("[0-9]+", value):
            self.stream.retry = int(value)

    def dispatch(self) -> None:
        self.stream.last_event_id = self.last_event_id
        if self.data != "":
            event = Event(self.data[:-1], self.event_type or "message", self.last_event_id)
            self.stream.events.append(event)
        self.data = self.event_type = ""
