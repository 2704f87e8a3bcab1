"""Streams that open or end in one moment do so a few at a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import FastAPI

from asgi import Connection, Left
from sserpent import EventSourceResponse
from sserpent._delivery.throttle import LEAVING, OPENING, Throttle
from sserpent.channels import Channels

MANY = 500


class Clock:
    """Counts the turns of the event loop."""

    def __init__(self) -> None:
        self.now = 0

    async def run(self) -> None:
        while True:
            self.now += 1
            await asyncio.sleep(0)


def in_turns(main: Callable[[Clock], Any]) -> None:
    async def run() -> None:
        clock = Clock()
        ticking = asyncio.ensure_future(clock.run())
        await asyncio.wait_for(main(clock), 60)
        ticking.cancel()

    asyncio.run(run())


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def idle() -> AsyncIterator[str]:
    yield "first"
    await asyncio.sleep(1_000)


@pytest.mark.parametrize("kind", ["generator", "subscription"])
def test_d18_streams_whose_clients_leave_at_once_end_a_few_in_a_turn(kind: str) -> None:
    told: list[int] = []
    ended: list[int] = []

    async def main(clock: Clock) -> None:
        async with Channels() as channels:
            news = channels.channel("news")

            def response() -> EventSourceResponse:
                note: Any = {"on_disconnect": lambda: told.append(clock.now)}
                if kind == "generator":
                    return EventSourceResponse(idle(), **note)
                return news.subscribe(**note)

            async def stream(client: Connection) -> None:
                await client.run(response())
                ended.append(clock.now)

            clients = [Connection() for _ in range(MANY)]
            streams = [asyncio.ensure_future(stream(each)) for each in clients]
            await until(lambda: all(each.started for each in clients))
            for each in clients:
                each.disconnect()
            await asyncio.gather(*streams)
            assert not LEAVING.of_this_loop()._waiting

    in_turns(main)
    for turns in told, ended:
        assert len(turns) == MANY
        assert max(Counter(turns).values()) <= 2 * LEAVING._most


def test_d7_of_many_clients_that_left_before_their_streams_open_no_generator_begins() -> None:
    begun: list[int] = []
    told: list[int] = []

    async def content(number: int) -> AsyncIterator[str]:
        begun.append(number)
        yield "never"

    async def main(_: Clock) -> None:
        responses = [
            EventSourceResponse(content(number), on_disconnect=lambda: told.append(1))
            for number in range(MANY)
        ]
        await asyncio.gather(*[Left().run(each) for each in responses])

    in_turns(main)
    assert begun == []
    assert len(told) == MANY


def test_d18_requests_for_streams_are_answered_a_few_in_a_turn() -> None:
    app = FastAPI()
    opened: list[int] = []
    clocks: list[Clock] = []

    @app.get("/", response_class=EventSourceResponse)
    async def stream() -> AsyncIterator[str]:
        opened.append(clocks[0].now)
        yield "only"

    async def main(clock: Clock) -> None:
        clocks.append(clock)
        clients = [Connection() for _ in range(MANY)]
        await asyncio.gather(*[each.run(app) for each in clients])
        assert all(each.complete and each.data == ['"only"'] for each in clients)

    in_turns(main)
    assert len(opened) == MANY
    assert max(Counter(opened).values()) <= 2 * OPENING._most


def test_d18_one_that_comes_alone_waits_for_no_turn() -> None:
    throttle = Throttle(2)

    async def main(_: Clock) -> None:
        for _ in range(10):
            assert throttle.take_turn() is None
            assert throttle.take_turn() is None
            await asyncio.sleep(0)
        throttle.take_turn()
        throttle.take_turn()
        assert throttle.take_turn() is not None

    in_turns(main)


def test_d18_turns_come_in_order_and_one_that_is_cancelled_holds_up_nobody() -> None:
    went: list[int] = []

    async def main(clock: Clock) -> None:
        throttle = Throttle(2)

        async def go(number: int) -> None:
            turn = throttle.take_turn()
            if turn is not None:
                await turn
            went.append(number)

        tasks = [asyncio.ensure_future(go(number)) for number in range(10)]
        await until(lambda: len(throttle._waiting) == 8)
        for number in (2, 3, 4, 7):
            tasks[number].cancel()
        late = asyncio.ensure_future(go(10))
        await asyncio.wait([*tasks, late])
        assert not throttle._waiting

    in_turns(main)
    assert went == [0, 1, 5, 6, 8, 9, 10]


def test_d18_a_request_that_is_cancelled_in_line_ends_as_cancelled() -> None:
    cleaned_up: list[int] = []

    async def held(number: int) -> AsyncIterator[str]:
        try:
            yield "first"
            await asyncio.sleep(1_000)
        finally:
            cleaned_up.append(number)

    async def main(_: Clock) -> None:
        clients = [Connection() for _ in range(MANY)]
        streams = [
            asyncio.ensure_future(each.run(EventSourceResponse(held(number))))
            for number, each in enumerate(clients)
        ]
        await until(lambda: all(each.started for each in clients))
        for each in clients:
            each.disconnect()
        waiting = LEAVING.of_this_loop()._waiting
        await until(lambda: waiting)
        streams[-1].cancel()
        await asyncio.wait(streams)
        assert streams[-1].cancelled()
        assert not any(each.cancelled() or each.exception() for each in streams[:-1])

    in_turns(main)
    assert sorted(cleaned_up) == list(range(MANY))
