"""Conformance to the standard; `docs/conformance.md` is the table of rules and tests."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

import sserpent
from documents import document, missing_cases, missing_tests, references, rows
from sse_parser import Event, parse
from strategies import any_fields, any_value, valid_fields
from wire_cases import WHATWG

DOCUMENT = document("conformance.md")

# The grammar of the standard, rule for rule, as a regular expression.
_END_OF_LINE = "(?:\r\n|\r|\n)"
_ANY_CHAR = "[^\r\n]"
_NAME_CHAR = "[^\r\n:]"
_COMMENT = f":{_ANY_CHAR}*{_END_OF_LINE}"
_FIELD = f"{_NAME_CHAR}+(?:: ?{_ANY_CHAR}*)?{_END_OF_LINE}"
_EVENT = f"(?:{_COMMENT}|{_FIELD})*{_END_OF_LINE}"
GRAMMAR_OF_EVENT = re.compile(_EVENT)
GRAMMAR_OF_STREAM = re.compile(f"\ufeff?(?:{_EVENT})*")


# The document


def test_every_test_that_the_document_names_exists() -> None:
    assert len(references(DOCUMENT)) > 60
    assert missing_tests(references(DOCUMENT)) == []


@pytest.mark.once
def test_every_case_that_the_document_names_exists() -> None:
    assert missing_cases(references(DOCUMENT)) == []


def test_every_row_of_the_document_names_a_test() -> None:
    assert len(rows(DOCUMENT)) > 20
    assert [row for row in rows(DOCUMENT) if not references(row[-1])] == []


def test_every_example_of_the_standard_is_in_the_document() -> None:
    examples = DOCUMENT[DOCUMENT.index("## The examples") :]
    assert {each.case for each in references(examples)} == set(WHATWG)


# The reader of the tests

STREAMS: dict[str, tuple[bytes, list[Event], str]] = {
    # The examples of the standard, byte for byte.
    "three messages": (
        (
            b"data: This is the first message.\n\n"
            b"data: This is the second message, it\ndata: has two lines.\n\n"
            b"data: This is the third message.\n\n"
        ),
        [
            Event("This is the first message."),
            Event("This is the second message, it\nhas two lines."),
            Event("This is the third message."),
        ],
        "",
    ),
    "add and remove": (
        b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n",
        [Event("73857293", "add"), Event("2153", "remove"), Event("113411", "add")],
        "",
    ),
    "stock quote": (b"data: YHOO\ndata: +2\ndata: 10\n\n", [Event("YHOO\n+2\n10")], ""),
    "test stream": (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event",
        [Event("first event", "message", "1"), Event("second event")],
        "",
    ),
    "data without a value": (b"data\n\ndata\ndata\n\ndata:", [Event(""), Event("\n")], ""),
    "space or none": (b"data:test\n\ndata: test\n\n", [Event("test"), Event("test")], ""),
    # The rules, one by one.
    "nothing": (b"", [], ""),
    "one BOM is dropped": (b"\xef\xbb\xbfdata: a\n\n", [Event("a")], ""),
    "a second BOM is part of a name": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", [], ""),
    "CR ends lines": (b"data: a\rdata: b\r\r", [Event("a\nb")], ""),
    "CRLF ends lines": (b"data: a\r\ndata: b\r\n\r\n", [Event("a\nb")], ""),
    "LF CR ends two": (b"data: a\n\rdata: b\n\n", [Event("a"), Event("b")], ""),
    "nothing else ends lines": (
        "data: a\u2028\x0b\x0c\x85b\n\n".encode(),
        [Event("a\u2028\x0b\x0c\x85b")],
        "",
    ),
    "the type is of one event": (
        b"event: a\ndata: 1\n\ndata: 2\n\n",
        [Event("1", "a"), Event("2")],
        "",
    ),
    "the type of an event without data is forgotten": (
        b"event: a\n\ndata: 1\n\n",
        [Event("1")],
        "",
    ),
    "the last type counts": (b"event: a\nevent: b\ndata: 1\n\n", [Event("1", "b")], ""),
    "the ID holds": (
        b"id: 1\ndata: a\n\ndata: b\n\n",
        [Event("a", "message", "1"), Event("b", "message", "1")],
        "1",
    ),
    "the ID of an event without data counts": (
        b"id: 1\n\ndata: a\n\n",
        [Event("a", "message", "1")],
        "1",
    ),
    "an ID with NUL does not count": (
        b"id: 1\n\nid: 2\x00\ndata: a\n\n",
        [Event("a", "message", "1")],
        "1",
    ),
    "an ID of an unfinished event does not count": (b"id: 1\n\nid: 2\n", [], "1"),
    "names are literal": (b"Data: a\ndata : b\n data: c\nDATA: d\n\n", [], ""),
    "other fields are ignored": (b"foo: bar\nfoo\ndata: a\n\n", [Event("a")], ""),
    "one space is removed": (b"data:  a \n\n", [Event(" a ")], ""),
    "a tab is no space": (b"data:\ta\n\n", [Event("\ta")], ""),
    "comments stand anywhere": (b":\n: x\ndata: a\n:y\ndata: b\n\n", [Event("a\nb")], ""),
    "an event that is not ended is none": (b"data: a\n\ndata: b\n", [Event("a")], ""),
}


@pytest.mark.parametrize("name", STREAMS)
def test_the_reader_reads_as_the_standard_says(name: str) -> None:
    framed, events, last_event_id = STREAMS[name]
    stream = parse(framed)
    assert stream.events == events
    assert stream.last_event_id == last_event_id


@pytest.mark.parametrize(
    ("value", "retry"),
    [
        ("10", 10),
        ("007", 7),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("1 ", None),
        ("\u0661", None),
    ],
)
def test_the_reader_takes_ascii_digits_for_retry(value: str, retry: int | None) -> None:
    assert parse(f"retry: {value}\n\n".encode()).retry == retry


@pytest.mark.parametrize(
    "framed", [b"", b"\n", b": c\n", b"data: a\n\n", b"data: a\n\n: ping\n", b"id: 1\r\r"]
)
def test_the_reader_sees_that_a_stream_is_whole(framed: bytes) -> None:
    assert not parse(framed).is_cut


@pytest.mark.parametrize(
    "framed",
    [b"data: a", b"data: a\n", b"data: a\n\nd", b": pi", b"data: a\n\n: c\nid: 1\n", b"a\n: c\n"],
)
def test_the_reader_sees_that_a_stream_is_cut(framed: bytes) -> None:
    assert parse(framed).is_cut


def test_the_reader_refuses_what_is_not_utf8() -> None:
    with pytest.raises(UnicodeDecodeError):
        parse(b"data: \xff\n\n")


# What the package writes


@given(fields=valid_fields)
def test_every_event_matches_the_grammar(core: ModuleType, fields: dict[str, Any]) -> None:
    framed = core.ServerSentEvent(**fields).encode().decode()
    assert GRAMMAR_OF_EVENT.fullmatch(framed)
    assert GRAMMAR_OF_EVENT.fullmatch(framed + sserpent.KEEPALIVE_COMMENT.decode()) is None


@given(events=st.lists(valid_fields, max_size=4))
def test_every_stream_matches_the_grammar(core: ModuleType, events: list[dict[str, Any]]) -> None:
    buffer = core.Buffer()
    for fields in events:
        buffer.push(core.ServerSentEvent(**fields))
    stream = buffer.take().decode()
    assert GRAMMAR_OF_STREAM.fullmatch(stream)
    assert len(re.findall(_EVENT, stream)) == len(events)


@given(fields=any_fields, data=any_value)
def test_all_bytes_are_utf8(core: ModuleType, fields: dict[str, Any], data: Any) -> None:
    for arguments in (fields, {"data": data}):
        try:
            framed = core.ServerSentEvent(**arguments).encode()
        except (ValueError, TypeError):
            continue
        assert framed.decode().encode() == framed


@given(fields=valid_fields)
def test_a_stream_never_begins_with_a_bom(core: ModuleType, fields: dict[str, Any]) -> None:
    marked = {
        name: f"\ufeff{value}" if isinstance(value, str) else value
        for name, value in fields.items()
    }
    event = core.ServerSentEvent(**marked)
    assert not event.encode().startswith(b"\xef\xbb\xbf")
    assert [found.data[:1] for found in parse(event.encode()).events] == (
        [] if event.raw_data is None else ["\ufeff"]
    )


@given(fields=valid_fields)
def test_without_data_no_event_is_dispatched(core: ModuleType, fields: dict[str, Any]) -> None:
    stream = parse(core.ServerSentEvent(**{**fields, "raw_data": None}).encode())
    assert stream.events == []
    assert stream.last_event_id == (fields.get("id") or "")
    assert stream.retry == fields.get("retry")


@given(retry=any_value)
def test_retry_is_ascii_digits(core: ModuleType, retry: Any) -> None:
    try:
        framed = core.format_sse_event(retry=retry)
    except ValueError:
        return
    assert re.fullmatch(b"(retry: [0-9]+\n)?\n", framed)


def test_the_keep_alive_is_one_comment_line() -> None:
    ping = sserpent.KEEPALIVE_COMMENT
    assert re.fullmatch(_COMMENT, ping.decode())
    assert parse(ping).fields == []
    # Between the lines of two events, it changes neither.
    event = b"event: e\ndata: a\nid: 1\n\n"
    assert parse(ping + event + ping + ping + event + ping).events == parse(event * 2).events


def test_the_response_is_an_event_stream() -> None:
    app = FastAPI()

    @app.get("/", response_class=sserpent.EventSourceResponse)
    async def events() -> Any:
        yield "é"

    with TestClient(app) as client:
        response = client.get("/")
    media_type, _, parameter = response.headers["content-type"].partition(";")
    assert media_type == "text/event-stream"
    assert parameter.strip() in ("", "charset=utf-8")
    assert response.headers["cache-control"] == "no-cache"
    assert response.content == 'data: "é"\n\n'.encode()
