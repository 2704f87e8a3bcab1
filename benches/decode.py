"""Reads an event stream as the standard says, so that the benchmarks can check what they time.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Decoded(NamedTuple):
    """One event as a client sees it."""

    event: str
    data: str
    id: str
    retry: int | None


def decode(stream: bytes) -> list[Decoded]:
    """The events of a whole stream."""
    text = stream.decode()
    assert text == "" or text.endswith(("\n\n", "\r\n\r\n")), "the stream ends inside an event"
    decoded = []
    event, data, last_id, retry = "", [], "", None
    for line in re.split("\r\n|\n|\r", text):
        if not line:
            if data:
                decoded.append(Decoded(event or "message", "\n".join(data), last_id, retry))
            event, data, retry = "", [], None
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            event = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            last_id = value
        elif field == "retry":
            retry = int(value)
        else:
            assert field == "", f"a field that the standard does not have: {line!r}"
    return decoded
