"""`aiter_events` and `iter_events`: rules R12 to R19, on asyncio and Trio, with the backend of the
run."""

from __future__ import annotations

import asyncio
import importlib
import os
import pickle
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import httpx
import pytest
from pydantic import BaseModel, ValidationError

from event_loops import asyncio_only
from sserpent.client import (
    ErrorEvent,
    EventTooLarge,
    IncompleteStream,
    MessageEvent,
    aiter_events,
    iter_events,
)

pytestmark = pytest.mark.anyio


class Token(BaseModel):
    text: str


class Done(BaseModel):
    count: int


class Source:
    """Yields bytes, waits, and says whether it is closed; for both kinds of iteration."""

    def __init__(self, *parts: Any) -> None:
        self.parts = list(parts)
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self.parts:
            raise StopIteration
        part = self.parts.pop(0)
        if isinstance(part, BaseException):
            raise part
        return part

    def close(self) -> None:
        self.closed += 1

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        if not self.parts:
            raise StopAsyncIteration
        part = self.parts.pop(0)
        if isinstance(part, BaseException):
            raise part
        if part is ...:
            await anyio.sleep_forever()
        return part

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed += 1


class Reader:
    """Either kind of iteration, read in the same way."""

    def __init__(self, source: Source, **options: Any) -> None:
        self.events: Any = self.make(source, **options)

    make: Callable[..., Any]
    next: Callable[[], Any]
    close: Callable[[], Any]

    def rest(self) -> list[Any]:
        found = []
        while (item := self.next()) is not None:
            found.append(item)
        return found


class SyncReader(Reader):
    make = staticmethod(iter_events)

    def next(self) -> Any:
        return next(self.events, None)

    def close(self) -> None:
        self.events.close()


class AsyncReader(Reader):
    make = staticmethod(aiter_events)

    def __init__(self, source: Source, **options: Any) -> None:
        super().__init__(source, **options)
        self.loop = asyncio.new_event_loop()

    def next(self) -> Any:
        async def step() -> Any:
            return await anext(self.events, None)

        return self.loop.run_until_complete(step())

    def close(self) -> None:
        self.loop.run_until_complete(self.events.aclose())

    def __del__(self) -> None:
        if hasattr(self, "loop"):
            self.loop.close()


@pytest.fixture(params=["sync", "async"])
def reader(request: pytest.FixtureRequest) -> type[Reader]:
    return {"sync": SyncReader, "async": AsyncReader}[request.param]


def test_events_come_in_order_and_the_source_is_closed_at_the_end(reader: type[Reader]) -> None:
    source = Source(
        b"\xef\xbb", b"\xbfid: 1\nevent: e\ndata: a\n\nda", b"ta: b\n\nretry: 7\n", b"data: c"
    )
    read = reader(source)
    assert read.rest() == [
        MessageEvent("a", type="e", last_event_id="1"),
        MessageEvent("b", last_event_id="1"),
    ]
    assert (read.events.last_event_id, read.events.reconnection_time) == ("1", 7)
    assert source.closed == 1
    assert read.next() is None


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_r11_chunks_are_bytes_of_any_kind(reader: type[Reader], kind: Any) -> None:
    assert [e.data for e in reader(Source(kind(b"data: a\n\n"))).rest()] == ["a"]


def test_r10_an_event_too_large_ends_the_iteration_after_those_before_it(
    reader: type[Reader],
) -> None:
    source = Source(b"data: a\n\n" + b"x" * 30)
    read = reader(source, max_event_size=20)
    assert read.next().data == "a"
    # The source has ended, and still the stream has not ended well.
    with pytest.raises(EventTooLarge):
        read.next()
    assert source.closed == 1
    assert read.next() is None


def test_r12_items_of_one_type(reader: type[Reader]) -> None:
    source = Source(b'data: {"text": "a"}\n\nevent: other\ndata: {"text": "b"}\n\n')
    assert reader(source, type=Token).rest() == [Token(text="a"), Token(text="b")]
    assert reader(Source(b"data: [1]\n\n"), type=list[int]).rest() == [[1]]


def test_r12_items_by_event_type_pass_over_the_others(reader: type[Reader]) -> None:
    source = Source(
        b'event: token\ndata: {"text": "a"}\n\nevent: ping\ndata: {}\n\n',
        b'data: {}\n\nevent: done\ndata: {"count": 1}\n\n',
    )
    read = reader(source, type={"token": Token, "done": Done})
    assert read.rest() == [Token(text="a"), Done(count=1)]


def test_r12_an_error_carries_the_event_and_the_next_event_still_comes(
    reader: type[Reader],
) -> None:
    source = Source(b'data: {"text": "a"}\n\nid: 5\ndata: {}\n\ndata: {"text": "b"}\n\n')
    read = reader(source, type=Token)
    assert read.next() == Token(text="a")
    with pytest.raises(ValidationError) as caught:
        read.next()
    assert caught.value.event == MessageEvent("{}", last_event_id="5")  # type: ignore[attr-defined]
    assert source.closed == 0
    assert read.rest() == [Token(text="b")]


def test_r13_until_matches_the_whole_data_and_is_not_returned(reader: type[Reader]) -> None:
    source = Source(b"data: [DONE] not\n\ndata: [DONE]\n\ndata: after\n\n", b"data: later\n\n")
    read = reader(source, until="[DONE]")
    assert [event.data for event in read.rest()] == ["[DONE] not"]
    assert source.closed == 1
    assert source.parts == [b"data: later\n\n"]


def test_r13_until_is_never_validated(reader: type[Reader]) -> None:
    source = Source(b'data: {"text": "a"}\n\ndata: [DONE]\n\n')
    assert reader(source, until="[DONE]", type=Token).rest() == [Token(text="a")]


@pytest.mark.parametrize("tail", [b"", b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]x\n\n"])
def test_r13_an_end_without_until_is_incomplete(reader: type[Reader], tail: bytes) -> None:
    source = Source(b"data: a\n\n" + tail)
    read = reader(source, until="[DONE]")
    assert read.next().data == "a"
    with pytest.raises(IncompleteStream, match=r"ended without the event '\[DONE\]'"):
        read.rest()
    assert source.closed == 1
    assert read.next() is None
    assert issubclass(IncompleteStream, ValueError)


@pytest.mark.parametrize("names", ["bye", ["bye", "stop"], ("stop", "bye")])
def test_r16_until_event_matches_the_type_and_is_not_returned(
    reader: type[Reader], names: Any
) -> None:
    source = Source(b"data: bye\n\nevent: bye\ndata: x\n\ndata: after\n\n", b"data: later\n\n")
    read = reader(source, until_event=names)
    assert [event.data for event in read.rest()] == ["bye"]
    assert source.closed == 1
    assert source.parts == [b"data: later\n\n"]


def test_r16_with_until_too_it_is_whichever_comes_first(reader: type[Reader]) -> None:
    for last in (b"event: bye\ndata: x\n\n", b"data: [DONE]\n\n"):
        read = reader(Source(b"data: a\n\n" + last), until="[DONE]", until_event="bye")
        assert [event.data for event in read.rest()] == ["a"]
    read = reader(Source(b"data: a\n\n"), until="[DONE]", until_event=["bye", "stop"])
    expected = r"ended without the event '\[DONE\]' or the event 'bye' or the event 'stop'"
    with pytest.raises(IncompleteStream, match=expected):
        read.rest()


def test_r16_an_event_that_is_an_error_is_raised_with_the_event(reader: type[Reader]) -> None:
    source = Source(b"data: a\n\nevent: error\ndata: no\n\ndata: b\n\n", b"data: later\n\n")
    read = reader(source, raise_on=["error", "fatal"])
    assert read.next().data == "a"
    with pytest.raises(ErrorEvent, match="the stream sent the event 'error': 'no'") as caught:
        read.next()
    assert caught.value.event == MessageEvent("no", type="error")
    assert pickle.loads(pickle.dumps(caught.value)).event == caught.value.event
    assert issubclass(ErrorEvent, ValueError)
    assert source.closed == 1
    assert read.next() is None
    assert source.parts == [b"data: later\n\n"]


async def test_r16_after_a_cancelled_read_the_stream_does_not_end_as_if_it_were_whole() -> None:
    source = Source(b"data: a\n\n", ...)
    events = aiter_events(source)
    assert (await anext(events)).data == "a"
    with anyio.move_on_after(0.01):
        await anext(events)
    assert source.closed == 1
    for _ in range(2):
        with pytest.raises(IncompleteStream, match="left before its end"):
            await anext(events)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_r16_nor_does_one_that_was_interrupted(interruption: Any) -> None:
    events = iter_events(Source(b"data: a\n\n", interruption()))
    assert next(events).data == "a"
    with pytest.raises(interruption):
        next(events)
    for _ in range(2):
        with pytest.raises(IncompleteStream, match="left before its end"):
            next(events)
    events = iter_events(Source(OSError("gone")))
    with pytest.raises(OSError, match="gone"):
        next(events)
    assert next(events, None) is None


class Blocking(Source):
    """Keeps the event loop busy, so that several timeouts are over when it next looks."""

    async def __anext__(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        time.sleep(0.05)  # noqa: ASYNC251 - it blocks on purpose
        await anyio.sleep_forever()
        return b""


async def test_r16_a_cancelled_read_counts_where_the_idle_timeout_is_over_too() -> None:
    events = aiter_events(Blocking(), idle_timeout=0.02)
    with anyio.move_on_after(0.01) as scope:
        await anext(events)
    assert scope.cancelled_caught
    with pytest.raises(IncompleteStream, match="left before its end"):
        await anext(events)


def test_r17_message_event_stands_for_the_event_as_it_is(reader: type[Reader]) -> None:
    stream = b'event: token\ndata: {"text": "a"}\n\nevent: error\ndata: no\n\nevent: x\ndata: y\n\n'
    read = reader(Source(stream), type={"token": Token, "error": MessageEvent})
    assert read.rest() == [Token(text="a"), MessageEvent("no", type="error")]
    assert reader(Source(b"data: no\n\n"), type=MessageEvent).rest() == [MessageEvent("no")]


@pytest.mark.parametrize("wrong", [None, "data: a\n\n", 1])
def test_r19_what_is_no_bytes_is_an_error_at_its_place(reader: type[Reader], wrong: Any) -> None:
    source = Source(b"data: a\n\n", wrong, b"data: b\n\n")
    read = reader(source)
    assert read.next().data == "a"
    kind = type(wrong).__name__
    with pytest.raises(TypeError, match=rf"Source, must yield bytes, not {kind}: .*iter_bytes\(\)"):
        read.next()
    assert source.closed == 1


def test_the_last_id_is_that_of_the_last_event_that_was_handed_out(reader: type[Reader]) -> None:
    read = reader(Source(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\nid: 3\n\n", b"id: 4\n\n"))
    assert read.events.last_event_id == ""
    assert [read.next().data, read.events.last_event_id] == ["a", "1"]
    assert [read.next().data, read.events.last_event_id] == ["b", "3"]
    assert [read.next(), read.events.last_event_id] == [None, "4"]
    read = reader(Source(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n"))
    read.next()
    read.close()
    assert read.events.last_event_id == "1"


def test_r15_closing_closes_the_source_once_also_before_the_first_event(
    reader: type[Reader],
) -> None:
    for taken in (0, 1):
        source = Source(b"data: a\n\ndata: b\n\n")
        read = reader(source)
        for _ in range(taken):
            assert read.next() is not None
        read.close()
        read.close()
        assert source.closed == 1
        assert read.next() is None


def test_r15_an_error_of_the_source_closes_it(reader: type[Reader]) -> None:
    source = Source(b"data: a\n\n", OSError("reset"))
    read = reader(source)
    assert read.next().data == "a"
    with pytest.raises(OSError, match="reset"):
        read.next()
    assert source.closed == 1
    assert read.next() is None


def test_r15_leaving_a_loop_closes_the_source() -> None:
    source = Source(b"data: a\n\ndata: b\n\n")
    for _ in iter_events(source):
        break
    assert source.closed == 1
    source = Source(b"data: a\n\ndata: b\n\n")
    with iter_events(source) as events:
        assert next(events).data == "a"
    assert source.closed == 1


@asyncio_only
async def test_r15_leaving_a_loop_on_asyncio_closes_the_source() -> None:
    source = Source(b"data: a\n\ndata: b\n\n")
    async for _ in aiter_events(source):
        break
    with anyio.fail_after(5):
        while not source.closed:
            await anyio.lowlevel.checkpoint()
    assert source.closed == 1


async def test_r15_leaving_the_context_closes_the_source() -> None:
    source = Source(b"data: a\n\ndata: b\n\n")
    async with aiter_events(source) as events:
        async for _ in events:
            break
    assert source.closed == 1


async def test_r15_a_cancelled_reader_closes_the_source() -> None:
    source = Source(b"data: a\n\n", ...)
    with anyio.move_on_after(0.01):
        async for _ in aiter_events(source):
            pass
    assert source.closed == 1


@pytest.mark.virtual_time
async def test_r14_the_idle_timeout_counts_events_and_not_comments() -> None:
    async def ticks() -> AsyncIterator[bytes]:
        yield b"data: a\n\n"
        while True:
            await anyio.sleep(0.1)
            yield b": ping\n\n"

    begin = anyio.current_time()
    events = aiter_events(ticks(), idle_timeout=0.55)
    assert (await anext(events)).data == "a"
    with pytest.raises(TimeoutError, match=r"no event came within 0\.55 s"):
        await anext(events)
    assert 0.5 < anyio.current_time() - begin < 0.6


@pytest.mark.virtual_time
async def test_r14_events_that_are_passed_over_count() -> None:
    class Slow(Source):
        async def __anext__(self) -> bytes:
            await anyio.sleep(0.1)
            return await super().__anext__()

    # Together they take longer than the timeout.
    source = Slow(*[b"event: other\ndata: x\n\n"] * 12, b"event: done\ndata: 1\n\n")
    events = aiter_events(source, type={"done": int}, idle_timeout=1)
    assert [item async for item in events] == [1]


async def test_r14_a_timeout_closes_the_source() -> None:
    source = Source(...)
    events = aiter_events(source, idle_timeout=0.01)
    with pytest.raises(TimeoutError):
        await anext(events)
    assert source.closed == 1
    assert await anext(events, None) is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"until": b"x"}, TypeError, "'until' must be a string or None, not bytes"),
        ({"until_event": 1}, TypeError, "'until_event' must be the name of an event, or several"),
        ({"raise_on": [b"e"]}, TypeError, "'raise_on' must be .* or several, not bytes"),
        ({"max_event_size": 0}, ValueError, "'max_event_size' must be a positive integer"),
        ({"last_event_id": "\n"}, ValueError, "SSE 'last_event_id' must be a single line"),
    ],
)
def test_bad_options_are_refused_before_the_source_is_read(
    reader: type[Reader], options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        reader(Source(), **options)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_bad_idle_timeout_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="'idle_timeout' must be finite and more than 0, not"):
        aiter_events(Source(), idle_timeout=timeout)


def test_it_reads_a_response_of_httpx_and_a_file(tmp_path: Any) -> None:
    stream = "data: é\n\ndata: b\n\n".encode()
    response = httpx.Response(200, content=iter([stream[:7], stream[7:]]))
    assert [event.data for event in iter_events(response.iter_bytes())] == ["é", "b"]
    path = tmp_path / "stream"
    path.write_bytes(stream)
    with path.open("rb") as file:
        assert [event.data for event in iter_events(file)] == ["é", "b"]
        assert file.closed


LOADED = """
import sys, sserpent.client as client
assert [event.data for event in client.iter_events([b"data: a\\n\\n"])] == ["a"]
assert client.MessageEvent("[1]").data == "[1]"
print([name for name in ("fastapi", "starlette", "pydantic") if name in sys.modules])
"""
WITHOUT = """
import sys
for name in ("fastapi", "starlette"):
    sys.modules[name] = None
"""


@pytest.mark.parametrize("pure", ["", "1"])
def test_r26_a_reader_loads_neither_fastapi_nor_pydantic(pure: str) -> None:
    environment = {**os.environ, "SSERPENT_PURE": pure}
    command = [sys.executable, "-c", LOADED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


SYNC_NAMES = ["EventStreamParser", "NotAnEventStream", "SyncEventSource", "iter_events"]


@pytest.mark.parametrize("name", SYNC_NAMES)
def test_r26_a_reader_without_an_event_loop_does_not_load_what_one_needs(name: str) -> None:
    needed = {"anyio", "asyncio", "inspect", "trio"}
    code = f"import sys; from sserpent.client import {name}; print({needed} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("package", ["sserpent", "sserpent.client"])
def test_r26_all_names_are_there_before_they_are_loaded(package: str) -> None:
    code = f"import {package} as it; print(set(it.__all__) - set(dir(it)), *it.__all__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    module = importlib.import_module(package)
    assert done.stdout.split() == ["set()", *module.__all__]
    assert all(hasattr(module, name) for name in module.__all__)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_r26_without_fastapi_the_names_that_need_it_say_so() -> None:
    code = f"""{WITHOUT}
import sserpent, sserpent.client
for name in ("EventSourceResponse", "ServerSentEvent", "Named", "accelerate"):
    try:
        getattr(sserpent, name)
    except ImportError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = "sserpent needs FastAPI to serve streams: pip install fastapi. Reading them does not: "
    assert done.stdout == f"{said}sserpent.client\n" * 4


def test_the_package_does_not_load_the_client() -> None:
    loaded = "[name for name in sys.modules if name.startswith('sserpent.client')]"
    code = f"import sserpent, sys; assert {loaded} == []"
    subprocess.run([sys.executable, "-c", code], check=True)
