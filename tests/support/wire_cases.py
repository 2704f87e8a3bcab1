"""Fields and the bytes that they become, one table for every way to frame an event.

The names are those of `ServerSentEvent`, with `raw_data` for what `format_sse_event` calls
`data_str`.
"""

from __future__ import annotations

from typing import Any

# The examples of https://html.spec.whatwg.org/multipage/server-sent-events.html, in its order, in
# the one spelling that the package has for each: a space after the colon, and fields in the order
# comment, event, data, id, retry.
WHATWG: dict[str, tuple[dict[str, Any], bytes]] = {
    "first message": (
        {"raw_data": "This is the first message."},
        b"data: This is the first message.\n\n",
    ),
    "message of two lines": (
        {"raw_data": "This is the second message, it\nhas two lines."},
        b"data: This is the second message, it\ndata: has two lines.\n\n",
    ),
    "third message": (
        {"raw_data": "This is the third message."},
        b"data: This is the third message.\n\n",
    ),
    "named event add": (
        {"event": "add", "raw_data": "73857293"},
        b"event: add\ndata: 73857293\n\n",
    ),
    "named event remove": (
        {"event": "remove", "raw_data": "2153"},
        b"event: remove\ndata: 2153\n\n",
    ),
    "stock quote of three lines": (
        {"raw_data": "YHOO\n+2\n10"},
        b"data: YHOO\ndata: +2\ndata: 10\n\n",
    ),
    "comment alone": ({"comment": "test stream"}, b": test stream\n\n"),
    "event with id": (
        {"raw_data": "first event", "id": "1"},
        b"data: first event\nid: 1\n\n",
    ),
    "event that resets the id": (
        {"raw_data": "second event", "id": ""},
        b"data: second event\nid: \n\n",
    ),
    "data with a leading space": (
        {"raw_data": " third event"},
        b"data:  third event\n\n",
    ),
    "empty data": ({"raw_data": ""}, b"data: \n\n"),
    "data that is one line break": ({"raw_data": "\n"}, b"data: \ndata: \n\n"),
    "data with and without the space": ({"raw_data": "test"}, b"data: test\n\n"),
}

OURS: dict[str, tuple[dict[str, Any], bytes]] = {
    "nothing": ({}, b"\n"),
    "all fields, in order": (
        {"retry": 5000, "id": "7", "raw_data": "d", "event": "e", "comment": "c"},
        b": c\nevent: e\ndata: d\nid: 7\nretry: 5000\n\n",
    ),
    "data ends in each line break": (
        {"raw_data": "a\nb\rc\r\nd"},
        b"data: a\ndata: b\ndata: c\ndata: d\n\n",
    ),
    "LF CR is two line breaks": ({"raw_data": "a\n\rb"}, b"data: a\ndata: \ndata: b\n\n"),
    "CR CR LF is two line breaks": ({"raw_data": "a\r\r\nb"}, b"data: a\ndata: \ndata: b\n\n"),
    "data ends with a line break": ({"raw_data": "a\r\n"}, b"data: a\ndata: \n\n"),
    "data of blank lines": ({"raw_data": "\n\n\n"}, b"data: \ndata: \ndata: \ndata: \n\n"),
    "data that looks like fields": (
        {"raw_data": "x\n\nevent: evil\ndata: y\n: c\n\n"},
        b"data: x\ndata: \ndata: event: evil\ndata: data: y\ndata: : c\ndata: \ndata: \n\n",
    ),
    "no other line ends": (
        {"raw_data": "a\vb\fc\x1cd\x1de\x1ef\x85g\u2028h\u2029i"},
        "data: a\vb\fc\x1cd\x1de\x1ef\x85g\u2028h\u2029i\n\n".encode(),
    ),
    "no other line ends in event and id": (
        {"event": "a\u2028b\x85", "id": "c\vd\f"},
        "event: a\u2028b\x85\nid: c\vd\f\n\n".encode(),
    ),
    "NUL outside id": (
        {"raw_data": "a\0b", "event": "c\0d", "comment": "e\0f"},
        b": e\0f\nevent: c\0d\ndata: a\0b\n\n",
    ),
    "BOM is text": ({"raw_data": "\ufeffa"}, b"data: \xef\xbb\xbfa\n\n"),
    "Unicode": (
        {"raw_data": "日本語 🐍", "event": "é", "id": "ñ", "comment": "ß"},
        ": ß\nevent: é\ndata: 日本語 🐍\nid: ñ\n\n".encode(),
    ),
    "spaces are kept": (
        {"raw_data": "  a  ", "event": " e ", "id": " i ", "comment": " c "},
        b":  c \nevent:  e \ndata:   a  \nid:  i \n\n",
    ),
    "colons are text": (
        {"raw_data": ": a:", "event": ":e", "id": "i:", "comment": ":c"},
        b": :c\nevent: :e\ndata: : a:\nid: i:\n\n",
    ),
    "comment of many lines": (
        {"comment": "a\nb\r\nc\rd\n"},
        b": a\n: b\n: c\n: d\n: \n\n",
    ),
    "empty comment": ({"comment": ""}, b": \n\n"),
    "empty event": ({"event": "", "raw_data": "a"}, b"event: \ndata: a\n\n"),
    "empty everything": (
        {"comment": "", "event": "", "raw_data": "", "id": ""},
        b": \nevent: \ndata: \nid: \n\n",
    ),
    "retry alone": ({"retry": 1}, b"retry: 1\n\n"),
    "retry of zero": ({"retry": 0}, b"retry: 0\n\n"),
    "retry at 32 bits": ({"retry": 2**32}, b"retry: 4294967296\n\n"),
    "retry beyond 64 bits": ({"retry": 2**70}, b"retry: 1180591620717411303424\n\n"),
    "id alone": ({"id": "0"}, b"id: 0\n\n"),
    "the end of a chat": ({"raw_data": "[DONE]"}, b"data: [DONE]\n\n"),
}

CASES = {**WHATWG, **OURS}

# Fields that are refused, and why. FastAPI has words for the first three kinds.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "LF in event": ({"event": "a\nb"}, "SSE 'event' must be a single line"),
    "CR in event": ({"event": "a\r"}, "SSE 'event' must be a single line"),
    "CRLF in event": ({"event": "\r\n"}, "SSE 'event' must be a single line"),
    "LF in id": ({"id": "a\nb"}, "SSE 'id' must be a single line"),
    "CR in id": ({"id": "\ra"}, "SSE 'id' must be a single line"),
    "NUL in id": ({"id": "a\0b"}, "SSE 'id' must not contain null characters"),
    "NUL and LF in id": ({"id": "\n\0"}, "SSE 'id' must not contain null characters"),
    "event of a wrong type": ({"event": 7}, "SSE 'event' must be a string, not int"),
    "id of a wrong type": ({"id": 7}, "SSE 'id' must be a string, not int"),
    "comment of a wrong type": ({"comment": ["a"]}, "SSE 'comment' must be a string, not list"),
    "lone surrogate in event": (
        {"event": "\ud800"},
        "SSE 'event' must be valid Unicode, without lone surrogates",
    ),
    "lone surrogate in id": (
        {"id": "\udfff"},
        "SSE 'id' must be valid Unicode, without lone surrogates",
    ),
    "lone surrogate in comment": (
        {"comment": "\ud800a"},
        "SSE 'comment' must be valid Unicode, without lone surrogates",
    ),
    "negative retry": (
        {"retry": -1},
        "SSE 'retry' must be a non-negative integer of milliseconds, not -1 (int)",
    ),
    "fraction in retry": (
        {"retry": 1.5},
        "SSE 'retry' must be a non-negative integer of milliseconds, not 1.5 (float)",
    ),
    "text in retry": (
        {"retry": "soon"},
        "SSE 'retry' must be a non-negative integer of milliseconds, not str",
    ),
    "list in retry": (
        {"retry": [1]},
        "SSE 'retry' must be a non-negative integer of milliseconds, not list",
    ),
}
