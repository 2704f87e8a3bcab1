"""Streams and what a reader must make of them, by rule: for the parser, and for the table of
readers, `docs/readers.md`."""

from __future__ import annotations

from typing import NamedTuple

BOM = b"\xef\xbb\xbf"


class Seen(NamedTuple):
    """What a reader sees of an event."""

    data: str
    type: str = "message"
    id: str = ""


class Case(NamedTuple):
    stream: bytes
    events: list[Seen]
    last_event_id: str = ""
    reconnection_time: int | None = None


CASES: dict[str, Case] = {
    # The examples of https://html.spec.whatwg.org/multipage/server-sent-events.html, byte for byte.
    "WHATWG: three messages": Case(
        b"data: This is the first message.\n\n"
        b"data: This is the second message, it\ndata: has two lines.\n\n"
        b"data: This is the third message.\n\n",
        [
            Seen("This is the first message."),
            Seen("This is the second message, it\nhas two lines."),
            Seen("This is the third message."),
        ],
    ),
    "WHATWG: add and remove": Case(
        b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n",
        [Seen("73857293", "add"), Seen("2153", "remove"), Seen("113411", "add")],
    ),
    "WHATWG: stock quote": Case(b"data: YHOO\ndata: +2\ndata: 10\n\n", [Seen("YHOO\n+2\n10")]),
    "WHATWG: comment, IDs and a space": Case(
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event",
        [Seen("first event", id="1"), Seen("second event")],
    ),
    "WHATWG: data without a value": Case(b"data\n\ndata\ndata\n\ndata:", [Seen(""), Seen("\n")]),
    "WHATWG: with and without the space": Case(
        b"data:test\n\ndata: test\n\n", [Seen("test"), Seen("test")]
    ),
    "R2: a leading BOM is dropped": Case(BOM + b"data: a\n\ndata: b\n\n", [Seen("a"), Seen("b")]),
    "R2: a second BOM is part of the name": Case(BOM * 2 + b"data: a\n\ndata: b\n\n", [Seen("b")]),
    "R2: half a BOM is part of the name": Case(BOM[:2] + b"data: a\n\ndata: b\n\n", [Seen("b")]),
    "R2: a BOM later is text": Case(b"data: \xef\xbb\xbfa\n\n", [Seen("\ufeffa")]),
    "R3: CR ends lines": Case(b"data: a\rdata: b\r\r", [Seen("a\nb")]),
    "R3: CRLF ends lines": Case(b"data: a\r\ndata: b\r\n\r\n", [Seen("a\nb")]),
    "R3: line ends mix": Case(b"data: a\r\ndata: b\ndata: c\r\n\r", [Seen("a\nb\nc")]),
    "R3: LF CR ends two lines": Case(b"data: a\n\rdata: b\n\n", [Seen("a"), Seen("b")]),
    "R3: nothing else ends lines": Case(
        "data: a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\n\n".encode(),
        [Seen("a\u2028b\u2029c\x85d\x0be\x0cf\x1cg")],
    ),
    "R4: malformed UTF-8 becomes U+FFFD": Case(
        b"data: \xff\xe2\x82 \xf0\x9f\x8e \xed\xa0\x80\n\ndata: b\n\n",
        [Seen("\ufffd\ufffd \ufffd \ufffd\ufffd\ufffd"), Seen("b")],
    ),
    "R4: UTF-8 in every field": Case(
        "event: é\nid: 世\ndata: 🎂\n\n".encode(), [Seen("🎂", "é", "世")], "世"
    ),
    "R5: an ID alone is no event": Case(b"id: 1\n\ndata: a\n\n", [Seen("a", id="1")], "1"),
    "R5: retry alone is no event": Case(b"retry: 5\n\ndata: a\n\n", [Seen("a")], "", 5),
    "R5: a type alone is no event": Case(b"event: x\n\ndata: a\n\n", [Seen("a")]),
    "R5: a comment and a blank line are no event": Case(
        b"data: a\nid: 1\n\n: ping\n\ndata: b\n\n", [Seen("a", id="1"), Seen("b", id="1")], "1"
    ),
    "R5: empty data is an event": Case(b"data:\n\ndata\n\n", [Seen(""), Seen("")]),
    "R6: an ID sticks": Case(
        b"id: 1\ndata: a\n\ndata: b\n\n", [Seen("a", id="1"), Seen("b", id="1")], "1"
    ),
    "R6: an empty ID clears": Case(
        b"id: 1\ndata: a\n\nid\ndata: b\n\n", [Seen("a", id="1"), Seen("b")]
    ),
    "R6: an ID with NUL is ignored": Case(
        b"id: 1\ndata: a\n\nid: 2\x00\ndata: b\n\n", [Seen("a", id="1"), Seen("b", id="1")], "1"
    ),
    "R6: an unfinished event does not move the ID": Case(
        b"id: 1\ndata: a\n\nid: 2\ndata: b\n", [Seen("a", id="1")], "1"
    ),
    "R7: retry is digits": Case(b"retry: 007\ndata: a\n\n", [Seen("a")], "", 7),
    "R7: a negative retry is ignored": Case(b"retry: -5\ndata: a\n\n", [Seen("a")]),
    "R7: a retry with a plus is ignored": Case(b"retry: +5\ndata: a\n\n", [Seen("a")]),
    "R7: a retry with an underscore is ignored": Case(b"retry: 1_0\ndata: a\n\n", [Seen("a")]),
    "R7: a retry with two spaces is ignored": Case(b"retry:  5\ndata: a\n\n", [Seen("a")]),
    "R7: a retry of other digits is ignored": Case(
        "retry: \u0661\ndata: a\n\n".encode(), [Seen("a")]
    ),
    "R7: an empty retry is ignored": Case(b"retry:\ndata: a\n\n", [Seen("a")]),
    "R8: the end discards an unfinished event": Case(b"data: a\n\ndata: b\n", [Seen("a")]),
    "R8: the end discards an unfinished line": Case(b"data: a\n\ndata: b", [Seen("a")]),
    "the type is that of one event": Case(
        b"event: x\ndata: a\n\ndata: b\n\n", [Seen("a", "x"), Seen("b")]
    ),
    "other fields are ignored": Case(b"DATA: a\nfoo: b\n data: c\ndata: d\n\n", [Seen("d")]),
    "one space is dropped": Case(b"data:  a \n\n", [Seen(" a ")]),
    "colons in a value are text": Case(b"data: a: b\n\n", [Seen("a: b")]),
}
