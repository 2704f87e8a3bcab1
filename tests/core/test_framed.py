"""Items that are framed already, in the buffer and its meter. Both backends."""

from __future__ import annotations

from enum import Enum
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sserpent._core import pure

LONE = "data: \ud800\n\n"


class Text(str):
    pass


class Raw(bytes):
    def __bytes__(self) -> bytes:
        return b"another"


class Colour(str, Enum):
    RED = "data: red\n\n"


READY: list[tuple[Any, bytes]] = [
    ("data: a\n\n", b"data: a\n\n"),
    ("data: 世\r\n\r\n", "data: 世\r\n\r\n".encode()),
    (Text("data: a\n\n"), b"data: a\n\n"),
    (Colour.RED, b"data: red\n\n"),
    (b"data: \xff\n", b"data: \xff\n"),
    (Raw(b"raw"), b"raw"),
    (bytearray(b": c\n"), b": c\n"),
    (memoryview(b": c\n"), b": c\n"),
    (memoryview(b"a-b-c-")[::2], b"abc"),
    ("", b""),
    (b"", b""),
]


def framed_buffer(core: ModuleType, schema: Any = None, **options: Any) -> Any:
    return core.Buffer(schema, framed=True, **options)


@pytest.mark.parametrize(("item", "expected"), READY)
def test_e1_text_and_bytes_are_taken_as_they_are(
    core: ModuleType, item: Any, expected: bytes
) -> None:
    buffer = framed_buffer(core)
    buffer.push(item)
    assert buffer.pending == len(expected)
    assert buffer.take() == expected


@pytest.mark.parametrize("item", ["data: a\n\n", b"data: a\n\n"])
def test_e1_without_framed_they_are_data(core: ModuleType, item: Any) -> None:
    buffer = core.Buffer()
    buffer.push(item)
    assert buffer.take() == b'data: "data: a\\n\\n"\n\n'


def test_e1_other_items_are_framed_as_ever_in_their_order(core: ModuleType) -> None:
    buffer = framed_buffer(core)
    for item in ("data: a\n\n", {"b": 1}, core.ServerSentEvent(event="c", data="d"), b": e\n", 5):
        buffer.push(item)
    assert buffer.take() == (b'data: a\n\ndata: {"b":1}\n\nevent: c\ndata: "d"\n\n: e\ndata: 5\n\n')


def test_e1_a_declared_type_does_not_look_at_them(core: ModuleType) -> None:
    def validate(item: object) -> object:
        raise ValueError(f"validated {item!r}")

    schema = core.ItemSchema(validate, {}, lambda value: b"1", {})
    buffer = framed_buffer(core, schema)
    buffer.push("data: a\n\n")
    with pytest.raises(ValueError, match="validated 5"):
        buffer.push(5)
    assert buffer.take() == b"data: a\n\n"


def test_e1_declared_events_do_not_look_at_them(core: ModuleType) -> None:
    def refuse(item: object) -> Any:
        raise ValueError(f"asked about {item!r}")

    buffer = framed_buffer(core, core.DeclaredEvents({}, {}, refuse))
    buffer.push(b"data: a\n\n")
    with pytest.raises(ValueError, match="asked about 5"):
        buffer.push(5)
    assert buffer.take() == b"data: a\n\n"


def test_e1_text_that_is_no_unicode_is_refused_and_leaves_nothing(core: ModuleType) -> None:
    buffer = framed_buffer(core)
    buffer.push("data: a\n\n")
    with pytest.raises(ValueError, match="text must be valid Unicode, without lone"):
        buffer.push(LONE)
    assert buffer.take() == b"data: a\n\n"


def test_e1_a_released_view_is_refused(core: ModuleType) -> None:
    view = memoryview(b"data: a\n\n")
    view.release()
    buffer = framed_buffer(core)
    with pytest.raises(ValueError, match="released"):
        buffer.push(view)
    assert buffer.pending == 0


def test_e1_what_is_pushed_is_a_copy(core: ModuleType) -> None:
    array = bytearray(b"data: a\n\n")
    buffer = framed_buffer(core)
    buffer.push(array)
    array[6] = ord("b")
    assert buffer.take() == b"data: a\n\n"


def test_e1_it_is_time_by_bytes_and_by_age(core: ModuleType) -> None:
    buffer = framed_buffer(core, max_pending=10, max_age=1_000)
    assert not buffer.push("123456789")
    assert buffer.push("0")
    buffer = framed_buffer(core, max_age=0)
    assert buffer.push(""), "a generator that yields nothing has to give way, too"


@pytest.mark.parametrize(
    ("items", "begins"),
    [
        ([], True),
        (["data: a\n\n"], True),
        (["data: a\n"], True),
        (["data: a"], False),
        (["data: a\r"], False),
        (["data: a\r", "\n"], True),
        (["data: a\r\r"], False),
        (["data: a\n", ""], True),
        (["data: a", ""], False),
        (["data: a", {"b": 1}], True),
    ],
)
def test_e1_a_line_begins_at_the_start_and_after_lf(
    core: ModuleType, items: list[Any], begins: bool
) -> None:
    buffer = framed_buffer(core)
    meter = core.Meter(buffer, lambda: None)
    assert buffer.at_line_start
    for item in items:
        buffer.push(item)
        meter.take()
    assert buffer.at_line_start is begins
    assert meter.at_line_start is begins


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("is_taken", [True, False])
def test_e1_an_event_begins_at_the_start_and_after_a_blank_line(
    core: ModuleType, end: str, is_taken: bool
) -> None:
    buffer = framed_buffer(core)
    assert buffer.at_event_start
    for character in f"data: a{end}":
        buffer.push(character)
        if is_taken:
            buffer.take()
        assert not buffer.at_event_start
    buffer.push(end)
    assert buffer.at_event_start
    buffer.push("data: b")
    assert not buffer.at_event_start
    buffer.push(f"{end}{end}")
    assert buffer.at_event_start


def test_e1_a_blank_line_at_the_start_is_followed_by_an_event(core: ModuleType) -> None:
    for blank in ("\n", "\r", "\r\n"):
        buffer = framed_buffer(core)
        buffer.push(blank)
        assert buffer.at_event_start
    buffer = core.Buffer()
    buffer.push({"data": "half"})
    assert buffer.at_event_start


def test_e1_only_what_is_taken_decides_where_a_line_begins(core: ModuleType) -> None:
    buffer = framed_buffer(core)
    buffer.push("data: a")
    assert buffer.at_line_start
    buffer.take()
    buffer.push("\n\n")
    assert not buffer.at_line_start


def test_e1_a_buffer_without_framed_is_always_where_a_line_begins(core: ModuleType) -> None:
    buffer = core.Buffer()
    buffer.push("a")
    buffer.take()
    assert buffer.at_line_start


@pytest.mark.parametrize(
    ("takes", "events"),
    [
        ([["data: a\n\n"], ["data: b\n\ndata: c\n\n"]], 3),
        ([["data: a\n"], ["\n"]], 1),
        ([["data: a"], ["\n", "\n"]], 1),
        ([["data: a\r\n\r\n"]], 1),
        ([["data: a\r\n\r"], ["\n"]], 1),
        ([["data: a\r\n"], ["\r"], ["\n"]], 1),
        ([["data: a\r\r"]], 1),
        ([["data: a\ndata: b\n"]], 0),
        ([["data: a\n\n"], ["\n"]], 1),
        ([["data: a\n\n", {"b": 1}]], 2),
        ([[""]], 0),
    ],
)
def test_e1_a_meter_counts_blank_lines(
    core: ModuleType, takes: list[list[Any]], events: int
) -> None:
    firsts: list[None] = []
    buffer = framed_buffer(core)
    meter = core.Meter(buffer, lambda: firsts.append(None))
    for items in takes:
        for item in items:
            buffer.push(item)
        meter.take()
    assert meter.counted[1] == events
    assert len(firsts) == (1 if events else 0)


@pytest.mark.once
@given(st.lists(st.lists(st.text("a\r\n", max_size=4), max_size=3), max_size=6))
def test_e1_both_backends_take_and_count_the_same(takes: list[list[str]]) -> None:
    try:
        from sserpent._core import compiled
    except ImportError:
        pytest.skip("there is no compiled core")
    seen: list[Any] = []
    cores: list[Any] = [pure, compiled]
    for core in cores:
        buffer = core.Buffer(framed=True)
        meter = core.Meter(buffer, lambda: None)
        taken = []
        for items in takes:
            for item in items:
                buffer.push(item)
            taken.append((meter.take(), buffer.at_line_start, meter.counted))
        seen.append(taken)
    assert seen[0] == seen[1]
    assert b"".join(each[0] for each in seen[0]).decode() == "".join(map("".join, takes))
