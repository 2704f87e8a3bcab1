"""D10: sync generators and their threads."""

import inspect
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import anyio
import anyio.from_thread
import pytest

from asgi import Connection
from servers import until
from sserpent import EventSourceResponse
from sserpent._delivery.from_thread import Worker

pytestmark = pytest.mark.anyio


async def test_from_thread_works_as_in_fastapis_own() -> None:
    loop_thread = threading.get_ident()

    async def asked(value: int) -> list[Any]:
        await anyio.sleep(0.001)
        return [value, threading.get_ident() == loop_thread]

    def content() -> Iterator[Any]:
        try:
            yield anyio.from_thread.run(asked, 1)
            yield anyio.from_thread.run_sync(threading.get_ident) == loop_thread
            anyio.from_thread.check_cancelled()
        finally:
            ended.append(anyio.from_thread.run(asked, 2))

    ended: list[Any] = []
    connection = Connection()
    await connection.run(EventSourceResponse(content()))
    assert connection.data == ["[1,true]", "true"]
    assert connection.complete
    assert ended == [[2, True]]


async def test_what_a_generator_awaits_after_its_client_has_left_is_cancelled_too() -> None:
    ended: list[str] = []
    told = threading.Event()

    def content() -> Iterator[int]:
        try:
            yield 1
            assert told.wait(20)
            anyio.from_thread.run(anyio.sleep, 3600)
        finally:
            ended.append("ended")

    connection = Connection()
    response = EventSourceResponse(content(), on_disconnect=told.set)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run, response)
            await connection.until(lambda: connection.bodies)
            connection.disconnect()
    assert ended == ["ended"]


async def test_what_a_generator_awaits_is_cancelled_when_its_client_leaves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended: list[str] = []

    def content() -> Iterator[int]:
        try:
            yield 1
            anyio.from_thread.run(anyio.sleep, 3600)
        finally:
            ended.append("ended")

    connection = Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run, EventSourceResponse(content()))
        await connection.until(lambda: connection.bodies)
        connection.disconnect()
    assert ended == ["ended"]
    assert caplog.records == []


class Cleanup:
    """Sync generators whose cleanup awaits, by how they come to it."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def note(self, text: str) -> None:
        self.log.append(text)

    async def tidy(self) -> None:
        self.note("tidies")
        await anyio.sleep(0.05)
        self.note("has tidied")

    def tidy_up(self) -> None:
        anyio.from_thread.run(self.tidy)
        anyio.from_thread.run(self.tidy)
        self.note("ends")

    @contextmanager
    def session(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.tidy_up()

    def wait(self) -> None:
        try:
            anyio.from_thread.run(anyio.sleep, 3600)
        finally:
            self.tidy_up()

    def waits(self) -> Iterator[int]:
        try:
            yield 1
            anyio.from_thread.run(anyio.sleep, 3600)
        finally:
            self.tidy_up()

    def handles(self) -> Iterator[int]:
        try:
            yield 1
            anyio.from_thread.run(anyio.sleep, 3600)
        except BaseException:
            self.tidy_up()
            raise

    def in_a_function(self) -> Iterator[int]:
        yield 1
        self.wait()

    def in_a_context_manager(self) -> Iterator[int]:
        with self.session():
            yield 1
            anyio.from_thread.run(anyio.sleep, 3600)

    def at_a_yield(self) -> Iterator[int]:
        try:
            while True:
                yield 1
                time.sleep(0.001)
        finally:
            self.tidy_up()

    def by_itself(self) -> Iterator[int]:
        """Has come to it by the time the client leaves."""
        try:
            yield 1
        finally:
            self.tidy_up()

    def by_itself_later(self) -> Iterator[int]:
        """Comes to it when the client has left, and nothing of it was cancelled."""
        try:
            yield 1
            while "told" not in self.log:
                time.sleep(0.001)
        finally:
            self.tidy_up()


@pytest.mark.parametrize(
    "name", [name for name in vars(Cleanup) if inspect.isgeneratorfunction(vars(Cleanup)[name])]
)
async def test_a_cleanup_may_await_when_the_client_has_left(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    cleanup = Cleanup()
    connection = Connection()
    response = EventSourceResponse(
        getattr(cleanup, name)(), on_disconnect=lambda: cleanup.note("told")
    )
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run, response)
            await connection.until(lambda: connection.bodies)
            if name == "by_itself":
                await connection.until(lambda: "tidies" in cleanup.log)
            connection.disconnect()
    cleanup.log.remove("told")
    assert cleanup.log == [*["tidies", "has tidied"] * 2, "ends"]
    assert caplog.records == []


class OneThread(EventSourceResponse):
    max_threads = 1
    cleanup_timeout = 0.1


@pytest.mark.parametrize("item", [1, object()], ids=["left", "refused"])
async def test_what_a_cleanup_awaits_for_too_long_is_cancelled(
    item: Any, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []

    async def tidy() -> None:
        try:
            await anyio.sleep(3600)
        finally:
            log.append("cancelled")

    def content() -> Iterator[Any]:
        try:
            yield 1
            yield item
            anyio.from_thread.run(anyio.sleep, 3600)
        finally:
            try:
                anyio.from_thread.run(tidy)
            finally:
                anyio.from_thread.run(tidy)

    connection = Connection()

    async def run() -> None:
        with pytest.raises(ValueError, match="object") if item != 1 else nullcontext():
            await connection.run(OneThread(content()))
        log.append("ended")

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await connection.until(lambda: connection.bodies)
            if item == 1:
                connection.disconnect()
        # The next stream has its place as soon as it is free.
        await Connection().run(OneThread(iter([1])))
    assert sorted(log) == ["cancelled", "cancelled", "ended"]
    messages = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    # Before Python 3.11 exceptions have no notes, and the log has them.
    [message] = [each for each in messages if "while encoding an item" not in each]
    assert "did not end within cleanup_timeout (0.1 s)" in message


async def test_check_cancelled_raises_when_the_client_has_left() -> None:
    ended: list[str] = []

    def content() -> Iterator[int]:
        yield 1
        try:
            while True:
                with suppress(Exception):  # a cancellation is none
                    anyio.from_thread.check_cancelled()
                time.sleep(0.001)
        finally:
            ended.append("ended")

    connection = Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run, EventSourceResponse(content()))
        await connection.until(lambda: connection.bodies)
        connection.disconnect()
    assert ended == ["ended"]


def cannot_start(*_: Any, **__: Any) -> None:
    raise RuntimeError("can't start new thread")


async def test_a_thread_that_cannot_be_started_is_an_error_of_its_stream_alone(
    monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> None:
    class One(EventSourceResponse):
        max_threads = 1

    connection = Connection()
    with monkeypatch.context() as patch:
        if anyio_backend == "asyncio":
            patch.setattr(threading.Thread, "start", cannot_start)
        else:
            patch.setattr("trio._threads.start_thread_soon", cannot_start)
        with anyio.fail_after(10), pytest.raises(RuntimeError, match="can't start new thread"):
            await connection.run(One(iter([1])))
    # Its slot is free again.
    connection = Connection()
    with anyio.fail_after(10):
        await connection.run(One(iter([2])))
    assert connection.data == ["2"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_in_line_whose_thread_cannot_be_started_fails_and_the_next_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class One(EventSourceResponse):
        max_threads = 1

    go_on = threading.Event()

    def first() -> Iterator[int]:
        yield 1
        go_on.wait(20)

    failed: list[str] = []

    async def fails(connection: Connection) -> None:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await connection.run(One(iter([2])))
        failed.append("failed")

    connections = [Connection() for _ in range(4)]
    start = threading.Thread.start
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connections[0].run, One(first()))
            await connections[0].until(lambda: connections[0].bodies)
            tasks.start_soon(fails, connections[1])
            tasks.start_soon(fails, connections[2])
            await anyio.sleep(0.01)
            tasks.start_soon(connections[3].run, One(iter([4])))
            await anyio.sleep(0.01)
            refused: list[Any] = []

            def start_later(thread: threading.Thread) -> None:
                if len(refused) < 2:
                    refused.append(thread)
                    cannot_start()
                start(thread)

            monkeypatch.setattr(threading.Thread, "start", start_later)
            go_on.set()
    assert failed == ["failed"] * 2
    assert connections[3].data == ["4"]


async def test_d10_a_thread_that_begins_when_its_client_has_left_does_not_start_the_generator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[str] = []
    waiting: list[Worker] = []
    start = Worker.start

    def content() -> Iterator[int]:
        begun.append("begun")
        yield 1

    async def begin_late() -> None:
        while not waiting[0]._cancelled:
            await anyio.sleep(0.001)
        start(waiting[0])

    connection = Connection()
    response = EventSourceResponse(content(), open_delay=0, on_disconnect=begin_late)
    monkeypatch.setattr(Worker, "start", lambda worker: waiting.append(worker))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run, response)
            await connection.until(lambda: connection.started and waiting)
            connection.disconnect()
    assert begun == []


async def test_max_threads_counts_the_streams_of_the_class_that_sets_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Own(EventSourceResponse):
        max_threads = 1

    class Heir(Own):
        pass

    class Other(Own):
        max_threads = 1

    go_on = threading.Event()

    def blocks() -> Iterator[int]:
        yield 1
        go_on.wait(20)

    own, heir, heir2, other, plain = [Connection() for _ in range(5)]
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(own.run, Own(blocks()))
            await own.until(lambda: own.bodies)
            tasks.start_soon(heir.run, Heir(iter([2])))
            tasks.start_soon(heir2.run, Heir(iter([2])))
            await heir.until(lambda: caplog.records)
            await other.run(Other(iter([3])))
            await plain.run(EventSourceResponse(iter([4])))
            assert heir.bodies == []
            go_on.set()
    assert [each.data for each in (own, heir, heir2, other, plain)] == [
        ["1"],
        ["2"],
        ["2"],
        ["3"],
        ["4"],
    ]
    assert [each.getMessage() for each in caplog.records] == [
        "All of max_threads (1) sync generators are running: others wait"
    ]


@pytest.mark.parametrize("error", [LookupError, SystemExit, CancelledError])
async def test_what_fails_in_a_cleanup_after_a_disconnect_is_logged(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def content() -> Iterator[int]:
        try:
            while True:
                yield 1
                time.sleep(0.001)
        finally:
            raise error("failed in the cleanup")

    connection = Connection()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection.run, EventSourceResponse(content()))
        await connection.until(lambda: connection.bodies)
        connection.disconnect()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], error)


async def test_a_thread_is_a_daemon_and_ends_with_its_stream() -> None:
    threads: list[threading.Thread] = []

    def content() -> Iterator[bool]:
        threads.append(threading.current_thread())
        yield threading.current_thread().daemon

    connection = Connection()
    await connection.run(EventSourceResponse(content()))
    assert connection.data == ["true"]
    if "sserpent" in threads[0].name:
        until(lambda: not threads[0].is_alive())
