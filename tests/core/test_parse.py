"""`EventStreamParser` and `MessageEvent`: rules R1 to R11 on both backends, and that they agree."""

from __future__ import annotations

import gc
import inspect
import json
import pickle
import random
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import repeat
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

import sse_parser
import sserpent.client
from strategies import valid_fields
from stream_cases import CASES, Seen

MAX = 2**31 - 1


def seen(event: Any) -> Seen:
    return Seen(event.data, event.type, event.last_event_id)


def read(parser: Any, chunks: Iterable[bytes]) -> list[Seen]:
    return [seen(event) for chunk in chunks for event in parser.feed(chunk)]


def state_of(parser: Any) -> tuple[str, int | None]:
    return parser.last_event_id, parser.reconnection_time


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[edges[i] : edges[i + 1]] for i in range(len(edges) - 1)]


def splits(stream: bytes) -> Iterator[list[bytes]]:
    """Whole; in two and three at every place; byte by byte; with empty chunks between."""
    yield [stream]
    for first in range(len(stream) + 1):
        yield [stream[:first], stream[first:]]
        if len(stream) <= 60:
            for second in range(first, len(stream) + 1):
                yield [stream[:first], b"", stream[first:second], stream[second:]]
    yield [stream[i : i + 1] for i in range(len(stream))]


# Streams that hold what matters to a reader, and are often almost right.
_PIECES = [
    b"\n", b"\r", b"\r\n", b"\n\n", b"data: ", b"data:", b"data", b"event: ", b"id: ", b"id:",
    b"retry: ", b": ", b":", b" ", b"\0", b"\xef\xbb\xbf", b"\xff", b"\xe2\x82", b"12", b"abc",
    "é🎂".encode(), b"data: x\n\n", b"id: 7\n", b"event: e\n",
]  # fmt: skip
streams = st.lists(st.sampled_from(_PIECES) | st.binary(max_size=4), max_size=25).map(b"".join)


@pytest.mark.parametrize("name", CASES)
def test_r1_any_split_of_a_small_stream_yields_the_same_events(core: ModuleType, name: str) -> None:
    case = CASES[name]
    for chunks in splits(case.stream):
        parser = core.EventStreamParser()
        assert read(parser, chunks) == case.events, chunks
        assert state_of(parser) == (case.last_event_id, case.reconnection_time), chunks


@pytest.mark.parametrize("seed", range(3))
def test_r1_random_splits_of_a_large_stream_yield_the_same_events(
    core: ModuleType, seed: int
) -> None:
    chance = random.Random(seed)
    stream = b"".join(
        b"".join(chance.choice(_PIECES) for _ in range(chance.randrange(8)))
        + chance.choice([b"\n\n", b"\r\r", b"\r\n\r\n"])
        for _ in range(3000)
    )
    parser = core.EventStreamParser()
    whole = read(parser, [stream])
    assert len(whole) > 300
    for most in (3, 50, 5000):
        chunks, at = [], 0
        while at < len(stream):
            size = chance.randrange(most + 1)
            chunks.append(stream[at : at + size])
            at += size
        other = core.EventStreamParser()
        assert read(other, chunks) == whole
        assert state_of(other) == state_of(parser)


def outcome(core: ModuleType, chunks: list[bytes], limit: int) -> Any:
    """All that can be seen of a parser after each chunk."""
    parser = core.EventStreamParser(limit, "seed")
    steps: list[Any] = []
    for chunk in chunks:
        try:
            events: Any = [
                (*seen(each), each.data_bytes, repr(each)) for each in parser.feed(chunk)
            ]
        except core.EventTooLarge as error:
            events = str(error)
        steps.append((events, state_of(parser)))
    return steps


@given(stream=streams, places=st.lists(st.integers(0, 200), max_size=6), limit=st.integers(1, 40))
def test_rust_is_equal_to_the_twin(stream: bytes, places: list[int], limit: int) -> None:
    compiled = pytest.importorskip("sserpent._core.compiled")
    from sserpent._core import pure

    chunks = [*cut(stream, places), b""]
    assert outcome(compiled, chunks, limit) == outcome(pure, chunks, limit)
    assert outcome(compiled, chunks, 1000) == outcome(pure, chunks, 1000)


@given(stream=streams, places=st.lists(st.integers(0, 200), max_size=6), limit=st.integers(1, 40))
def test_r1_generated_streams_split_anywhere_also_at_the_limit(
    core: ModuleType, stream: bytes, places: list[int], limit: int
) -> None:
    def all_of(chunks: list[bytes]) -> tuple[list[Any], bool]:
        found, failed = [], False
        for events, _ in outcome(core, [*chunks, b""], limit):
            if isinstance(events, str):
                failed = True
            else:
                found += events
        return found, failed

    assert all_of(cut(stream, places)) == all_of([stream])


@given(stream=streams)
def test_the_reader_of_the_tests_sees_the_same(core: ModuleType, stream: bytes) -> None:
    expected = sse_parser.parse(stream.decode("utf-8", "replace").encode())
    parser = core.EventStreamParser()
    found = read(parser, [stream])
    assert found == [Seen(e.data, e.type, e.last_event_id) for e in expected.events]
    assert parser.last_event_id == expected.last_event_id


@given(sent=st.lists(valid_fields, max_size=4), places=st.lists(st.integers(0, 400), max_size=5))
def test_what_frame_writes_is_read_back(
    core: ModuleType, sent: list[dict[str, Any]], places: list[int]
) -> None:
    stream, expected, last_id, retry = b"", [], "", None
    for fields in sent:
        stream += core.ServerSentEvent(**fields).encode()
        last_id = last_id if fields.get("id") is None else fields["id"]
        retry = retry if fields.get("retry") is None else min(fields["retry"], MAX)
        data = fields.get("raw_data")
        if data is not None:
            data = data.replace("\r\n", "\n").replace("\r", "\n")
            expected.append(Seen(data, fields.get("event") or "message", last_id))
    parser = core.EventStreamParser()
    assert read(parser, cut(stream, places)) == expected
    assert state_of(parser) == (last_id, retry)


def test_r2_the_bom_is_dropped_after_empty_feeds(core: ModuleType) -> None:
    chunks = [b"", b"\xef", b"", b"\xbb", b"\xbf", b"", b"data: a\n\n"]
    assert read(core.EventStreamParser(), chunks) == [Seen("a")]
    # It counts for nothing, however small the limit.
    assert read(core.EventStreamParser(max_event_size=7), chunks) == [Seen("a")]


def test_r3_a_cr_dispatches_at_once_and_its_lf_is_swallowed(core: ModuleType) -> None:
    parser = core.EventStreamParser()
    assert read(parser, [b"data: a\r\n\r"]) == [Seen("a")]
    assert read(parser, [b"", b"\n"]) == []
    assert read(parser, [b"data: b\n\n"]) == [Seen("b")]


def test_r6_the_id_is_seeded_and_commits_at_the_blank_line(core: ModuleType) -> None:
    parser = core.EventStreamParser(last_event_id="é")
    assert read(parser, [b"data: a\n\nid: 2\n"]) == [Seen("a", id="é")]
    assert parser.last_event_id == "é"
    assert read(parser, [b"\n"]) == []
    assert parser.last_event_id == "2"
    assert read(parser, [b"data: a\n\n"]) == [Seen("a", id="2")]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"id: 1\n\nretry: 5\n\nevent: e\n\n: comment\n\n\n\n", []),
        (b"data\n\n", [Seen("")]),
        (b"data:\n\n", [Seen("")]),
        (b"data\ndata\n\n", [Seen("\n")]),
        # The type of a block without data is forgotten with it.
        (b"event: e\n\ndata: a\n\n", [Seen("a")]),
    ],
)
def test_r5_an_event_has_a_data_line(core: ModuleType, stream: bytes, expected: list[Seen]) -> None:
    for chunks in splits(stream):
        found = [Seen(each.data, each.type) for each in read(core.EventStreamParser(), chunks)]
        assert found == expected


@pytest.mark.parametrize(
    "unfinished", [b"data: b", b"data: b\n", b"data: b\nid: 2\n", b"id: 2\ndata: b\nevent: e"]
)
def test_r8_the_end_discards_the_unfinished_event(core: ModuleType, unfinished: bytes) -> None:
    parser = core.EventStreamParser()
    # `feed(b"")` is what the iterators call at the end.
    assert read(parser, [b"id: 1\ndata: a\n\n" + unfinished, b""]) == [Seen("a", id="1")]
    assert parser.last_event_id == "1"


@pytest.mark.parametrize(
    ("value", "time"),
    [("0", 0), ("2147483647", MAX), ("2147483648", MAX), ("9" * 5000, MAX), ("0" * 5000 + "5", 5)],
)
def test_r7_retry_is_clamped(core: ModuleType, value: str, time: int) -> None:
    parser = core.EventStreamParser()
    parser.feed(f"retry: {value}\n".encode())
    assert parser.reconnection_time == time
    parser.feed(b"retry: x\n\n")
    assert parser.reconnection_time == time


def instructions(core: ModuleType, chunks: list[bytes]) -> int:
    """The work of a pure parser: the bytecodes that it runs."""
    count = 0

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    parser = core.EventStreamParser()
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for chunk in chunks:
            parser.feed(chunk)
    finally:
        sys.settrace(before)
    return count


def test_r9_the_work_is_linear_in_the_chunks() -> None:
    from sserpent._core import pure

    def work(size: int) -> int:
        stream = b"data: " + b"x" * size + b"\n\n"
        return instructions(pure, [stream[at : at + 10] for at in range(0, len(stream), 10)])

    assert work(20_000) < 2.2 * work(10_000)


class Copied(bytearray):
    """Counts the bytes that are added to or taken out of a buffer."""

    copied = 0

    def __iadd__(self, more: Any) -> Any:
        Copied.copied += len(more)
        return super().__iadd__(more)

    def __bytes__(self) -> bytes:
        Copied.copied += len(self)
        return bytes(memoryview(self))


def test_r9_each_byte_of_a_large_event_is_collected_once() -> None:
    from sserpent._core import pure

    stream = b"data: " + b"x" * 100_000 + b"\n\n"
    parser = pure.EventStreamParser()
    parser._line, parser._data = Copied(), Copied()
    for at in range(0, len(stream), 100):
        parser.feed(stream[at : at + 100])
    assert 0 < Copied.copied < 1.1 * len(stream)


LIMIT = 20


@pytest.mark.parametrize(
    ("stream", "fits"),
    [
        (b"data: " + b"x" * 14 + b"\n\n", True),
        (b"data: " + b"x" * 15 + b"\n\n", False),
        (b"data: " + b"x" * 15, False),
        (b": " + b"x" * 18 + b"\n", True),
        (b": " + b"x" * 19 + b"\n", False),
        (b"x" * 21, False),
        # Six bytes of data and a line break, then a line of 13.
        (b"data: abcdef\ndata: 1234567\n\n", True),
        (b"data: abcdef\ndata: 12345678\n\n", False),
        (b"data: abcdef\n: 345678901234\n", False),
        (b"data\n" * 17, True),
        (b"data\n" * 18, False),
        (b"data: " + b"x" * 14 + b"\r\n\r\ndata: " + b"x" * 14 + b"\r\n\r\n", True),
    ],
)
def test_r10_the_pending_line_and_data_count(core: ModuleType, stream: bytes, fits: bool) -> None:
    for chunks in splits(stream):
        parser = core.EventStreamParser(max_event_size=LIMIT)
        if fits:
            read(parser, chunks)
            continue
        with pytest.raises(core.EventTooLarge, match="larger than 'max_event_size', 20 bytes"):
            read(parser, [*chunks, b""])


def test_r10_complete_events_come_first_and_then_the_error_for_ever(core: ModuleType) -> None:
    parser = core.EventStreamParser(max_event_size=LIMIT)
    assert read(parser, [b"id: 1\ndata: a\n\ndata: b\n\n" + b"x" * 30]) == [
        Seen("a", id="1"),
        Seen("b", id="1"),
    ]
    for chunk in (b"", b"\n\n", b"data: c\n\n"):
        with pytest.raises(core.EventTooLarge):
            parser.feed(chunk)
    assert parser.last_event_id == "1"
    assert issubclass(core.EventTooLarge, ValueError)


@pytest.mark.parametrize("hostile", [b"data: xxxxxxxx\n", b"x", b"xy", b"data:a\n", b"data\n"])
def test_r10_a_hostile_stream_is_bounded(core: ModuleType, hostile: bytes) -> None:
    limit = 30_000
    parser = core.EventStreamParser(max_event_size=limit)
    gc.collect()
    tracemalloc.start()
    try:
        with pytest.raises(core.EventTooLarge):
            read(parser, repeat(hostile, limit + 1))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Rust's own buffers are not traced; its tests count those.
    assert peak < 4 * limit


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: memoryview(bytearray(b))])
def test_r11_feed_takes_bytes_and_keeps_no_reference(core: ModuleType, kind: Any) -> None:
    parser = core.EventStreamParser()
    chunk = kind(b"data: abc\n\ndata: de")
    references = sys.getrefcount(chunk)
    events = parser.feed(chunk)
    assert sys.getrefcount(chunk) == references
    if isinstance(chunk, bytearray):
        chunk[:] = b"z" * 3  # a kept buffer would forbid it
    assert [seen(each) for each in events] == [Seen("abc")]
    assert read(parser, [b"f\n\n"]) == [Seen("def")]
    strided = memoryview(b"d-a-t-a-:-x-\n-\n-")[::2]
    assert [seen(each) for each in parser.feed(strided)] == [Seen("x")]


@pytest.mark.parametrize("chunk", ["data: a\n\n", None, 3, [1]])
def test_r11_feed_refuses_other_types(core: ModuleType, chunk: Any) -> None:
    message = f"'chunk' must be bytes, bytearray or memoryview, not {type(chunk).__name__}"
    with pytest.raises(TypeError, match=message):
        core.EventStreamParser().feed(chunk)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_event_size": 0}, "'max_event_size' must be a positive integer of bytes, not 0"),
        ({"max_event_size": -1}, "'max_event_size' must be a positive integer of bytes, not -1"),
        (
            {"max_event_size": 1.5},
            "'max_event_size' must be a positive integer of bytes, not float",
        ),
        (
            {"max_event_size": True},
            "'max_event_size' must be a positive integer of bytes, not bool",
        ),
        (
            {"max_event_size": None},
            "'max_event_size' must be a positive integer of bytes, not NoneType",
        ),
        ({"last_event_id": 5}, "SSE 'last_event_id' must be a string, not int"),
        (
            {"last_event_id": "a\nb"},
            "SSE 'last_event_id' must be a single line without null characters",
        ),
        (
            {"last_event_id": "\0"},
            "SSE 'last_event_id' must be a single line without null characters",
        ),
        ({"last_event_id": "\ud800"}, "SSE 'last_event_id' must be valid Unicode"),
    ],
)
def test_bad_options_are_refused_by_name(core: ModuleType, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        core.EventStreamParser(**arguments)


def test_a_limit_beyond_any_memory_is_none(core: ModuleType) -> None:
    assert read(core.EventStreamParser(2**100), [b"data: a\n\n"]) == [Seen("a")]


# MessageEvent


@pytest.mark.parametrize("text", ["x" * 200_000, "é" * 200_000, "\ufffd" + "x" * 200_000])
def test_a_large_event_in_chunks_is_as_one_that_is_made(core: ModuleType, text: str) -> None:
    # U+FFFD stands for what is no UTF-8.
    data = text.encode().replace("\ufffd".encode(), b"\xff")

    def received(parser: Any) -> Any:
        stream = b"data: " + data + b"\n\n"
        chunks = [stream[at : at + 1000] for at in range(0, len(stream), 1000)]
        (event,) = [event for chunk in chunks for event in parser.feed(chunk)]
        return event

    parser = core.EventStreamParser()
    event, other = received(parser), received(parser)
    made = core.MessageEvent(data)
    assert event == made == other
    assert hash(event) == hash(made)
    assert event.data == other.data == text
    assert type(event.data_bytes) is bytes
    assert event.data_bytes == made.data_bytes
    assert received(parser).__getnewargs_ex__() == made.__getnewargs_ex__()


def test_an_event_is_made_compared_hashed_and_pickled(core: ModuleType) -> None:
    made = core.MessageEvent("é\n", type="t", last_event_id="7")
    (event,) = core.EventStreamParser().feed("event: t\nid: 7\ndata: é\ndata:\n\n".encode())
    assert event == made
    assert hash(event) == hash(made)
    assert event != core.MessageEvent("é\n", type="t")
    assert event != "é\n"
    assert repr(event) == "MessageEvent('é\\n', type='t', last_event_id='7')"
    assert core.MessageEvent() == core.MessageEvent(b"", type="message", last_event_id="")
    malformed = core.MessageEvent(b"\xff")
    assert (malformed.data, malformed.data_bytes) == ("\ufffd", b"\xff")
    with pytest.raises(AttributeError):
        event.data = "x"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_event_is_pickled(
    core: ModuleType, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A class is pickled by name, and the name is that of the backend in use.
    monkeypatch.setattr(sserpent.client, "MessageEvent", core.MessageEvent)
    event = core.MessageEvent(b"\xff", type="t", last_event_id="7")
    assert pickle.loads(pickle.dumps(event, protocol)) == event


@pytest.mark.parametrize("name", ["MessageEvent", "EventStreamParser"])
def test_it_is_no_base_class(core: ModuleType, name: str) -> None:
    rule = f"^type 'sserpent.client.{name}' is not an acceptable base type$"
    with pytest.raises(TypeError, match=rule):
        type("Own", (getattr(core, name),), {})


@pytest.mark.parametrize(
    ("arguments", "field"),
    [({"data": 5}, "data"), ({"type": 5}, "type"), ({"last_event_id": 1}, "last_event_id")],
)
def test_an_event_refuses_what_is_no_text(core: ModuleType, arguments: Any, field: str) -> None:
    with pytest.raises(ValueError, match=f"SSE '{field}' must be a string, not"):
        core.MessageEvent(**arguments)


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(), parts, max_size=3),
    max_leaves=8,
)


@given(
    text=_json_values.map(json.dumps)
    | st.text(max_size=8)
    | st.sampled_from(['"\\ud800"', "[1,]", "1e999", "NaN", "-Infinity", "[" * 100_000, "\ufeff1"])
)
def test_json_is_what_the_standard_library_loads(core: ModuleType, text: str) -> None:
    event = core.MessageEvent(text)
    try:
        expected = json.loads(text)
    except (ValueError, RecursionError):
        with pytest.raises(ValueError):  # noqa: PT011 - worded by the standard library
            event.json()
    else:
        assert json.dumps(event.json()) == json.dumps(expected)


class Item(BaseModel):
    a: int
    b: str = ""


def test_r12_decode_validates_and_its_error_carries_the_event(core: ModuleType) -> None:
    assert core.MessageEvent('{"a": 1}').decode(Item) == Item(a=1)
    assert core.MessageEvent("[1, 2]").decode(list[int]) == [1, 2]
    assert core.MessageEvent('"x"').decode(int | str) == "x"
    for data in ('{"a": "x"}', "no JSON", ""):
        event = core.MessageEvent(data)
        with pytest.raises(ValidationError) as caught:
            event.decode(Item)
        assert caught.value.event is event  # type: ignore[attr-defined]


def test_r4_malformed_text_is_replaced_before_it_is_json(core: ModuleType) -> None:
    event = core.MessageEvent(b'{"a": 1, "b": "\xff"}')
    assert event.json() == {"a": 1, "b": "\ufffd"}
    assert event.decode(Item) == Item(a=1, b="\ufffd")


# The twin rule


@pytest.mark.parametrize("name", ["EventStreamParser", "EventTooLarge", "MessageEvent"])
def test_the_backends_have_the_same_documentation(name: str) -> None:
    compiled = pytest.importorskip("sserpent._core.compiled")
    from sserpent._core import pure

    native, twin = getattr(compiled, name), getattr(pure, name)
    assert native.__module__ == twin.__module__ == "sserpent.client"
    assert inspect.getdoc(native) == inspect.getdoc(twin)
    for attribute in vars(twin):
        if not attribute.startswith("_"):
            native_part, twin_part = getattr(native, attribute), getattr(twin, attribute)
            assert inspect.getdoc(native_part) == inspect.getdoc(twin_part)
            assert inspect.getdoc(twin_part)
            if callable(twin_part):
                native_names = list(inspect.signature(native_part).parameters)
                assert native_names == list(inspect.signature(twin_part).parameters)
    shown = {part for part in dir(twin) if not part.startswith("_")}
    assert shown == {part for part in dir(native) if not part.startswith("_")}
