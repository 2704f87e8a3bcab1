"""`ServerSentEvent`: what it takes, what it refuses and in which words, and how it behaves as an
object. Both backends."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import sys
import weakref
from types import ModuleType
from typing import Any

import fastapi.sse
import pydantic
import pytest
from hypothesis import given

import sserpent
from newest import newest_fastapi
from strategies import Kind, Milliseconds, Number, Text, any_fields, valid_fields
from wire_cases import CASES, REFUSED

NAMES = ("data", "raw_data", "event", "id", "retry", "comment")
BOTH = (
    "Cannot set both 'data' and 'raw_data' on the same ServerSentEvent. Use 'data' for"
    " JSON-serialized payloads or 'raw_data' for pre-formatted strings."
)


class Hidden:
    """A value that is not hashable and equals itself only."""

    __hash__ = None  # type: ignore[assignment]


def write_as_fastapi(fields: dict[str, Any]) -> Any:
    event = fastapi.sse.ServerSentEvent(**fields)
    named = values(event)
    del named["data"]
    fastapi.sse.format_sse_event(data_str=named.pop("raw_data"), **named)
    return event


def values(event: Any) -> dict[str, Any]:
    return {name: getattr(event, name) for name in NAMES}


# What it takes


def test_every_field_is_none_unless_given(core: ModuleType) -> None:
    assert values(core.ServerSentEvent()) == dict.fromkeys(NAMES)


@pytest.mark.parametrize("case", CASES)
def test_fields_are_kept(core: ModuleType, case: str) -> None:
    fields, _ = CASES[case]
    assert values(core.ServerSentEvent(**fields)) == {**dict.fromkeys(NAMES), **fields}


def test_data_is_kept_as_it_is(core: ModuleType) -> None:
    data = Hidden()
    assert core.ServerSentEvent(data=data).data is data


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"event": Kind.PLAIN}, {"event": "plain"}),
        ({"id": Text("7")}, {"id": "7"}),
        ({"comment": b"bytes"}, {"comment": "bytes"}),
        ({"raw_data": bytearray(b"bytes")}, {"raw_data": "bytes"}),
        ({"retry": True}, {"retry": 1}),
        ({"retry": 2.0}, {"retry": 2}),
        ({"retry": " 10 "}, {"retry": 10}),
        ({"retry": Number(5)}, {"retry": 5}),
        ({"retry": Milliseconds.SECOND}, {"retry": 1000}),
    ],
)
def test_what_pydantic_converts_is_converted(
    core: ModuleType, fields: dict[str, Any], kept: dict[str, Any]
) -> None:
    event = core.ServerSentEvent(**fields)
    for name, value in kept.items():
        assert getattr(event, name) == value
        assert type(getattr(event, name)) is type(value)
    assert values(fastapi.sse.ServerSentEvent(**fields)) == values(event)


@newest_fastapi
@given(fields=any_fields)
def test_what_fastapi_accepts_is_accepted_and_what_it_refuses_is_refused(
    core: ModuleType, fields: dict[str, Any]
) -> None:
    try:
        # Lone surrogates and integers of too many digits are noticed when they are written.
        theirs = write_as_fastapi(fields)
    except ValueError:
        with pytest.raises(ValueError, match=r"^SSE '\w+' must|^Cannot set both"):
            core.ServerSentEvent(**fields)
    else:
        ours = core.ServerSentEvent(**fields)
        assert values(ours) == values(theirs)
        assert all(type(value) in (str, int, type(None)) for value in values(ours).values())


@given(fields=valid_fields)
def test_what_is_valid_is_kept(core: ModuleType, fields: dict[str, Any]) -> None:
    assert values(core.ServerSentEvent(**fields)) == {**dict.fromkeys(NAMES), **fields}


# What it refuses


@newest_fastapi
@pytest.mark.parametrize("case", REFUSED)
def test_fastapi_has_the_same_words_where_it_has_words(case: str) -> None:
    fields, message = REFUSED[case]
    with pytest.raises((pydantic.ValidationError, UnicodeEncodeError)) as caught:
        write_as_fastapi(fields)
    if isinstance(caught.value, UnicodeEncodeError):
        assert "Unicode" in message
        return
    (error,) = caught.value.errors()
    if error["type"] == "value_error":
        assert error["msg"] == f"Value error, {message}"
    else:
        # pydantic's own words; ours name the field and the rule in FastAPI's manner.
        assert error["loc"] == (next(iter(fields)),)


@pytest.mark.parametrize("data", [0, "", [], False, {"a": 1}])
@pytest.mark.parametrize("raw_data", ["", "text"])
def test_data_and_raw_data_exclude_each_other(core: ModuleType, data: Any, raw_data: str) -> None:
    with pytest.raises(ValueError, match="Cannot set both") as caught:
        core.ServerSentEvent(data=data, raw_data=raw_data)
    assert str(caught.value) == BOTH
    with pytest.raises(ValueError, match="Cannot set both") as of_fastapi:
        fastapi.sse.ServerSentEvent(data=data, raw_data=raw_data)
    assert BOTH in str(of_fastapi.value)


def test_a_refusal_shows_no_value_of_the_users(core: ModuleType) -> None:
    for fields in ({"event": "secret\n"}, {"id": b"\xffsecret"}, {"retry": "secret"}):
        with pytest.raises(ValueError, match=r"^SSE '") as caught:
            core.ServerSentEvent(**fields)
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None


# How it behaves


def test_it_cannot_be_changed(core: ModuleType) -> None:
    event = core.ServerSentEvent(event="a")
    for name in (*NAMES, "encode", "other"):
        with pytest.raises(AttributeError):
            setattr(event, name, "b")
        with pytest.raises(AttributeError):
            delattr(event, name)
    event.__init__()
    assert event == core.ServerSentEvent(event="a")


def test_it_compares_by_type_and_fields(core: ModuleType) -> None:
    make = core.ServerSentEvent
    full = {"raw_data": "d", "event": "e", "id": "i", "retry": 1, "comment": "c"}
    assert make(**full) == make(**full)
    assert make(data={"a": [1]}) == make(data={"a": [1]})
    for name in full:
        assert make(**full) != make(**{**full, name: None})
    assert make(raw_data="a") != make(data="a")
    assert make(event="a") != make(id="a")
    assert make() != None  # noqa: E711
    assert make(data="a") != "a"
    assert make(event="a") != fastapi.sse.ServerSentEvent(event="a")
    assert type("Sub", (make,), {})(event="a") != make(event="a")
    with pytest.raises(TypeError, match="not supported between"):
        make() < make()  # noqa: B015


def test_it_is_hashable_where_its_data_is(core: ModuleType) -> None:
    make = core.ServerSentEvent
    assert len({make(data=(1, 2), event="a"), make(data=(1, 2), event="a"), make()}) == 2
    with pytest.raises(TypeError, match="unhashable type: 'list'"):
        hash(make(data=[]))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_can_be_pickled(
    core: ModuleType, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A class is pickled by name, and the name is that of the backend in use.
    monkeypatch.setattr(sserpent, "ServerSentEvent", core.ServerSentEvent)
    for fields in ({"data": [1, {"a": None}], "event": "e", "retry": 2**70}, {"raw_data": ""}, {}):
        event = core.ServerSentEvent(**fields)
        assert pickle.loads(pickle.dumps(event, protocol)) == event


def test_what_one_backend_pickled_the_other_reads(
    core: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"raw_data": "d", "event": "e", "id": "i", "retry": 1, "comment": "c"}
    monkeypatch.setattr(sserpent, "ServerSentEvent", core.ServerSentEvent)
    pickled = pickle.dumps(core.ServerSentEvent(**fields))
    monkeypatch.undo()
    assert pickle.loads(pickled) == sserpent.ServerSentEvent(**fields)


def test_it_can_be_copied(core: ModuleType) -> None:
    event = core.ServerSentEvent(data=[[1]], id="7")
    shallow, deep = copy.copy(event), copy.deepcopy(event)
    assert shallow == deep == event
    assert shallow.data is event.data
    assert deep.data[0] is not event.data[0]


def test_its_repr_has_the_fields_that_are_set(core: ModuleType) -> None:
    make = core.ServerSentEvent
    assert repr(make()) == "ServerSentEvent()"
    assert repr(make(data={"a": 1}, event="é\u2028", id="", retry=0, comment="x\ny")) == (
        "ServerSentEvent(data={'a': 1}, event='é\\u2028', id='', retry=0, comment='x\\ny')"
    )
    assert repr(make(raw_data="'")) == 'ServerSentEvent(raw_data="\'")'
    assert eval(repr(make(event="e", retry=1)), {"ServerSentEvent": make}) == make(
        event="e", retry=1
    )


def test_its_repr_has_what_the_repr_of_its_data_is(core: ModuleType) -> None:
    shown = type("Shown", (), {"__repr__": lambda self: "\ud800"})()
    assert repr(core.ServerSentEvent(data=shown)) == "ServerSentEvent(data=\ud800)"


def test_its_repr_ends_when_it_contains_itself(core: ModuleType) -> None:
    data: list[Any] = []
    event = core.ServerSentEvent(data=data)
    data.append(event)
    assert repr(event).startswith("ServerSentEvent(data=[ServerSentEvent(data=[...")


class TestSubclass:
    def make(self, core: ModuleType) -> Any:
        class Notice(core.ServerSentEvent):  # type: ignore[misc, name-defined]
            """An application's own event, with an attribute that is no field."""

            def __new__(cls, text: str = "", **fields: Any) -> Any:
                fields = {"raw_data": text, "event": "notice", **fields}
                return super().__new__(cls, **fields)

            def __init__(self, text: str = "", **fields: Any) -> None:
                self.seen = False

        return Notice

    def test_its_fields_are_those_of_the_class(self, core: ModuleType) -> None:
        notice = self.make(core)("hello", id="1")
        assert notice.encode() == b"event: notice\ndata: hello\nid: 1\n\n"
        assert repr(notice) == "Notice(raw_data='hello', event='notice', id='1')"
        assert isinstance(notice, core.ServerSentEvent)

    def test_the_buffer_takes_it(self, core: ModuleType) -> None:
        buffer = core.Buffer()
        buffer.push(self.make(core)("hello"))
        assert buffer.take() == b"event: notice\ndata: hello\n\n"

    def test_its_own_attributes_survive_a_copy(self, core: ModuleType) -> None:
        notice = self.make(core)("hello")
        notice.seen = True
        for copied in (copy.copy(notice), copy.deepcopy(notice)):
            assert copied == notice
            assert copied.seen is True

    def test_it_checks_its_fields(self, core: ModuleType) -> None:
        with pytest.raises(ValueError, match="'id' must be a single line"):
            self.make(core)("hello", id="a\nb")

    def test_its_encode_is_not_what_the_stream_relies_on(self, core: ModuleType) -> None:
        class Liar(core.ServerSentEvent):  # type: ignore[misc, name-defined]
            def encode(self) -> bytes:
                return b"data: a\n\ndata: b\n\n"

        buffer = core.Buffer()
        buffer.push(Liar(raw_data="truth"))
        assert buffer.take() == b"data: truth\n\n"


def test_it_can_be_referred_to_weakly(core: ModuleType) -> None:
    event = core.ServerSentEvent(event="a")
    reference = weakref.ref(event)
    assert reference() is event
    del event
    gc.collect()
    assert reference() is None


def test_a_cycle_through_its_data_is_collected(core: ModuleType) -> None:
    data: list[Any] = []
    event = core.ServerSentEvent(data=data)
    data.append(event)
    reference = weakref.ref(event)
    del event, data
    gc.collect()
    assert reference() is None


def test_a_refused_event_lets_go_of_its_data(core: ModuleType) -> None:
    data = object()
    before = sys.getrefcount(data)
    for _ in range(10):
        with pytest.raises(ValueError, match="'id'"):
            core.ServerSentEvent(data=data, id="\0")
    gc.collect()
    assert sys.getrefcount(data) == before


def test_a_class_of_its_name_shows_where_users_import_it_from(core: ModuleType) -> None:
    assert core.ServerSentEvent.__module__ == "sserpent"
    assert core.ServerSentEvent.__qualname__ == "ServerSentEvent"
    assert core.ServerSentEvent.__doc__


# FastAPI's own events


@given(fields=valid_fields)
def test_the_buffer_takes_events_of_fastapi(core: ModuleType, fields: dict[str, Any]) -> None:
    buffer = core.Buffer()
    buffer.push(fastapi.sse.ServerSentEvent(**fields))
    assert buffer.take() == core.ServerSentEvent(**fields).encode()


def test_the_buffer_takes_subclasses_of_events_of_fastapi(core: ModuleType) -> None:
    class Notice(fastapi.sse.ServerSentEvent):
        event: str | None = "notice"

    buffer = core.Buffer()
    buffer.push(Notice(data={"a": 1}))
    assert buffer.take() == b'event: notice\ndata: {"a":1}\n\n'


@pytest.mark.parametrize("case", REFUSED)
def test_events_of_fastapi_that_were_not_checked_are_checked(core: ModuleType, case: str) -> None:
    fields, message = REFUSED[case]
    buffer = core.Buffer()
    with pytest.raises(ValueError, match=r"^SSE '") as caught:
        buffer.push(fastapi.sse.ServerSentEvent.model_construct(**fields))
    assert str(caught.value) == message
    assert buffer.take() == b""


@given(fields=any_fields)
def test_events_of_fastapi_are_written_like_ours_or_refused_like_ours(
    core: ModuleType, fields: dict[str, Any]
) -> None:
    buffer = core.Buffer()
    unchecked = fastapi.sse.ServerSentEvent.model_construct(**fields)
    try:
        encoded = core.ServerSentEvent(**fields).encode()
    except ValueError as error:
        refusal = re.escape(str(error))
        with pytest.raises(ValueError, match=f"^{refusal}$"):
            buffer.push(unchecked)
        assert buffer.take() == b""
    else:
        buffer.push(unchecked)
        assert buffer.take() == encoded
