"""The delivery rules, in process, on asyncio and Trio: order, latency, backpressure, keep-alive,
held start, exceptions, disconnect. `test_delivery_servers.py` has them on real servers."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import logging
import threading
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from asgi import Connection
from event_loops import asyncio_only
from sserpent import EventSourceResponse, ServerSentEvent
from sserpent._core import Buffer
from sserpent._shutdown import streams

pytestmark = pytest.mark.anyio


class Streaming:
    """A response that streams in the background of a test."""

    def __init__(self, content: Any, **options: Any) -> None:
        self.connection = Connection()
        self.response = EventSourceResponse(content, **options)
        self.error: BaseException | None = None
        self.done = False

    async def run(self) -> None:
        try:
            await self.connection.run(self.response)
        except Exception as error:
            self.error = error
        finally:
            self.done = True


@contextlib.asynccontextmanager
async def streaming(content: Any, **options: Any) -> AsyncIterator[Streaming]:
    stream = Streaming(content, **options)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.run)
        yield stream
        stream.connection.unstall()
        stream.connection.disconnect()
        with anyio.fail_after(20):
            while not stream.done:
                await anyio.sleep(0.001)


async def complete(content: Any, **options: Any) -> Streaming:
    """Streams to the end."""
    async with streaming(content, **options) as stream:
        await stream.connection.until(lambda: stream.done)
    return stream


async def count(n: int, *, pause: int = 0) -> AsyncIterator[int]:
    for i in range(n):
        yield i
        if pause and i % pause == 0:
            await anyio.lowlevel.checkpoint()


def numbers(n: int) -> list[str]:
    return [str(i) for i in range(n)]


# D1


@pytest.mark.parametrize("pause", [0, 1, 7])
async def test_d1_events_come_in_order_each_once(pause: int) -> None:
    stream = await complete(count(5_000, pause=pause))
    assert stream.connection.data == numbers(5_000)
    assert stream.connection.complete
    assert stream.error is None


async def test_d1_sync_events_come_in_order_each_once() -> None:
    stream = await complete(iter(range(5_000)))
    assert stream.connection.data == numbers(5_000)
    assert stream.connection.complete


# D2


async def test_d2_an_event_is_sent_when_the_generator_suspends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def content() -> AsyncIterator[str]:
        yield "a"
        yield "b"
        await anyio.sleep_forever()

    # However slow the machine is, no event is so old that it is due by its age.
    make_buffer = functools.partial(Buffer, max_age=1_000)
    monkeypatch.setattr(EventSourceResponse, "_make_buffer", lambda response: make_buffer())
    async with streaming(content()) as stream:
        await stream.connection.until(lambda: stream.connection.data == ['"a"', '"b"'])
        assert len(stream.connection.bodies) == 1


@asyncio_only
async def test_d2_no_turn_of_the_loop_lies_between_suspension_and_send() -> None:
    turns = 0
    sent_at: list[int] = []

    async def content() -> AsyncIterator[int]:
        nonlocal turns
        for i in range(10):
            await asyncio.sleep(0.01)
            asyncio.get_running_loop().call_soon(turn)
            yield i

    def turn() -> None:
        nonlocal turns
        turns += 1

    async with streaming(content()) as stream:
        send = stream.connection.send

        async def noting_send(message: Any) -> None:
            if message.get("body"):
                sent_at.append(turns)
            await send(message)

        stream.connection.send = noting_send  # type: ignore[method-assign]
        await stream.connection.until(lambda: stream.done)
    assert sent_at == list(range(10))


async def test_d2_a_generator_that_never_awaits_neither_starves_nor_holds_back() -> None:
    ended = False

    async def content() -> AsyncIterator[str]:
        while not ended:
            yield "x"

    async with streaming(content()) as stream:
        # This task runs at all, and sees events, only if the generator lets it.
        await stream.connection.until(lambda: len(stream.connection.bodies) >= 10)
        ended = True
        await stream.connection.until(lambda: stream.done)
    assert stream.connection.complete


async def test_d2_events_between_blocking_work_are_not_held_back() -> None:
    seen: list[int] = []

    async def content() -> AsyncIterator[int]:
        for i in range(5):
            time.sleep(0.01)  # noqa: ASYNC251 - what such a generator does
            yield i
            seen.append(len(stream.connection.data))
        await anyio.sleep_forever()

    stream = Streaming(content())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.run)
        await stream.connection.until(lambda: len(seen) == 5)
        tasks.cancel_scope.cancel()
    assert seen == [1, 2, 3, 4, 5]


# D3


async def test_d3_the_generator_waits_for_a_client_that_does_not_read() -> None:
    produced = 0

    async def content() -> AsyncIterator[str]:
        nonlocal produced
        while True:
            yield "x" * 1000
            produced += 1

    async with streaming(content(), max_pending=10_000) as stream:
        await stream.connection.until(lambda: stream.connection.bodies)
        stream.connection.stall()
        await stream.connection.until(lambda: stream.connection.stalled)
        before = produced
        for _ in range(50):
            await anyio.sleep(0.001)
        assert produced - before <= 1
        assert max(map(len, stream.connection.bodies)) <= 10_000 + 1_100


async def test_d3_a_sync_generator_waits_too() -> None:
    produced = 0

    def content() -> Iterator[str]:
        nonlocal produced
        while True:
            yield "x" * 1000
            produced += 1

    async with streaming(content(), max_pending=10_000) as stream:
        await stream.connection.until(lambda: stream.connection.bodies)
        stream.connection.stall()
        await stream.connection.until(lambda: stream.connection.stalled)
        await until_steady(lambda: produced)
        assert max(map(len, stream.connection.bodies)) <= 2 * 10_000 + 2_200


async def until_steady(value: Any) -> None:
    """Waits until a value has not changed for a while."""
    with anyio.fail_after(20):
        previous = None
        steady = 0
        while steady < 20:
            current = value()
            steady = steady + 1 if current == previous else 0
            previous = current
            await anyio.sleep(0.005)


# D4


@pytest.mark.virtual_time
async def test_d4_an_idle_stream_is_kept_alive_by_a_bare_comment() -> None:
    async def content() -> AsyncIterator[str]:
        yield "a"
        await anyio.sleep_forever()

    async with streaming(content(), ping_interval=0.01) as stream:
        await stream.connection.until(lambda: len(stream.connection.bodies) >= 4)
    assert stream.connection.bodies[:4] == [b'data: "a"\n\n'] + [b": ping\n"] * 3


@pytest.mark.virtual_time
async def test_d4_a_stream_that_flows_is_not_pinged() -> None:
    async def content() -> AsyncIterator[int]:
        for i in range(10):
            await anyio.sleep(1.9)
            yield i

    stream = Streaming(content(), ping_interval=2.0)
    await stream.run()
    assert b": ping" not in stream.connection.body


@pytest.mark.parametrize("off", [None, 0])
@pytest.mark.virtual_time
async def test_d4_keep_alive_can_be_off(off: float | None) -> None:
    async def content() -> AsyncIterator[str]:
        yield "a"
        await anyio.sleep(1_000)

    stream = Streaming(content(), ping_interval=off)
    await stream.run()
    assert stream.connection.bodies == [b'data: "a"\n\n']


# D5


@pytest.mark.virtual_time
async def test_d5_headers_come_with_the_first_event() -> None:
    go = anyio.Event()

    async def content() -> AsyncIterator[str]:
        await go.wait()
        yield "a"

    async with streaming(content(), open_delay=None) as stream:
        await anyio.sleep(1_000)
        assert not stream.connection.started
        go.set()
        await stream.connection.until(lambda: stream.done)
    assert [m["type"] for m in stream.connection.messages[:2]] == [
        "http.response.start",
        "http.response.body",
    ]


@pytest.mark.virtual_time
async def test_d5_headers_come_after_open_delay() -> None:
    async def content() -> AsyncIterator[str]:
        await anyio.sleep_forever()
        yield "never"

    async with streaming(content(), open_delay=0.01) as stream:
        await stream.connection.until(lambda: stream.connection.started)
        assert stream.connection.status == 200
        assert stream.connection.headers == {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
        }


async def test_d5_headers_come_at_the_end_of_a_stream_with_nothing_to_say() -> None:
    async def content() -> AsyncIterator[str]:
        return
        yield

    stream = await complete(content())
    assert stream.connection.status == 200
    assert stream.connection.complete
    assert stream.connection.body == b""


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_d5_an_exception_before_the_first_event_is_raised_before_the_headers(
    kind: str,
) -> None:
    async def failing() -> AsyncIterator[str]:
        raise LookupError("no such thing")
        yield

    def failing_sync() -> Iterator[str]:
        raise LookupError("no such thing")
        yield

    # A busy machine may take longer to start a thread than the usual 0.25 s.
    stream = await complete(failing() if kind == "async" else failing_sync(), open_delay=60)
    assert isinstance(stream.error, LookupError)
    assert stream.connection.messages == []


async def test_d5_open_delay_zero_sends_headers_first() -> None:
    async def failing() -> AsyncIterator[str]:
        raise LookupError
        yield

    stream = await complete(failing(), open_delay=0)
    assert stream.connection.started
    assert not stream.connection.complete


# D6


@pytest.mark.parametrize("n", [1, 2, 5, 50, 5_000])
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_d6_nothing_yielded_before_an_exception_is_lost(n: int, kind: str) -> None:
    async def failing() -> AsyncIterator[int]:
        for i in range(n):
            yield i
        raise LookupError("in the middle")

    def failing_sync() -> Iterator[int]:
        yield from range(n)
        raise LookupError("in the middle")

    stream = await complete(failing() if kind == "async" else failing_sync())
    assert stream.connection.data == numbers(n)
    assert isinstance(stream.error, LookupError)
    assert "Group" not in type(stream.error).__name__
    assert not stream.connection.complete


@pytest.mark.parametrize("yields", [0, 1])
async def test_d6_an_exception_that_is_its_own_cause_holds_nobody(yields: int) -> None:
    async def failing() -> AsyncIterator[int]:
        for each in range(yields):
            yield each
        try:
            raise LookupError("in the middle")
        except LookupError as error:
            raise error from error

    stream = await complete(failing())
    assert stream.connection.data == numbers(yields)
    assert isinstance(stream.error, LookupError)


async def test_d6_an_item_that_cannot_be_encoded_names_endpoint_and_type(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def bad_items() -> AsyncIterator[Any]:
        yield "fine"
        yield threading.Lock()

    stream = await complete(bad_items())
    assert stream.connection.data == ['"fine"']
    assert isinstance(stream.error, ValueError)
    assert not stream.connection.complete
    # Python 3.11 added notes to exceptions; before, the log has it.
    notes = "\n".join(getattr(stream.error, "__notes__", [caplog.text]))
    assert "_thread.lock" in notes
    assert "bad_items" in notes
    assert __file__ in notes


@pytest.mark.parametrize("kind", ["plain", "after a cancelled yield"])
@pytest.mark.virtual_time
async def test_d6_a_refused_item_is_blamed_on_its_endpoint(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def refused_items() -> AsyncIterator[Any]:
        with anyio.move_on_after(0.01 if kind != "plain" else 100):
            yield "x" * 70_000
            if kind != "plain":
                await anyio.sleep_forever()
        yield threading.Lock()

    async with streaming(refused_items()) as stream:
        if kind != "plain":
            stream.connection.stall()
            await stream.connection.until(lambda: stream.connection.stalled)
            await anyio.sleep(0.02)
            stream.connection.unstall()
        await stream.connection.until(lambda: stream.done)
    assert isinstance(stream.error, ValueError)
    notes = "\n".join(getattr(stream.error, "__notes__", [caplog.text]))
    assert "_thread.lock" in notes
    assert "refused_items" in notes


# D7


@pytest.mark.parametrize("idle", [True, False])
async def test_d7_a_disconnect_closes_the_generator_and_is_told_once(idle: bool) -> None:
    log: list[str] = []

    async def content() -> AsyncIterator[int]:
        try:
            for i in range(10**9):
                yield i
                await (anyio.sleep_forever() if idle else anyio.lowlevel.checkpoint())
        finally:
            log.append("closed")

    async def on_disconnect() -> None:
        await anyio.lowlevel.checkpoint()
        log.append("told")

    async with streaming(content(), on_disconnect=on_disconnect) as stream:
        await stream.connection.until(lambda: stream.connection.bodies)
        stream.connection.disconnect()
        await stream.connection.until(lambda: stream.done)
    assert sorted(log) == ["closed", "told"]
    assert stream.error is None


async def test_d7_a_stream_that_ends_is_no_disconnect() -> None:
    told: list[str] = []
    stream = await complete(count(3), on_disconnect=lambda: told.append("told"))
    assert stream.connection.complete
    assert told == []


@asyncio_only
async def test_d7_cleanup_that_awaits_runs_to_its_end() -> None:
    log: list[str] = []

    async def content() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(3600)
        finally:
            for i in range(5):
                await asyncio.sleep(0.001)
                log.append(f"step {i}")

    async with streaming(content()) as stream:
        await stream.connection.until(lambda: stream.connection.bodies)
        stream.connection.disconnect()
        await stream.connection.until(lambda: stream.done)
    assert log == [f"step {i}" for i in range(5)]


@asyncio_only
@pytest.mark.virtual_time
async def test_d7_repeated_cancellation_does_not_cut_the_cleanup() -> None:
    log: list[str] = []

    async def content() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.05)
            log.append("closed")

    stream = Streaming(content())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.run)
        await stream.connection.until(lambda: stream.connection.bodies)
        tasks.cancel_scope.cancel()  # anyio cancels again at every turn of the loop
    assert log == ["closed"]


@asyncio_only
@pytest.mark.virtual_time
async def test_d7_cleanup_timeout_bounds_a_cleanup_that_hangs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release = asyncio.Event()
    ended = asyncio.Event()

    async def content() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(3600)
        finally:
            while not release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await release.wait()
            ended.set()

    async with streaming(content(), cleanup_timeout=0.02) as stream:
        await stream.connection.until(lambda: stream.connection.bodies)
        stream.connection.disconnect()
        await stream.connection.until(lambda: stream.done)
    assert "cleanup_timeout" in caplog.text
    assert "content" in caplog.text
    release.set()
    await ended.wait()


async def test_d7_an_iterator_that_is_no_generator_is_served() -> None:
    class Plain:
        def __init__(self) -> None:
            self.left = 3

        def __aiter__(self) -> Plain:
            return self

        async def __anext__(self) -> int:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return self.left

    stream = await complete(Plain())
    assert stream.connection.data == ["2", "1", "0"]
    assert stream.connection.complete


async def test_d7_a_generator_that_raises_in_its_cleanup_after_a_disconnect() -> None:
    async def content() -> AsyncIterator[int]:
        try:
            yield 1
            await anyio.sleep_forever()
        finally:
            raise LookupError("in the cleanup")

    async with streaming(content()) as stream:
        await stream.connection.until(lambda: stream.connection.bodies)
        stream.connection.disconnect()
        await stream.connection.until(lambda: stream.done)
    assert isinstance(stream.error, LookupError)


@asyncio_only
async def test_d7_a_generator_that_ignores_its_cancellation_once() -> None:
    log: list[str] = []

    async def content() -> AsyncIterator[int]:
        try:
            for i in range(10**9):
                yield i
                try:
                    await asyncio.sleep(0.001 if log else 3600)
                except asyncio.CancelledError:
                    log.append("ignored")
        finally:
            log.append("closed")

    async with streaming(content()) as stream:
        await stream.connection.until(lambda: stream.connection.bodies)
        stream.connection.disconnect()
        await stream.connection.until(lambda: stream.done)
    assert log == ["ignored", "closed"]
    assert stream.error is None


async def test_d7_a_generator_that_yields_in_its_cleanup() -> None:
    async def content() -> AsyncIterator[str]:
        try:
            while True:
                yield "x" * 1000
        finally:
            yield "too late"

    async with streaming(content()) as stream:
        await stream.connection.until(lambda: stream.connection.bodies)
        stream.connection.stall()
        await stream.connection.until(lambda: stream.connection.stalled)
        stream.connection.disconnect()
        await stream.connection.until(lambda: stream.done)
    assert isinstance(stream.error, RuntimeError)
    assert "too late" not in stream.connection.body.decode()


async def test_d7_one_generator_given_to_two_responses() -> None:
    content = count(10, pause=1)
    first = Streaming(content)
    second = Streaming(content)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.run)
        tasks.start_soon(second.run)
    if first.error is not None:
        first, second = second, first
    assert first.connection.data == numbers(10)
    assert first.error is None
    assert isinstance(second.error, RuntimeError)
    assert "already being streamed" in str(second.error)
    assert second.connection.messages == []


@asyncio_only
async def test_d7_no_task_and_no_stream_object_is_left() -> None:
    from sserpent._delivery.on_asyncio import Delivery

    def deliveries() -> int:
        gc.collect()
        return sum(isinstance(each, Delivery) for each in gc.get_objects())

    before = len(asyncio.all_tasks())
    deliveries_before = deliveries()
    for _ in range(20):
        async with streaming(count(100, pause=3)) as stream:
            await stream.connection.until(lambda s=stream: s.connection.bodies)
    assert len(asyncio.all_tasks()) == before
    del stream
    assert deliveries() <= deliveries_before


# D9


async def test_d9_a_client_that_does_not_read_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log: list[str] = []

    async def content() -> AsyncIterator[str]:
        try:
            while True:
                yield "x" * 1000
                await anyio.lowlevel.checkpoint()
        finally:
            log.append("closed")

    options: Any = {"send_timeout": 0.02, "on_disconnect": lambda: log.append("told")}
    async with streaming(content(), **options) as stream:
        await stream.connection.until(lambda: stream.connection.bodies)
        stream.connection.stall()
        await stream.connection.until(lambda: stream.done)
    assert sorted(log) == ["closed", "told"]
    assert "send_timeout" in caplog.text
    assert not stream.connection.complete


@pytest.mark.virtual_time
async def test_d9_a_slow_reader_is_not_dropped() -> None:
    async with streaming(count(200, pause=1), send_timeout=5.0) as stream:
        for _ in range(5):
            stream.connection.stall()
            await anyio.sleep(4)
            stream.connection.unstall()
            await anyio.sleep(1)
        await stream.connection.until(lambda: stream.done)
    assert stream.connection.data == numbers(200)


# D10


async def test_d10_a_sync_generator_has_one_thread_and_the_request_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    variable.set("from the request")
    threads: list[int] = []

    def content() -> Iterator[str]:
        for _ in range(3):
            threads.append(threading.get_ident())
            yield variable.get()
            variable.set("from the generator")

    stream = await complete(content())
    assert stream.connection.data == ['"from the request"'] + ['"from the generator"'] * 2
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads


async def test_d10_an_event_is_on_its_way_while_next_blocks() -> None:
    go = threading.Event()

    def content() -> Iterator[str]:
        yield "a"
        go.wait(20)
        yield "b"

    async with streaming(content()) as stream:
        await stream.connection.until(lambda: stream.connection.data == ['"a"'])
        go.set()
        await stream.connection.until(lambda: stream.done)
    assert stream.connection.data == ['"a"', '"b"']


async def test_d10_close_runs_in_the_thread_after_a_disconnect() -> None:
    threads: dict[str, int] = {}

    def content() -> Iterator[str]:
        try:
            while True:
                threads["next"] = threading.get_ident()
                yield "x" * 1000
        finally:
            threads["close"] = threading.get_ident()

    async with streaming(content()) as stream:
        await stream.connection.until(lambda: stream.connection.bodies)
        stream.connection.disconnect()
        await stream.connection.until(lambda: stream.done)
    assert threads["close"] == threads["next"]


async def test_d10_a_blocked_next_does_not_hold_the_response_beyond_cleanup_timeout(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go = threading.Event()
    closed = threading.Event()

    def content() -> Iterator[str]:
        try:
            yield "a"
            go.wait(20)
            yield "b"
        finally:
            closed.set()

    async with streaming(content(), cleanup_timeout=0.02) as stream:
        await stream.connection.until(lambda: stream.connection.bodies)
        stream.connection.disconnect()
        await stream.connection.until(lambda: stream.done)
    assert not closed.is_set()
    assert "cleanup_timeout" in caplog.text
    go.set()
    assert closed.wait(20)
    assert stream.connection.data == ['"a"']


async def test_d10_further_streams_wait_for_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventSourceResponse, "max_threads", 1)
    go = threading.Event()

    def first() -> Iterator[str]:
        yield "first"
        go.wait(20)

    def second() -> Iterator[str]:
        yield "second"

    async with streaming(first()) as one:
        await one.connection.until(lambda: one.connection.bodies)
        async with streaming(second(), open_delay=0.01) as two:
            await two.connection.until(lambda: two.connection.started)
            assert two.connection.data == []
            go.set()
            await two.connection.until(lambda: two.done)
    assert two.connection.data == ['"second"']


async def test_d10_a_stream_that_leaves_the_line_never_starts_its_generator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(EventSourceResponse, "max_threads", 1)
    go = threading.Event()
    started: list[str] = []

    def first() -> Iterator[str]:
        yield "first"
        go.wait(20)

    def second() -> Iterator[str]:
        started.append("second")
        yield "second"

    async with streaming(first()) as one:
        await one.connection.until(lambda: one.connection.bodies)
        async with streaming(second(), open_delay=0.01) as two:
            await two.connection.until(lambda: two.connection.started)
            two.connection.disconnect()
            await two.connection.until(lambda: two.done)
        go.set()
    assert started == []
    stream = await complete(second())
    assert stream.connection.data == ['"second"']


# D11


async def test_d11_one_task_drives_the_generator_from_first_item_to_close() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    tasks: set[int] = set()

    async def content() -> AsyncIterator[int]:
        token = variable.set(0)
        try:
            for i in range(20):
                tasks.add(anyio.get_current_task().id)
                assert variable.get() == i
                yield i
                variable.set(i + 1)
                if i % 3 == 0:
                    await anyio.lowlevel.checkpoint()
        finally:
            tasks.add(anyio.get_current_task().id)
            variable.reset(token)

    stream = await complete(content())
    assert stream.error is None
    assert len(tasks) == 1


async def test_d11_a_cancel_scope_around_a_yield_ends_the_generator_only() -> None:
    async def content() -> AsyncIterator[str]:
        with anyio.move_on_after(0.02):
            while True:
                yield "x"
                await anyio.sleep(0.001)
        yield "after"

    stream = await complete(content())
    assert stream.error is None
    assert stream.connection.data[-1] == '"after"'
    assert stream.connection.complete


@pytest.mark.parametrize("at_yield", [True, False])
@pytest.mark.parametrize("kind", ["anyio", "asyncio"])
async def test_d11_a_timeout_of_the_generator_is_its_own_and_no_send_is_interrupted(
    at_yield: bool, kind: str, anyio_backend: str
) -> None:
    if kind == "anyio":
        timeout: Any = anyio.fail_after
    elif anyio_backend == "asyncio" and hasattr(asyncio, "timeout"):
        timeout = asyncio.timeout
    else:
        pytest.skip("asyncio.timeout is asyncio's, since Python 3.11")
    log: list[str] = []
    yielded: list[str] = []

    async def content() -> AsyncIterator[str]:
        try:
            async with contextlib.AsyncExitStack() as stack:
                if kind == "anyio":
                    stack.enter_context(timeout(0.02))
                else:
                    await stack.enter_async_context(timeout(0.02))
                while True:
                    # A whole buffer is sent at the yield, one small event at the next await.
                    yielded.append(f"{len(yielded)}" + "x" * (70_000 if at_yield else 10))
                    yield yielded[-1]
                    await anyio.sleep(0.001)
        except TimeoutError:
            log.append("timeout")
        yielded.append("after")
        yield "after"

    stream = Streaming(content())
    async with anyio.create_task_group() as tasks:
        stream.connection.stall()
        tasks.start_soon(stream.run)
        await stream.connection.until(lambda: stream.connection.stalled)
        # It gets its timeout although the client does not read,
        await stream.connection.until(lambda: log == ["timeout"] or anyio_backend == "trio")
        await anyio.sleep(0.05)
        stream.connection.unstall()
    assert log == ["timeout"]
    assert stream.error is None
    # and nothing is lost.
    assert [line.strip('"') for line in stream.connection.data] == yielded
    assert stream.connection.complete


@asyncio_only
async def test_d11_a_future_shared_by_streams_wakes_them_all() -> None:
    shared: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def content() -> AsyncIterator[str]:
        yield "before"
        yield await shared

    one, two = Streaming(content()), Streaming(content())
    async with anyio.create_task_group() as tasks:
        for stream in (one, two):
            stream.connection.stall()
            tasks.start_soon(stream.run)
        await one.connection.until(lambda: one.connection.stalled and two.connection.stalled)
        for stream in (one, two):
            stream.connection.unstall()
        await one.connection.until(lambda: one.connection.data and two.connection.data)
        shared.set_result("shared")
        await one.connection.until(lambda: one.done and two.done)
    assert one.error is two.error is None
    assert one.connection.data == two.connection.data == ['"before"', '"shared"']


@asyncio_only
async def test_a_generator_that_raises_a_cancellation_of_its_own_is_an_error() -> None:
    async def content() -> AsyncIterator[str]:
        yield "a"
        await anyio.lowlevel.checkpoint()
        raise asyncio.CancelledError

    stream = Streaming(content())
    with contextlib.suppress(asyncio.CancelledError):
        await stream.run()
    assert not stream.connection.complete
    assert stream.connection.data == ['"a"']


@asyncio_only
async def test_d6_a_cancellation_from_within_has_its_place_in_the_traceback() -> None:
    async def awaits_a_cancelled_task() -> AsyncIterator[str]:
        yield "a"
        task = asyncio.ensure_future(asyncio.sleep(100))
        asyncio.get_running_loop().call_soon(task.cancel)
        await task

    stream = await complete(awaits_a_cancelled_task())
    assert isinstance(stream.error, RuntimeError)
    assert "was cancelled from within" in str(stream.error)
    assert "await task" in "".join(traceback.format_exception(stream.error))
    assert stream.connection.data == ['"a"']


@pytest.mark.parametrize("yields", [0, 1])
def test_d14_streams_that_the_end_of_asyncio_run_cancels_are_no_errors(
    yields: int, caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[int] = []

    async def content(number: int) -> AsyncIterator[str]:
        try:
            for _ in range(yields):
                yield "a"
            await asyncio.sleep(1_000)
        finally:
            closed.append(number)

    async def main() -> None:
        connections = [Connection() for _ in range(20)]
        requests.extend(
            asyncio.ensure_future(each.run(EventSourceResponse(content(number), open_delay=0)))
            for number, each in enumerate(connections)
        )
        while not all(len(each.messages) > yields for each in connections):
            await asyncio.sleep(0)

    requests: list[asyncio.Future[None]] = []
    asyncio.run(main())
    assert sorted(closed) == list(range(20))
    assert all(each.cancelled() for each in requests)
    assert caplog.records == []


# The rest of the ASGI side


async def test_a_failing_send_ends_the_stream_with_its_error() -> None:
    closed: list[str] = []

    async def content() -> AsyncIterator[int]:
        try:
            for i in range(10**9):
                yield i
                await anyio.lowlevel.checkpoint()
        finally:
            closed.append("closed")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            raise ConnectionAbortedError if use_os_error else LookupError("in the middleware")

    for use_os_error in (True, False):
        closed.clear()
        connection = Connection()
        connection.send = send  # type: ignore[method-assign]
        with contextlib.ExitStack() as stack:
            if not use_os_error:
                stack.enter_context(pytest.raises(LookupError, match="in the middleware"))
            await connection.run(EventSourceResponse(content()))
        assert closed == ["closed"]


@pytest.mark.parametrize("open_delay", [0, 0.1])
async def test_a_send_that_answers_an_awaitable_of_its_own(open_delay: float) -> None:
    """As servers written in other languages do."""

    class Sending:
        def __init__(self, message: Any) -> None:
            self.message = message

        def __await__(self) -> Any:
            return connection.send(self.message).__await__()

    connection = Connection()
    response = EventSourceResponse(count(50, pause=3), open_delay=open_delay)
    await response(connection.scope, connection.receive, Sending)
    assert connection.data == numbers(50)
    assert connection.complete


async def test_events_are_written_in_full() -> None:
    async def content() -> AsyncIterator[Any]:
        yield ServerSentEvent(comment="c", event="e", data={"a": 1}, id="7", retry=5)
        yield {"b": [1, None]}

    stream = await complete(content())
    assert stream.connection.body == (
        b': c\nevent: e\ndata: {"a":1}\nid: 7\nretry: 5\n\ndata: {"b":[1,null]}\n\n'
    )


async def test_background_tasks_run_after_the_stream() -> None:
    from starlette.background import BackgroundTask

    log: list[bool] = []

    async def note() -> None:
        log.append(stream.connection.complete)

    stream = Streaming(count(3), background=BackgroundTask(note))
    await stream.run()
    assert log == [True]


@pytest.mark.parametrize(("look_again", "looks"), [(60.0, 1), (-1.0, 5)])
async def test_a_server_that_was_not_found_is_not_looked_for_with_every_stream(
    monkeypatch: pytest.MonkeyPatch, look_again: float, looks: int
) -> None:
    """That goes through all tasks of the event loop."""
    looked: list[Any] = []
    monkeypatch.setattr(streams, "_LOOK_AGAIN", look_again)
    monkeypatch.setattr(streams, "server_of", looked.append)
    for _ in range(5):
        connection = Connection(server=("an address of its own", looks))
        await connection.run(EventSourceResponse(count(1)))
        assert connection.complete
    assert looked == [("an address of its own", looks)] * looks


def test_the_log_is_the_library_logger() -> None:
    assert logging.getLogger("sserpent").name == "sserpent"


async def test_a_cancelled_response_does_not_wait_for_a_client_that_does_not_read() -> None:
    closed: list[str] = []

    async def content() -> AsyncIterator[str]:
        try:
            while True:
                yield "x" * 1000
        finally:
            closed.append("closed")

    stream = Streaming(content())
    with anyio.fail_after(10):  # cleanup_timeout is 30
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.run)
            await stream.connection.until(lambda: stream.connection.bodies)
            stream.connection.stall()
            await stream.connection.until(lambda: stream.connection.stalled)
            tasks.cancel_scope.cancel()
    assert closed == ["closed"]
