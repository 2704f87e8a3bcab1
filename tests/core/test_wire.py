"""The wire format: one table, both backends, every way to frame an event."""

from __future__ import annotations

import importlib
import inspect
import re
from types import ModuleType
from typing import Any

import fastapi.sse
import httpx
import httpx_sse
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import sserpent
from newest import newest_fastapi
from sse_parser import parse
from sserpent._core import MODULES, pure
from strategies import any_fields, any_value, texts, valid_fields
from wire_cases import CASES, REFUSED


def format_sse_event(core: ModuleType, fields: dict[str, Any]) -> bytes:
    renamed = {{"raw_data": "data_str"}.get(name, name): value for name, value in fields.items()}
    framed: bytes = core.format_sse_event(**renamed)
    return framed


def encode(core: ModuleType, fields: dict[str, Any]) -> bytes:
    encoded: bytes = core.ServerSentEvent(**fields).encode()
    return encoded


def push(core: ModuleType, fields: dict[str, Any]) -> bytes:
    buffer = core.Buffer()
    buffer.push(core.ServerSentEvent(**fields))
    taken: bytes = buffer.take()
    return taken


WAYS = [format_sse_event, encode, push]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_fields_become_these_bytes(core: ModuleType, case: str, way: Any) -> None:
    fields, framed = CASES[case]
    assert way(core, fields) == framed


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", REFUSED)
def test_fields_are_refused_by_name_and_rule(core: ModuleType, case: str, way: Any) -> None:
    fields, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        way(core, fields)


def test_format_sse_event_calls_its_data_by_its_own_name(core: ModuleType) -> None:
    for value, kind in ((7, "int"), (b"\xff", "bytes"), (None, None)):
        if kind is None:
            assert core.format_sse_event(data_str=value) == b"\n"
            continue
        with pytest.raises(ValueError, match=f"SSE 'data_str' must be a string, not {kind}"):
            core.format_sse_event(data_str=value)


def test_events_follow_each_other_in_one_stream(core: ModuleType) -> None:
    buffer = core.Buffer()
    for fields, _ in CASES.values():
        buffer.push(core.ServerSentEvent(**fields))
    assert buffer.take() == b"".join(framed for _, framed in CASES.values())


@newest_fastapi
@given(fields=valid_fields)
def test_bytes_equal_those_of_fastapi(core: ModuleType, fields: dict[str, Any]) -> None:
    renamed = {{"raw_data": "data_str"}.get(name, name): value for name, value in fields.items()}
    assert core.format_sse_event(**renamed) == fastapi.sse.format_sse_event(**renamed)


@given(fields=valid_fields)
def test_every_way_makes_the_same_bytes(core: ModuleType, fields: dict[str, Any]) -> None:
    assert encode(core, fields) == push(core, fields) == format_sse_event(core, fields)


@given(fields=valid_fields)
def test_a_reader_written_from_the_standard_gets_what_was_sent(
    core: ModuleType, fields: dict[str, Any]
) -> None:
    stream = parse(encode(core, fields))
    data = fields.get("raw_data")
    assert [event.data for event in stream.events] == ([] if data is None else [as_lines(data)])
    assert all(event.type == (fields.get("event") or "message") for event in stream.events)
    assert stream.last_event_id == (fields.get("id") or "")
    assert stream.retry == fields.get("retry")
    assert not stream.is_cut


@given(events=st.lists(valid_fields, max_size=6))
def test_httpx_sse_reads_back_what_was_sent(core: ModuleType, events: list[dict[str, Any]]) -> None:
    buffer = core.Buffer()
    expected = []
    last_id = ""
    for fields in events:
        buffer.push(core.ServerSentEvent(**fields))
        last_id = last_id if fields.get("id") is None else fields["id"]
        expected.append((fields, last_id))
    read = list(read_with_httpx_sse(buffer.take()))
    sent = [pair for pair in expected if pair[0].get("raw_data")]
    got = [event for event in read if event.data]
    assert [
        (as_lines(fields["raw_data"]), fields.get("event") or "message", last_id, retry_of(fields))
        for fields, last_id in sent
        if as_lines(fields["raw_data"])
    ] == [(event.data, event.event, event.id, event.retry) for event in got]


def read_with_httpx_sse(stream: bytes) -> list[httpx_sse.ServerSentEvent]:
    # One chunk, and a stream that does not begin with a BOM of ours: a comment goes first.
    response = httpx.Response(
        200, headers={"content-type": "text/event-stream"}, content=b":\n" + stream
    )
    return list(httpx_sse.EventSource(response).iter_sse())


def retry_of(fields: dict[str, Any]) -> int | None:
    retry: int | None = fields.get("retry")
    return retry


def as_lines(text: str) -> str:
    """Text as a client gets it: every line break is an LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


# The compiled core and its twin


def outcome(call: Any, *arguments: Any, **named: Any) -> Any:
    try:
        return call(*arguments, **named)
    except Exception as error:
        return type(error), str(error)


@pytest.fixture(scope="session")
def compiled(request: pytest.FixtureRequest) -> ModuleType:
    if request.config.getoption("--no-native"):
        pytest.skip("--no-native")
    from sserpent._core import compiled

    return compiled


@given(fields=any_fields)
def test_compiled_and_twin_agree_on_any_fields(
    compiled: ModuleType, fields: dict[str, Any]
) -> None:
    for way in WAYS:
        assert outcome(way, compiled, fields) == outcome(way, pure, fields)


@given(fields=any_fields, data=any_value | texts)
@example(fields={}, data=1e16)
@example(fields={}, data=[{"a": -1e300}, 1e-7])
def test_compiled_and_twin_agree_on_any_event(
    compiled: ModuleType, fields: dict[str, Any], data: Any
) -> None:
    of_compiled = outcome(compiled.ServerSentEvent, data=data, **fields)
    of_twin = outcome(pure.ServerSentEvent, data=data, **fields)
    if isinstance(of_twin, tuple):
        assert of_compiled == of_twin
    else:
        assert outcome(repr, of_compiled) == outcome(repr, of_twin)
        assert outcome(of_compiled.encode) == outcome(of_twin.encode)


@pytest.mark.parametrize(
    "arguments",
    [
        {"nonsense": 1},
        {"data": 1, "nonsense": 1},
        {"event": "a", "id": "b", "retry": 1, "comment": "c", "raw_data": "d", "data_str": "e"},
    ],
)
def test_compiled_and_twin_refuse_unknown_arguments_alike(
    compiled: ModuleType, arguments: dict[str, Any]
) -> None:
    for name in ("ServerSentEvent", "format_sse_event", "Buffer"):
        of_compiled = outcome(getattr(compiled, name), **arguments)
        assert of_compiled[0] is TypeError
        assert outcome(getattr(pure, name), **arguments)[0] is TypeError


@pytest.mark.parametrize("name", ["ServerSentEvent", "format_sse_event"])
def test_fields_are_keyword_only(core: ModuleType, name: str) -> None:
    with pytest.raises(TypeError, match="positional argument"):
        getattr(core, name)("text")


def test_a_text_without_a_name_is_refused_with_the_names_that_it_may_have(core: ModuleType) -> None:
    """FastAPI's class is a model of keywords, too; other libraries take the data first."""

    class Token(core.ServerSentEvent):  # type: ignore[misc, name-defined]
        event = "token"

    for event in (core.ServerSentEvent, Token):
        for arguments in ({}, {"event": "a"}):
            with pytest.raises(TypeError, match=r"name the text, data= .* or raw_data= "):
                event("text", **arguments)


def shape(function: Any) -> list[tuple[str, Any, Any]]:
    return [
        (parameter.name, parameter.kind, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
    ]


def methods(cls: type) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if not name.startswith("_")}


@pytest.mark.parametrize("name", MODULES)
def test_signatures_are_equal(compiled: ModuleType, name: str) -> None:
    ours, theirs = getattr(compiled, name), getattr(pure, name)
    if isinstance(theirs, type) and issubclass(theirs, Exception):
        assert ours.__bases__ == theirs.__bases__
        return
    assert shape(ours) == shape(theirs)
    if isinstance(theirs, type):
        # The compiled pump is itself what its `__await__` returns: it has its methods too.
        of_awaited = {"throw", "close"} if name == "Pump" else set()
        assert set(methods(ours)) - of_awaited == set(methods(theirs))
        for method, value in methods(theirs).items():
            if callable(value):
                # `self` is positional-only in a compiled class.
                assert shape(getattr(ours, method))[1:] == shape(value)[1:]


def test_both_export_the_same_names(compiled: ModuleType) -> None:
    assert sorted(compiled.__all__) == sorted(MODULES)


def test_the_package_shows_the_backend_that_is_in_use() -> None:
    module = "compiled" if sserpent.BACKEND == "rust" else "pure"
    core = importlib.import_module(f"sserpent._core.{module}")
    assert sserpent.ServerSentEvent is core.ServerSentEvent
    assert sserpent.format_sse_event is core.format_sse_event


def test_fastapi_has_the_same_signature(core: ModuleType) -> None:
    assert shape(core.format_sse_event) == shape(fastapi.sse.format_sse_event)
    fields = fastapi.sse.ServerSentEvent.model_fields
    assert [name for name, _, _ in shape(core.ServerSentEvent)] == list(fields)
