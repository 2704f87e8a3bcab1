"""The buffer as a buffer: whole events, in order, whatever happens meanwhile. Both backends.

The stream's generator may run in a thread of its own (sync generators do) while the event loop
takes, and a serializer may run any code: release the GIL, come back into the buffer, or fail.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel, PrivateAttr, TypeAdapter, model_serializer
from pydantic_core import PydanticSerializationError

import sserpent
from servers import until
from sse_parser import parse

THREADS = 4
PUSHES = 300


class Yielding(BaseModel):
    """Lets other threads run in the middle of its serialization."""

    thread: int
    number: int
    # Large enough that a torn event would show.
    padding: str = "x" * 200

    @model_serializer(mode="wrap")
    def serialize(self, handler: Any) -> Any:
        time.sleep(0)
        fields = handler(self)
        time.sleep(0)
        return fields


class Acting(BaseModel):
    """Does something while it is serialized."""

    name: str
    _act: Callable[[], Any] = PrivateAttr()

    def __init__(self, name: str, act: Callable[[], Any]) -> None:
        super().__init__(name=name)
        self._act = act

    @model_serializer
    def serialize(self) -> str:
        self._act()
        return self.name


class Fails(BaseModel):
    value: int = 1

    @model_serializer
    def serialize(self) -> Any:
        time.sleep(0)
        raise LookupError("cannot be serialized")


def schema_of(core: ModuleType, model: type[BaseModel]) -> Any:
    adapter = TypeAdapter(model)
    return core.ItemSchema(
        adapter.validator.validate_python,
        {"from_attributes": True},
        adapter.serializer.to_json,
        {"by_alias": True},
    )


def as_item(core: ModuleType, model: Yielding) -> Any:
    return model


def as_items(core: ModuleType, model: Yielding) -> Any:
    return {"item": [model]}


def as_event(core: ModuleType, model: Yielding) -> Any:
    return core.ServerSentEvent(data=model, event="e", id=str(model.number))


def as_text(core: ModuleType, model: Yielding) -> Any:
    return core.ServerSentEvent(raw_data=f"{model.model_dump_json()}\n\n", comment="c")


def run_all(targets: list[Callable[[], None]]) -> list[threading.Thread]:
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    return threads


def join_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "deadlock"


def take_until(buffer: Any, threads: list[threading.Thread]) -> list[bytes]:
    """Takes from the buffer for as long as threads push."""
    chunks = []
    while any(thread.is_alive() for thread in threads):
        chunks.append(buffer.take())
        time.sleep(0)
    chunks.append(buffer.take())
    return chunks


# A list is no item of the declared type.
@pytest.mark.parametrize(
    ("shape", "declared"),
    [
        *((shape, False) for shape in (as_item, as_items, as_event, as_text)),
        *((shape, True) for shape in (as_item, as_event, as_text)),
    ],
)
def test_nothing_is_lost_torn_or_reordered(core: ModuleType, shape: Any, declared: bool) -> None:
    buffer = core.Buffer(schema_of(core, Yielding) if declared else None)
    failures: list[BaseException] = []

    def pusher(thread: int) -> Callable[[], None]:
        def push_all() -> None:
            try:
                for number in range(PUSHES):
                    buffer.push(shape(core, Yielding(thread=thread, number=number)))
            except BaseException as error:
                failures.append(error)

        return push_all

    threads = run_all([pusher(thread) for thread in range(THREADS)])
    chunks = take_until(buffer, threads)
    join_all(threads)

    assert failures == []
    for chunk in chunks:
        assert not parse(chunk).is_cut
    models = [model_of(event.data) for event in parse(b"".join(chunks)).events]
    assert len(models) == THREADS * PUSHES
    for thread in range(THREADS):
        numbers = [model.number for model in models if model.thread == thread]
        assert numbers == list(range(PUSHES))
    assert {model.padding for model in models} == {"x" * 200}
    assert buffer.pending == 0


def model_of(data: str) -> Yielding:
    text = data.strip().removeprefix('{"item":[').removesuffix("]}")
    return Yielding.model_validate_json(text)


def test_several_take_at_once(core: ModuleType) -> None:
    buffer = core.Buffer()
    taken: list[bytes] = []
    pushing = threading.Event()

    def push_all() -> None:
        for number in range(2_000):
            buffer.push(number)
        pushing.set()

    def take_all() -> None:
        while not pushing.is_set():
            taken.append(buffer.take())
            time.sleep(0)

    join_all(run_all([push_all, take_all, take_all, take_all]))
    taken.append(buffer.take())
    assert all(not parse(chunk).is_cut for chunk in taken)
    events = parse(b"".join(taken)).events
    assert sorted(int(event.data) for event in events) == list(range(2_000))


@pytest.mark.parametrize("as_data", [False, True])
def test_a_serializer_may_push_to_the_same_encoder(core: ModuleType, as_data: bool) -> None:
    buffer = core.Buffer()
    inner = Acting("inner", lambda: buffer.push("innermost"))
    outer = Acting("outer", lambda: buffer.push(core.ServerSentEvent(data=inner)))
    buffer.push(core.ServerSentEvent(data=outer) if as_data else outer)
    assert buffer.take() == b'data: "innermost"\n\ndata: "inner"\n\ndata: "outer"\n\n'


def test_a_serializer_may_take_from_the_same_encoder(core: ModuleType) -> None:
    buffer = core.Buffer()
    taken: list[Any] = []
    buffer.push("before")
    buffer.push(Acting("it", lambda: taken.extend([buffer.pending, buffer.take()])))
    assert taken == [len(b'data: "before"\n\n'), b'data: "before"\n\n']
    assert buffer.take() == b'data: "it"\n\n'


@pytest.mark.parametrize("declared", [False, True])
def test_a_serializer_may_wait_for_a_push_and_a_take_of_another_thread(
    core: ModuleType, declared: bool
) -> None:
    started, pushed = threading.Event(), threading.Event()
    taken: list[bytes] = []

    class Waiting(BaseModel):
        @model_serializer
        def serialize(self) -> str:
            started.set()
            assert pushed.wait(30), "the other thread was locked out"
            return "waited"

    buffer = core.Buffer(schema_of(core, Waiting) if declared else None)

    def other() -> None:
        assert started.wait(30)
        buffer.push(core.ServerSentEvent(raw_data="other"))
        taken.append(buffer.take())
        pushed.set()

    threads = run_all([other])
    buffer.push(Waiting())
    join_all(threads)
    assert taken == [b"data: other\n\n"]
    assert buffer.take() == b'data: "waited"\n\n'


def test_validation_may_run_code_too(core: ModuleType) -> None:
    buffer: Any = None

    def validate(item: Any) -> Any:
        buffer.push(core.ServerSentEvent(raw_data="from validation"))
        return item

    def to_json(item: Any) -> bytes:
        return b"1"

    buffer = core.Buffer(core.ItemSchema(validate, {}, to_json, {}))
    buffer.push("item")
    assert buffer.take() == b"data: from validation\n\ndata: 1\n\n"


# Failures


def failing_items(core: ModuleType) -> dict[str, tuple[Any, type[Exception]]]:
    import fastapi.sse

    unchecked = fastapi.sse.ServerSentEvent.model_construct(raw_data="a", id="a\nid: b")
    return {
        "object": (object(), ValueError),
        "model": (Fails(), PydanticSerializationError),
        "list": ([1, 2, {3: Fails()}], PydanticSerializationError),
        "event": (core.ServerSentEvent(data=object(), event="e", comment="c"), ValueError),
        "unchecked event": (unchecked, ValueError),
    }


@pytest.mark.parametrize("name", ["object", "model", "list", "event", "unchecked event"])
def test_a_failing_push_leaves_what_is_pending(core: ModuleType, name: str) -> None:
    item, kind = failing_items(core)[name]
    buffer = core.Buffer()
    buffer.push("before")
    before = buffer.pending
    for _ in range(3):
        with pytest.raises(kind):
            buffer.push(item)
        assert buffer.pending == before
    buffer.push("after")
    assert buffer.take() == b'data: "before"\n\ndata: "after"\n\n'


def test_a_failing_push_leaves_what_others_pushed_meanwhile(core: ModuleType) -> None:
    buffer = core.Buffer()

    def act() -> None:
        buffer.push("meanwhile")
        raise LookupError

    buffer.push("before")
    with pytest.raises(PydanticSerializationError, match="LookupError"):
        buffer.push(Acting("it", act))
    assert buffer.take().startswith(b'data: "before"\n\ndata: "meanwhile"\n\n')


def test_failures_in_threads_disturb_nobody(core: ModuleType) -> None:
    buffer = core.Buffer()
    failed: list[int] = []

    def push_all() -> None:
        for number in range(PUSHES):
            buffer.push(Yielding(thread=0, number=number))

    def fail_all() -> None:
        for number in range(PUSHES):
            with pytest.raises(PydanticSerializationError):
                buffer.push(core.ServerSentEvent(data=Fails(), event="never"))
            failed.append(number)

    threads = run_all([push_all, fail_all, push_all])
    stream = parse(b"".join(take_until(buffer, threads)))
    join_all(threads)
    assert len(failed) == PUSHES
    assert len(stream.events) == 2 * PUSHES
    assert {event.type for event in stream.events} == {"message"}


@pytest.mark.parametrize("returned", ["text", None, bytearray(b"1")])
def test_a_schema_must_return_bytes(core: ModuleType, returned: Any) -> None:
    schema = core.ItemSchema(lambda item: item, {}, lambda item: returned, {})
    buffer = core.Buffer(schema)
    kind = type(returned).__name__
    with pytest.raises(TypeError, match=f"^JSON must be bytes, not {kind}$"):
        buffer.push(1)
    assert buffer.take() == b""


def test_a_schema_passes_its_options(core: ModuleType) -> None:
    calls: list[Any] = []

    def validate(item: Any, **options: Any) -> Any:
        calls.append((item, options))
        return [item]

    def to_json(item: Any, **options: Any) -> bytes:
        calls.append((item, options))
        return b"{}"

    schema = core.ItemSchema(validate, {"a": 1}, to_json, {"b": 2, "c": 3})
    core.Buffer(schema).push("item")
    assert calls == [("item", {"a": 1}), (["item"], {"b": 2, "c": 3})]


def test_a_schema_does_not_validate_instances_of_its_valid_class(core: ModuleType) -> None:
    class Valid: ...

    class Other(Valid): ...

    validated: list[Any] = []

    def validate(item: Any) -> Any:
        validated.append(item)
        return "validated"

    schema = core.ItemSchema(validate, {}, lambda item: type(item).__name__.encode(), {}, Valid)
    buffer = core.Buffer(schema)
    other = Other()
    for item in (Valid(), other, Valid, None):
        buffer.push(item)
    assert buffer.take() == b"data: Valid\n\n" + 3 * b"data: str\n\n"
    assert validated == [other, Valid, None]


# Pending bytes, and when it is time to hand them over


def test_take_hands_out_everything_once(core: ModuleType) -> None:
    buffer = core.Buffer()
    assert buffer.take() == b""
    buffer.push(1)
    buffer.push([])
    assert buffer.pending == len(b"data: 1\n\ndata: []\n\n")
    taken = buffer.take()
    assert type(taken) is bytes
    assert taken == b"data: 1\n\ndata: []\n\n"
    assert buffer.pending == 0
    assert buffer.take() == b""
    buffer.push(2)
    assert buffer.take() == b"data: 2\n\n"
    assert taken == b"data: 1\n\ndata: []\n\n"


def test_large_events_come_whole(core: ModuleType) -> None:
    buffer = core.Buffer()
    for size in (1, 1_000, 100_000, 3_000_000, 10):
        buffer.push(core.ServerSentEvent(raw_data="é" * size))
        assert buffer.take() == b"data: " + "é".encode() * size + b"\n\n"


def test_push_says_when_enough_is_pending(core: ModuleType) -> None:
    size = len(b"data: 1\n\n")
    buffer = core.Buffer(max_pending=3 * size, max_age=1_000)
    for _ in range(3):
        assert [buffer.push(1) for _ in range(4)] == [False, False, True, True]
        buffer.take()
    assert core.Buffer(max_pending=0, max_age=1_000).push(1) is True


def test_push_says_when_the_oldest_pending_event_is_old(core: ModuleType) -> None:
    buffer = core.Buffer(max_pending=10**9, max_age=0.05)
    for _ in range(2):
        buffer.take()
        time.sleep(0.06)
        began = time.monotonic()
        until(lambda: buffer.push(1))
        assert time.monotonic() - began >= 0.05
        # It stays so until they are taken.
        assert buffer.push(1) is True
    assert core.Buffer(max_age=0).push(1) is True


def test_push_says_when_a_resumed_generator_took_long(core: ModuleType) -> None:
    buffer = core.Buffer(max_age=0.05)
    buffer.take()
    buffer.restart_age()
    time.sleep(0.06)
    assert buffer.push(1) is True
    buffer = core.Buffer(max_age=1_000)
    buffer.restart_age()
    assert buffer.push(1) is False


def test_a_young_small_stream_waits(core: ModuleType) -> None:
    buffer = core.Buffer(max_age=1_000)
    assert not any(buffer.push(number) for number in range(1_000))


def test_the_limits_are_those_of_the_documentation(core: ModuleType) -> None:
    buffer = core.Buffer(max_age=1_000)
    event = core.ServerSentEvent(raw_data="x" * (1024 - len(b"data: \n\n")))
    assert [buffer.push(event) for _ in range(64)] == [False] * 63 + [True]
    buffer = core.Buffer(max_pending=10**9)
    began = time.monotonic()
    buffer.take()
    while not buffer.push(1):
        pass
    assert time.monotonic() - began >= 0.002


def test_the_package_uses_one_of_them() -> None:
    from sserpent import _core

    assert _core.Buffer.__module__ in ("sserpent._core.compiled", "sserpent._core.buffer")
    assert (_core.Buffer.__module__ == "sserpent._core.compiled") == (sserpent.BACKEND == "rust")
