"""JSON: for any value, a client of ours parses what a client of `fastapi.sse` parses, and what
FastAPI refuses is refused with the same type of exception. Both backends.

The reference is FastAPI itself: a real `fastapi.sse` route for each kind of `json_kinds`, and the
functions that such a route calls for the many values that Hypothesis makes up.
"""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from types import GeneratorType, ModuleType
from typing import Any

import fastapi
import fastapi.sse
import pytest
from fastapi.encoders import jsonable_encoder
from fastapi.testclient import TestClient
from hypothesis import given
from pydantic import BaseModel, create_model, model_serializer
from pydantic_core import to_json

from json_kinds import KINDS, DumpsItself, Level, Loose, Name, Place, Point, Ratio, Text
from json_values import makers
from newest import newest_fastapi
from sse_parser import parse
from sserpent._core.treatment import treatment

# pydantic warns of values that are not of the declared type, with FastAPI as with us.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings"),
    pytest.mark.once,  # each over both backends, beside FastAPI's own events
]

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


# Through what a route of FastAPI calls


def finite(value: Any) -> Any:
    """What FastAPI does since 0.145."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return value


def framed(data: str) -> bytes:
    """As FastAPI splits lines since 0.140.12."""
    lines = re.split("\r\n|\r|\n", data)
    return "".join([*(f"data: {line}\n" for line in lines), "\n"]).encode()


def as_fastapi_item(value: Any) -> bytes:
    return framed(json.dumps(finite(jsonable_encoder(value))))


def as_fastapi_event(value: Any) -> bytes:
    if value is None:
        return b"\n"
    if hasattr(value, "model_dump_json"):
        return framed(value.model_dump_json())
    return as_fastapi_item(value)


@pytest.fixture(scope="module")
def client() -> Any:
    """Of real routes of `fastapi.sse`."""
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
def test_the_reference_is_what_a_route_does(client: TestClient, kind: str) -> None:
    make = KINDS[kind]
    from_item = outcome(lambda: client.get("/item", params={"kind": kind}).content)
    assert outcome(lambda: as_fastapi_item(make())) == from_item
    from_event = outcome(lambda: client.get("/event", params={"kind": kind}).content)
    assert outcome(lambda: as_fastapi_event(make())) == from_event


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_and_data_parse_as_from_the_encoder(core: ModuleType, kind: str) -> None:
    make = KINDS[kind]
    assert as_item(core, make) == outcome(lambda: as_fastapi_item(make()))
    assert as_event(core, make) == outcome(lambda: as_fastapi_event(make()))


@given(make=makers)
def test_any_item_parses_as_from_fastapi(core: ModuleType, make: Callable[[], Any]) -> None:
    assert as_item(core, make) == outcome(lambda: as_fastapi_item(make()))


@given(make=makers)
def test_any_data_of_an_event_parses_as_from_fastapi(
    core: ModuleType, make: Callable[[], Any]
) -> None:
    assert as_event(core, make) == outcome(lambda: as_fastapi_event(make()))


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


@pytest.mark.parametrize("number", [1e-7, -1e-9, 1e-5, 5e-324, 1e-4, 0.1, -0.0, 1e15, 1e16, 1e300])
def test_numbers_are_written_as_pydantic_writes_them(core: ModuleType, number: float) -> None:
    text = to_json(number).decode()
    if "e1" in text or "e3" in text:
        pytest.skip("this pydantic wrote large numbers without the plus that all others have")
    items: dict[str, tuple[Any, str]] = {
        "plain": ([number, {"e-": number}], f'[{text},{{"e-":{text}}}]'),
        "key": ({1: number, "é": [number]}, f'{{"1":{text},"é":[{text}]}}'),
        "keys of all kinds": ({None: number, True: 1, 2: 3}, f'{{"null":{text},"true":1,"2":3}}'),
        "model": ([Loose(value=number)], f'[{{"value":{text}}}]'),
        "dataclass": (Point(0, number), f'{{"x":0,"y":{text}}}'),
        "set": ({number}, f"[{text}]"),
        "large integer": ([2**70, number], f"[{2**70},{text}]"),
        "lone surrogate": (["\ud800é", "é", number], f'["\\ud800é","é",{text}]'),
        "subclass": ([Ratio(number)], f"[{text}]"),
    }
    for kind, (item, expected) in items.items():
        for stream in (push(core, item), core.ServerSentEvent(data=item).encode()):
            assert stream.decode() == f"data: {expected}\n\n", kind


def test_small_durations_and_decimals_are_written_as_numbers_are(core: ModuleType) -> None:
    small = timedelta(microseconds=1), [timedelta(microseconds=50)], Decimal("1E-7")
    sent = b"".join(push(core, item) for item in small)
    assert sent == b"data: 1e-6\n\ndata: [0.00005]\n\ndata: 1e-7\n\n"


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
    classes = [create_model(f"Class{n}", value=(int, n)) for n in range(300)]
    for _ in range(2):
        for number, each in enumerate(classes):
            expected = b'data: {"value":%d}\n\n' % number
            assert core.ServerSentEvent(data=each()).encode() == expected


@pytest.mark.parametrize(
    "kind",
    [set, frozenset, deque, defaultdict, OrderedDict, Name, Level, Place, Text, GeneratorType],
)
def test_what_inherits_from_a_builtin_class_is_not_left_to_the_encoder(kind: Any) -> None:
    assert treatment(kind) != ("other",)
