"""JSON: for any value, a client of ours parses what a client of `fastapi.sse` parses, and what
FastAPI refuses is refused with the same type of exception. Both backends.

The reference is FastAPI itself: a real `fastapi.sse` route for each kind of `json_kinds`, and the
functions that such a route calls for the many values that Hypothesis makes up.
"""

from __future__ import annotations

import datetime
import json
import pathlib
import re
from collections import OrderedDict, deque
from collections.abc import Callable
from decimal import Decimal
from types import ModuleType
from typing import Any

import fastapi
import fastapi.sse
import pytest
from fastapi.encoders import jsonable_encoder
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, RootModel, create_model, model_serializer

from json_kinds import (
    KINDS,
    AlchemyAlias,
    Aliased,
    Carries,
    Color,
    DumpsItself,
    Item,
    Level,
    Loose,
    LooseHex,
    LooseNull,
    LooseWithModes,
    Name,
    OverriddenDump,
    OverriddenDumpJson,
    Plain,
    Point,
    WholeSerializer,
)
from newest import newest_fastapi
from sse_parser import parse
from strategies import texts

# pydantic warns of values that are not of the declared type, with FastAPI as with us.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")

# What a client gets, or the type of what the server raises.
Outcome = tuple[str, Any]


def outcome(make_stream: Callable[[], bytes]) -> Outcome:
    try:
        stream = make_stream()
    except Exception as error:
        return "raises", type(innermost(error))
    (event,) = parse(stream).events or [None]
    # By repr: 1, 1.0 and True are equal to Python, but not to a client. Integers as Decimals:
    # Python's reader refuses long ones.
    return "sends", None if event is None else repr(json.loads(event.data, parse_int=Decimal))


def innermost(error: BaseException) -> BaseException:
    """An exception without the groups that task groups wrap it in."""
    while len(getattr(error, "exceptions", ())) == 1:
        error = error.exceptions[0]  # type: ignore[attr-defined]
    return error


def push(core: ModuleType, item: Any) -> bytes:
    buffer = core.Buffer()
    try:
        buffer.push(item)
    except Exception:
        assert buffer.take() == b""
        raise
    taken: bytes = buffer.take()
    return taken


def as_item(core: ModuleType, make: Callable[[], Any]) -> Outcome:
    return outcome(lambda: push(core, make()))


def as_event(core: ModuleType, make: Callable[[], Any]) -> Outcome:
    encoded = outcome(lambda: core.ServerSentEvent(data=make()).encode())
    assert outcome(lambda: push(core, core.ServerSentEvent(data=make()))) == encoded
    return encoded


# Through real routes of fastapi.sse


@pytest.fixture(scope="module")
def client() -> Any:
    app = fastapi.FastAPI()

    @app.get("/item", response_class=fastapi.sse.EventSourceResponse)
    async def item(kind: str) -> Any:
        yield KINDS[kind]()

    @app.get("/event", response_class=fastapi.sse.EventSourceResponse)
    async def event(kind: str) -> Any:
        yield fastapi.sse.ServerSentEvent(data=KINDS[kind]())

    with TestClient(app) as client:
        yield client


@newest_fastapi
@pytest.mark.parametrize("kind", KINDS)
def test_an_item_parses_as_from_a_fastapi_route(
    core: ModuleType, client: TestClient, kind: str
) -> None:
    expected = outcome(lambda: client.get("/item", params={"kind": kind}).content)
    assert as_item(core, KINDS[kind]) == expected


@newest_fastapi
@pytest.mark.parametrize("kind", KINDS)
def test_data_of_an_event_parses_as_from_a_fastapi_route(
    core: ModuleType, client: TestClient, kind: str
) -> None:
    expected = outcome(lambda: client.get("/event", params={"kind": kind}).content)
    assert as_event(core, KINDS[kind]) == expected


# Through what such a route calls


def as_fastapi_item(value: Any) -> bytes:
    data = fastapi.routing._normalize_non_finite_floats(jsonable_encoder(value))
    return fastapi.sse.format_sse_event(data_str=json.dumps(data))


def as_fastapi_event(value: Any) -> bytes:
    if value is None:
        return fastapi.sse.format_sse_event()
    if hasattr(value, "model_dump_json"):
        return fastapi.sse.format_sse_event(data_str=value.model_dump_json())
    return as_fastapi_item(value)


@newest_fastapi
@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_below_is_what_a_route_does(client: TestClient, kind: str) -> None:
    make = KINDS[kind]
    from_item = outcome(lambda: client.get("/item", params={"kind": kind}).content)
    assert outcome(lambda: as_fastapi_item(make())) == from_item
    from_event = outcome(lambda: client.get("/event", params={"kind": kind}).content)
    assert outcome(lambda: as_fastapi_event(make())) == from_event


_texts = texts | st.sampled_from(["_sa", "_sa_x", "NaN", '"_sa', "\ud800", "a\nb"])
_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, 2**64, 2**70, -(2**70)])
    | st.floats()
    | _texts
)
_others = (
    st.decimals()
    | st.datetimes(timezones=st.none() | st.just(datetime.timezone.utc))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.binary(max_size=3)
    | st.sampled_from([*Color, *Level, *Name, pathlib.PurePosixPath("/a"), object(), 1j])
    | st.ip_addresses()
)
_keys = (
    _texts
    | st.integers()
    | st.booleans()
    | st.none()
    | st.floats()
    | st.uuids()
    | st.sampled_from([*Color, Level.LOW, Name.ANN, (1, 2), b"a", b"\xff", Decimal("1.5")])
)


def _models(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.builds(
            Item.model_construct,
            name=_texts,
            price=st.decimals(),
            tags=st.sets(st.text(max_size=2), max_size=1),
        ),
        st.builds(Aliased.model_construct, first_name=_texts, last_name=_texts),
        st.builds(Loose, value=parts),
        st.builds(LooseWithModes, value=parts, delta=st.timedeltas(), number=st.floats()),
        st.builds(LooseHex, value=parts, raw=st.binary(max_size=3), number=st.floats()),
        st.builds(LooseNull, value=parts, number=st.floats()),
        st.builds(WholeSerializer, value=parts),
        st.builds(RootModel[Any], parts),
        st.builds(AlchemyAlias, state=st.integers()),
        st.builds(OverriddenDump, value=st.integers()),
        st.builds(OverriddenDumpJson, value=st.integers()),
    )


def _containers(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(parts, max_size=3),
        st.lists(parts, max_size=3).map(tuple),
        st.lists(parts, max_size=3).map(deque),
        st.dictionaries(_texts, parts, max_size=3),
        st.dictionaries(_keys, parts, max_size=3),
        st.dictionaries(_texts, parts, max_size=3).map(OrderedDict),
        st.sets(st.integers() | st.uuids(), max_size=1),
        st.builds(Point, st.integers(), parts),
        st.builds(Carries, parts),
        st.dictionaries(st.sampled_from("ab"), parts).map(lambda values: Plain(**values)),
        _models(parts),
    )


values = st.recursive(_scalars | _scalars | _others, _containers, max_leaves=6)
# What most applications send: the values that take the fast way.
plain_values = st.recursive(
    _scalars,
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.lists(parts, max_size=3).map(tuple)
        | st.dictionaries(_texts, parts, max_size=3)
        | _models(parts)
    ),
    max_leaves=8,
)


@newest_fastapi
@given(value=values | plain_values)
def test_any_item_parses_as_from_fastapi(core: ModuleType, value: Any) -> None:
    assert as_item(core, lambda: value) == outcome(lambda: as_fastapi_item(value))


@newest_fastapi
@given(value=values | plain_values)
def test_any_data_of_an_event_parses_as_from_fastapi(core: ModuleType, value: Any) -> None:
    assert as_event(core, lambda: value) == outcome(lambda: as_fastapi_event(value))


# Ours


@pytest.mark.parametrize("kind", KINDS)
def test_json_is_one_line_of_compact_utf8(core: ModuleType, kind: str) -> None:
    try:
        stream = push(core, KINDS[kind]())
    except Exception:
        return
    assert stream.startswith(b"data: ")
    assert stream.count(b"\n") == 2
    text = stream[len("data: ") : -2].decode()
    assert " " not in re.sub(r'"(\\.|[^"\\])*"', "", text)


def test_text_that_needs_no_escape_has_none(core: ModuleType) -> None:
    text = "é日本🐍/\x7f\u2028\x85"
    for item in (text, Loose(value=text), Point(1, text), {Name.ANN: text}):
        for stream in (push(core, item), core.ServerSentEvent(data=item).encode()):
            assert text.encode() in stream


@pytest.mark.parametrize("returned", [None, b"1", 1])
def test_a_model_dump_json_that_returns_no_text_is_refused(core: ModuleType, returned: Any) -> None:
    # FastAPI sends an event without data for None, and fails on the others without a word on why.
    event = core.ServerSentEvent(data=DumpsItself(returned))
    kind = type(returned).__name__
    message = re.escape(f"model_dump_json() must return a string, not {kind}")
    with pytest.raises(TypeError, match=f"^{message}$"):
        event.encode()


def test_a_user_error_in_a_serializer_keeps_its_words(core: ModuleType) -> None:
    for kind in ("generator that fails", "object whose model_dump_json fails"):
        item = KINDS[kind]()
        with pytest.raises((ZeroDivisionError, KeyError)) as caught:
            core.ServerSentEvent(data=item).encode()
        assert caught.traceback[-1].path.name == "json_kinds.py"


def test_a_dict_that_a_serializer_changes_is_refused_as_by_fastapi(core: ModuleType) -> None:
    # pydantic-core panics here, with an exception that is no `Exception`.
    def changing() -> dict[str, Any]:
        changed: dict[str, Any] = {}

        class Changes(BaseModel):
            @model_serializer
            def change(self) -> int:
                changed[f"further {len(changed)}"] = 1
                return 1

        changed["model"] = Changes()
        return changed

    refused = outcome(lambda: as_fastapi_item(changing()))
    assert refused == ("raises", RuntimeError)
    assert as_item(core, changing) == refused
    assert as_event(core, changing) == refused


def test_an_exception_that_is_no_error_passes_through(core: ModuleType) -> None:
    class Stops:
        def model_dump_json(self) -> str:
            raise KeyboardInterrupt

    buffer = core.Buffer()
    with pytest.raises(KeyboardInterrupt):
        buffer.push(core.ServerSentEvent(data=Stops()))
    assert buffer.take() == b""


def test_a_class_that_changes_after_its_first_use_is_looked_at_again(core: ModuleType) -> None:
    class Changing(BaseModel):
        value: int = 1

    event = core.ServerSentEvent(data=Changing())
    buffer = core.Buffer()
    buffer.push(Changing())
    assert event.encode() == buffer.take() == b'data: {"value":1}\n\n'

    Changing.model_dump_json = lambda self: "overridden"  # type: ignore[assignment, method-assign]
    Changing.model_dump = lambda self, **_: {"over": "ridden"}  # type: ignore[method-assign]
    buffer.push(Changing())
    assert event.encode() == b"data: overridden\n\n"
    assert buffer.take() == b'data: {"over":"ridden"}\n\n'


def test_a_class_that_is_rebuilt_after_its_first_use_has_its_new_serializer(
    core: ModuleType,
) -> None:
    class Rebuilt(BaseModel):
        value: int = 1

    event = core.ServerSentEvent(data=Rebuilt())
    assert event.encode() == b'data: {"value":1}\n\n'
    Rebuilt.model_fields["value"].exclude = True
    Rebuilt.model_rebuild(force=True)
    assert event.encode() == b"data: {}\n\n"


def test_more_classes_than_are_remembered(core: ModuleType) -> None:
    classes = [create_model(f"Class{n}", value=(int, n)) for n in range(50)]
    for _ in range(2):
        for number, each in enumerate(classes):
            expected = b'data: {"value":%d}\n\n' % number
            assert core.ServerSentEvent(data=each()).encode() == expected
