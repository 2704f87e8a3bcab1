"""What the delivery does at which time, by a clock that the test moves: keep-alive, held start,
send timeout, shutdown grace; and what reaches the wire under any schedule at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from asgi import Connection
from event_loops import asyncio_only
from sserpent import EventSourceResponse
from timelines import PING, timeline

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def test_d4_pings_come_after_an_interval_without_traffic_only() -> None:
    async def content() -> AsyncIterator[int]:
        yield 0
        await anyio.sleep(10)
        yield 1
        await anyio.sleep(14.999)
        yield 2
        await anyio.sleep(100)

    assert await timeline(content, until=60) == [
        (0, "headers"),
        (0, "data: 0\n\n"),
        (10, "data: 1\n\n"),
        (24.999, "data: 2\n\n"),
        (39.999, PING),
        (54.999, PING),
    ]


@pytest.mark.parametrize("off", [None, 0])
async def test_d4_no_interval_no_ping(off: float | None) -> None:
    async def content() -> AsyncIterator[int]:
        yield 0
        await anyio.sleep(10_000)

    sent = await timeline(content, until=5_000, ping_interval=off)
    assert sent == [(0, "headers"), (0, "data: 0\n\n")]


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
async def test_d5_headers_come_with_the_first_event_or_after_open_delay(
    open_delay: float | None,
    first_event: float,
    expected: list[tuple[float, str]],
) -> None:
    async def content() -> AsyncIterator[int]:
        await anyio.sleep(first_event)
        yield 0

    sent = await timeline(content, until=50, open_delay=open_delay)
    assert sent == [*expected, (first_event, "END")]


async def test_d9_a_stalled_send_is_given_up_after_send_timeout() -> None:
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

    await timeline(content, until=100, act=stall, send_timeout=5, ping_interval=None)
    assert ended == [12]


async def test_d8_the_grace_runs_from_the_shutdown() -> None:
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

    sent = await timeline(content, until=50, act=shut_down, shutdown_grace=2, ping_interval=None)
    assert sent == [
        (0, "headers"),
        (0, "data: false\n\n"),
        (3, "data: true\n\n"),
    ], "a stream that was cut off must not look complete"


@asyncio_only
async def test_the_clock_of_these_tests_jumps() -> None:
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await asyncio.sleep(100_000)
    assert loop.time() - begin >= 100_000


async def test_d4_a_keep_alive_that_fails_is_not_asked_for_again_during_the_cleanup() -> None:
    asked: list[bool] = []

    def ping() -> None:
        asked.append(True)
        raise LookupError("on purpose")

    async def content() -> AsyncIterator[int]:
        try:
            yield 0
            await anyio.sleep(100)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)

    with pytest.raises(LookupError, match="on purpose"):
        await Connection().run(EventSourceResponse(content(), ping_event=ping))
    assert len(asked) == 1


async def test_d9_a_send_that_ignores_that_it_is_given_up_is_warned_of_once(
    anyio_backend_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def content() -> AsyncIterator[int]:
        yield 0
        await anyio.sleep(100)

    class Deaf(Connection):
        async def send(self, message: Any) -> None:
            await super().send(message)
            until = anyio.current_time() + (10 if message.get("body") else 0)
            while anyio.current_time() < until:
                with contextlib.suppress(asyncio.CancelledError), anyio.CancelScope(shield=True):
                    await anyio.sleep(until - anyio.current_time())

    began = anyio.current_time()
    options = {"send_timeout": 2, "cleanup_timeout": 4, "ping_interval": None}
    await Deaf().run(EventSourceResponse(content(), **options))
    seconds = 6 if anyio_backend_name == "asyncio" else 10  # Trio waits for what shields itself
    assert anyio.current_time() - began == pytest.approx(seconds)
    assert caplog.text.count("send_timeout") == 1
