"""What the delivery does at which time, by a clock that the test moves: keep-alive, held start,
send timeout, shutdown grace; and what reaches the wire under any schedule at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi import Connection
from sserpent import EventSourceResponse
from timelines import PING, runners, timeline
from virtual_time import run_on_asyncio, run_on_trio


@runners
def test_d4_pings_come_after_an_interval_without_traffic_only(run: Callable[..., None]) -> None:
    async def content() -> AsyncIterator[int]:
        yield 0
        await anyio.sleep(10)
        yield 1
        await anyio.sleep(14.999)
        yield 2
        await anyio.sleep(100)

    assert timeline(run, content, until=60) == [
        (0, "headers"),
        (0, "data: 0\n\n"),
        (10, "data: 1\n\n"),
        (24.999, "data: 2\n\n"),
        (39.999, PING),
        (54.999, PING),
    ]


@runners
@pytest.mark.parametrize("off", [None, 0])
def test_d4_no_interval_no_ping(run: Callable[..., None], off: float | None) -> None:
    async def content() -> AsyncIterator[int]:
        yield 0
        await anyio.sleep(10_000)

    sent = timeline(run, content, until=5_000, ping_interval=off)
    assert sent == [(0, "headers"), (0, "data: 0\n\n")]


@runners
@pytest.mark.parametrize(
    ("open_delay", "first_event", "expected"),
    [
        (0.25, 0.1, [(0.1, "headers"), (0.1, "data: 0\n\n")]),
        (0.25, 1, [(0.25, "headers"), (1, "data: 0\n\n")]),
        (0, 1, [(0, "headers"), (1, "data: 0\n\n")]),
        (None, 20, [(20, "headers"), (20, "data: 0\n\n")]),
        (3, 20, [(3, "headers"), (18, PING), (20, "data: 0\n\n")]),
    ],
)
def test_d5_headers_come_with_the_first_event_or_after_open_delay(
    run: Callable[..., None],
    open_delay: float | None,
    first_event: float,
    expected: list[tuple[float, str]],
) -> None:
    async def content() -> AsyncIterator[int]:
        await anyio.sleep(first_event)
        yield 0

    sent = timeline(run, content, until=50, open_delay=open_delay)
    assert sent == [*expected, (first_event, "END")]


@runners
def test_d9_a_stalled_send_is_given_up_after_send_timeout(run: Callable[..., None]) -> None:
    ended: list[float] = []

    async def content() -> AsyncIterator[int]:
        begin = anyio.current_time()
        try:
            yield 0
            await anyio.sleep(7)
            yield 1
            await anyio.sleep(1000)
        finally:
            ended.append(round(anyio.current_time() - begin, 3))

    async def stall(connection: Connection, _: Any) -> None:
        await anyio.sleep(1)
        connection.stall()

    timeline(run, content, until=100, act=stall, send_timeout=5, ping_interval=None)
    assert ended == [12]


@runners
def test_d8_the_grace_runs_from_the_shutdown(run: Callable[..., None]) -> None:
    from sserpent._shutdown import streams as _shutdown

    async def content() -> AsyncIterator[Any]:
        event = _shutdown.shutdown_event()
        yield event.is_set()
        await event.wait()
        yield event.is_set()
        await anyio.sleep(1000)

    async def shut_down(connection: Connection, _: Any) -> None:
        await anyio.sleep(3)
        _shutdown._of_this_loop()._look(signalled=True)

    sent = timeline(run, content, until=50, act=shut_down, shutdown_grace=2, ping_interval=None)
    assert sent == [
        (0, "headers"),
        (0, "data: false\n\n"),
        (3, "data: true\n\n"),
    ], "a stream that was cut off must not look complete"


# Any schedule

steps = st.lists(
    st.one_of(
        st.tuples(st.just("yield"), st.integers(1, 30)),
        st.tuples(st.just("large"), st.integers(1, 3)),
        st.tuples(st.just("sleep"), st.sampled_from([0, 0, 0.001, 0.3, 20])),
        st.tuples(st.just("timeout"), st.sampled_from([0.001, 0.2])),
        st.tuples(st.just("block"), st.just(0.0021)),
    ),
    max_size=12,
)
endings = st.sampled_from(["return", "raise", "wait"])
clients = st.lists(
    st.tuples(
        st.sampled_from(["stall", "unstall", "disconnect", "cancel"]),
        st.sampled_from([0, 0.0005, 0.01, 0.3, 30]),
    ),
    max_size=5,
)


@pytest.mark.parametrize("run", [run_on_asyncio, run_on_trio], ids=["asyncio", "trio"])
@settings(max_examples=250, deadline=None)
@given(steps=steps, ending=endings, client=clients)
def test_whole_events_in_order_under_any_schedule(
    run: Callable[..., None], steps: list[Any], ending: str, client: list[Any]
) -> None:
    yielded: list[str] = []
    log: list[str] = []

    async def content() -> AsyncIterator[str]:
        import time

        def item(size: int = 1) -> str:
            yielded.append(f"{len(yielded)}" + "x" * size)
            return yielded[-1]

        try:
            for kind, amount in steps:
                if kind == "yield":
                    for _ in range(amount):
                        yield item()
                elif kind == "large":
                    for _ in range(amount):
                        yield item(70_000)
                elif kind == "sleep":
                    await anyio.sleep(amount)
                elif kind == "timeout":
                    with anyio.move_on_after(amount):
                        await anyio.sleep(3600)
                else:
                    time.sleep(amount)  # noqa: ASYNC251 - what users' code does
                    yield item()
            if ending == "raise":
                raise LookupError("on purpose")
            if ending == "wait":
                await anyio.sleep(10_000)
        finally:
            log.append("closed")

    async def main() -> None:
        connection = Connection()
        response = EventSourceResponse(content(), on_disconnect=lambda: log.append("told"))
        errors: list[BaseException] = []
        done = anyio.Event()

        async def stream() -> None:
            try:
                await connection.run(response)
            except LookupError as error:
                errors.append(error)
            finally:
                done.set()

        left = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream)
            for act, pause in client:
                await anyio.sleep(pause)
                if act == "cancel":
                    left = True
                    tasks.cancel_scope.cancel()
                    break
                left = left or act == "disconnect"
                getattr(connection, act)()
            connection.unstall()
            if ending == "wait" and not left:
                with anyio.move_on_after(5_000):
                    await done.wait()
                left = True
                connection.disconnect()
            with anyio.fail_after(100_000):
                await done.wait()

        received = [line.strip('"') for line in connection.data]
        assert received == yielded[: len(received)], "not a prefix of what was yielded"
        if errors:
            assert not connection.complete
            assert left or received == yielded, "events before the exception were lost"
        if connection.complete:
            assert received == yielded
        if not left:
            assert connection.complete or errors
        assert log.count("told") <= 1
        assert log.count("closed") <= 1
        if yielded:
            assert "closed" in log

    run(main)


def test_the_clock_of_these_tests_jumps() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await asyncio.sleep(100_000)
        assert loop.time() - begin >= 100_000

    run_on_asyncio(main)
