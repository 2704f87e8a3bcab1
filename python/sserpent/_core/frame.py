"""The wire format: field values in, the bytes of one event out. Knows no other module of ours.

Wire rules: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations


def check_event(value: str | None) -> str | None:
    """Returns the name of an event.

    Raises:
        ValueError: it has more than one line.
    """
    return _single_line("event", value)


def check_id(value: str | None) -> str | None:
    """Returns the ID of an event.

    Raises:
        ValueError: it has a NUL, or more than one line.
    """
    # "If the field value does not contain U+0000 NULL, then set the last event ID buffer":
    # clients ignore an id with NUL.
    if value is not None and "\0" in value:
        raise ValueError("SSE 'id' must not contain null characters")
    return _single_line("id", value)


def _single_line(field: str, value: str | None) -> str | None:
    if value is not None and ("\n" in value or "\r" in value):
        raise ValueError(f"SSE '{field}' must be a single line")
    return value


def frame(
    data: str | bytes | None,
    event: str | None,
    id: str | None,
    retry: int | None,
    comment: str | None,
) -> bytes:
    """Writes the fields of an event, which are checked by now. Nothing else writes fields.

    `data` as bytes is JSON that a serializer wrote: JSON escapes control characters, so it holds
    no raw line break and needs no scan.
    """
    head = "" if comment is None else _lines(": ", comment)
    if event is not None:
        head = f"{head}event: {event}\n"
    tail = "\n" if retry is None else f"retry: {retry}\n\n"
    if id is not None:
        tail = f"id: {id}\n{tail}"
    if isinstance(data, bytes):
        return b"%bdata: %b\n%b" % (head.encode(), data, tail.encode())
    if data is not None:
        head += _lines("data: ", data)
    return (head + tail).encode()


def _lines(prefix: str, text: str) -> str:
    # Not str.splitlines(), which also splits at U+2028, VT, FF and NEL.
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\n" in text:
        text = text.replace("\n", "\n" + prefix)
    return f"{prefix}{text}\n"
