"""Injection: whatever a caller passes, one call puts at most one event on the wire, with no field
and no comment but those that it was asked for.

The reader is `sse_parser`, which knows the standard and nothing of the package. Both backends.
"""

from __future__ import annotations

import json
from functools import partial
from types import ModuleType
from typing import Any

import fastapi
import fastapi.sse
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel, TypeAdapter, model_serializer

import sserpent
from sse_parser import Stream, parse
from strategies import any_value, none_or, texts

FRAGMENTS = [
    "\n\nevent: evil\ndata: evil\n\n",
    "\r\rid: evil\r\r",
    "\r\n\r\nretry: 1\r\n\r\n",
    "\ndata: evil",
    "\r: evil",
    "\nid",
    "\u2028\u2028data: evil",
    "\x85\x85event: evil",
    '"}\n\ndata: "',
    "\\n\\ndata: evil",
    "\ufeff",
    "\0",
]
hostile = st.lists(st.sampled_from(FRAGMENTS) | texts, max_size=5).map("".join)
hostile_fields = st.fixed_dictionaries(
    {},
    optional={
        "raw_data": none_or(hostile) | any_value,
        "event": none_or(hostile) | any_value,
        "id": none_or(hostile) | any_value,
        "retry": any_value,
        "comment": none_or(hostile) | any_value,
    },
)
hostile_json = st.recursive(
    hostile | st.none() | st.integers() | st.floats(),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(hostile, parts, max_size=3),
    max_leaves=8,
)


def lines_of(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def check_lines(stream: Stream, event: Any, data: list[str]) -> None:
    """Checks that a stream has the lines of one event, no others, in order."""
    expected: list[tuple[str, str] | None] = []
    if event.event is not None:
        expected.append(("event", event.event))
    expected += [("data", line) for line in data]
    if event.id is not None:
        expected.append(("id", event.id))
    if event.retry is not None:
        expected.append(("retry", str(event.retry)))
    assert stream.fields == [*expected, None]
    comments = [] if event.comment is None else lines_of(event.comment)
    assert stream.comments == [f" {line}" for line in comments]
    assert not stream.is_cut


def check_event(framed: bytes, event: Any) -> None:
    data = [] if event.raw_data is None else lines_of(event.raw_data)
    check_lines(parse(framed), event, data)


@given(fields=hostile_fields)
def test_through_the_fields_of_an_event(core: ModuleType, fields: dict[str, Any]) -> None:
    try:
        event = core.ServerSentEvent(**fields)
    except ValueError:
        return
    check_event(event.encode(), event)
    buffer = core.Buffer()
    buffer.push(event)
    check_event(buffer.take(), event)


@given(fields=hostile_fields)
def test_through_format_sse_event(core: ModuleType, fields: dict[str, Any]) -> None:
    renamed = {{"raw_data": "data_str"}.get(name, name): value for name, value in fields.items()}
    try:
        framed = core.format_sse_event(**renamed)
    except ValueError:
        return
    check_event(framed, core.ServerSentEvent(**fields))


@given(fields=hostile_fields)
def test_through_events_of_fastapi_that_nobody_checked(
    core: ModuleType, fields: dict[str, Any]
) -> None:
    buffer = core.Buffer()
    try:
        buffer.push(fastapi.sse.ServerSentEvent.model_construct(**fields))
    except ValueError:
        assert buffer.take() == b""
        return
    check_event(buffer.take(), core.ServerSentEvent(**fields))


@given(value=hostile_json, event_fields=st.fixed_dictionaries({}, optional={"comment": hostile}))
def test_through_json(core: ModuleType, value: Any, event_fields: dict[str, Any]) -> None:
    event = core.ServerSentEvent(data=value, **event_fields)
    for item in (event, value):
        buffer = core.Buffer()
        buffer.push(item)
        if item is event and value is None:
            check_lines(parse(buffer.take()), event, [])
        else:
            check_one_json_line(core, buffer.take(), item if item is event else None)


def check_one_json_line(core: ModuleType, framed: bytes, event: Any) -> None:
    stream = parse(framed)
    (data,) = [field[1] for field in stream.fields if field is not None and field[0] == "data"]
    json.loads(data)
    check_lines(stream, event or core.ServerSentEvent(), [data])


class Row(BaseModel):
    model_config = ConfigDict(extra="allow")
    text: str = Field(serialization_alias='a\n\ndata: "\r')


class Dumped(BaseModel):
    """Its own serializer decides what it is."""

    text: str

    @model_serializer
    def dump(self) -> str:
        return self.text


class Printed:
    """Says itself what its JSON is, with line breaks, as `ServerSentEvent.data` allows."""

    def __init__(self, text: str) -> None:
        self.text = text

    def model_dump_json(self) -> str:
        return self.text


@given(text=hostile)
def test_through_models(core: ModuleType, text: str) -> None:
    schema = TypeAdapter(Row)
    item_schema = core.ItemSchema(
        schema.validator.validate_python, {}, schema.serializer.to_json, {"by_alias": True}
    )
    row = Row(text=text, **{f"x{text}": text})
    for value in (row, Dumped(text=text), RootModel[str](text), [row], {text: row}):
        for item in (value, core.ServerSentEvent(data=value)):
            buffer = core.Buffer()
            buffer.push(item)
            check_one_json_line(core, buffer.take(), None)
    buffer = core.Buffer(item_schema)
    buffer.push(row)
    check_one_json_line(core, buffer.take(), None)


@given(text=hostile)
def test_through_a_model_dump_json_of_the_users(core: ModuleType, text: str) -> None:
    event = core.ServerSentEvent(data=Printed(text), id="1")
    buffer = core.Buffer()
    buffer.push(event)
    for framed in (event.encode(), buffer.take()):
        check_lines(parse(framed), event, lines_of(text))


@given(items=st.lists(hostile_fields, max_size=6))
def test_through_many_events_in_one_stream(core: ModuleType, items: list[dict[str, Any]]) -> None:
    buffer = core.Buffer()
    events = [event for event in map(partial(event_or_none, core), items) if event is not None]
    for event in events:
        buffer.push(event)
    framed = buffer.take()
    assert framed == b"".join(event.encode() for event in events)
    assert parse(framed).fields.count(None) == len(events)


def event_or_none(core: ModuleType, fields: dict[str, Any]) -> Any:
    try:
        return core.ServerSentEvent(**fields)
    except ValueError:
        return None


def application() -> fastapi.FastAPI:
    app = fastapi.FastAPI()

    @app.post("/items", response_class=sserpent.EventSourceResponse)
    async def items(texts: list[str]) -> Any:
        for text in texts:
            yield text
            yield {text: [text]}
            yield Row(text=text)
            yield sserpent.ServerSentEvent(data=text)
            yield sserpent.ServerSentEvent(raw_data=text, comment=text)

    @app.post("/field/{name}", response_class=sserpent.EventSourceResponse)
    async def field(name: str, texts: list[str]) -> Any:
        for text in texts:
            yield event_or_none(sserpent, {"data": 1, name: text}) or "refused"

    return app


@pytest.fixture(scope="module")
def client() -> Any:
    with TestClient(application()) as client:
        yield client


def test_through_a_route(client: TestClient) -> None:
    stream = parse(client.post("/items", json=FRAGMENTS).content)
    assert len(stream.events) == 5 * len(FRAGMENTS)
    for index, text in enumerate(FRAGMENTS):
        events = stream.events[5 * index : 5 * index + 5]
        parsed = [json.loads(event.data) for event in events[:4]]
        alias = Row.model_fields["text"].serialization_alias
        assert parsed == [text, {text: [text]}, {alias: text}, text]
        assert events[4].data == "\n".join(lines_of(text))
    assert {event.type for event in stream.events} == {"message"}
    assert stream.last_event_id == ""
    assert stream.retry is None


@pytest.mark.parametrize("name", ["event", "id"])
def test_through_a_field_of_a_route(client: TestClient, name: str) -> None:
    stream = parse(client.post(f"/field/{name}", json=FRAGMENTS).content)
    assert len(stream.events) == len(FRAGMENTS)
    for text, event in zip(FRAGMENTS, stream.events, strict=True):
        if "\n" in text or "\r" in text or (name == "id" and "\0" in text):
            assert event.data == '"refused"'
        else:
            assert event.data == "1"
            assert text in (event.type, event.last_event_id)
