"""No call that blocks is made in the event loop, whatever a stream does: under BlockBuster."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

import blocking
from sserpent import EventSourceResponse
from sserpent.channels import Channels
from sserpent.testing import connect

pytestmark = pytest.mark.skipif(not blocking.CAN_RUN, reason=blocking.REASON)


class Item(BaseModel):
    number: int


def application() -> FastAPI:
    channels = Channels()
    news = channels.channel("news", Item)
    # A run that nobody follows any more is stopped when the application ends, however far it is.
    answers = channels.runs("answers", Item, shutdown_grace=0)
    app = FastAPI(lifespan=channels.lifespan)

    @app.get("/stream", response_class=EventSourceResponse)
    async def stream() -> AsyncIterator[Item]:
        try:
            yield Item(number=1)
            await anyio.sleep(0.01)
            yield Item(number=2)
            await anyio.sleep_forever()
        finally:
            await anyio.sleep(0.01)

    @app.get("/thread", response_class=EventSourceResponse)
    def thread() -> Iterator[Item]:
        for number in range(1, 100_000):
            yield Item(number=number)
            time.sleep(0.001)

    @app.get("/framed")
    async def framed() -> EventSourceResponse:
        async def frames() -> AsyncIterator[str]:
            yield 'data: {"number":1}\n\n'
            yield 'data: {"number":2}\n\n'
            await anyio.sleep_forever()

        return EventSourceResponse(frames(), framed=True, ping_interval=0.001)

    @app.get("/news")
    async def subscribe() -> EventSourceResponse:
        return news.subscribe(start="earliest")

    @app.post("/news")
    async def publish(item: Item) -> str:
        return await news.publish(item)

    @app.get("/answer")
    async def answer() -> EventSourceResponse:
        async def numbers() -> AsyncIterator[Item]:
            for number in range(1, 1_000):
                yield Item(number=number)
                await anyio.sleep(0.001)

        run = await answers.start(numbers())
        return run.follow()

    @app.get("/blocks", response_class=EventSourceResponse)
    async def blocks() -> AsyncIterator[Item]:
        yield Item(number=1)
        time.sleep(0.001)  # noqa: ASYNC251
        yield Item(number=2)

    return app


async def read_two(app: FastAPI, path: str) -> None:
    """Reads two events, and leaves in the middle."""
    async with connect(app) as client:
        if path == "/news":
            for number in (1, 2):
                await client.post(path, json={"number": number})
        async with client.events(path) as events:
            for number in (1, 2):
                assert (await events.next()).json() == {"number": number}
            await events.leave()


@pytest.mark.parametrize("path", ["/stream", "/thread", "/framed", "/news", "/answer"])
def test_e3_no_call_blocks_the_event_loop(path: str) -> None:
    anyio.run(read_two, application(), path)  # what is imported once may be read from a file
    app = application()  # FastAPI reads the files of its endpoints
    with blocking.forbidden() as calls:
        anyio.run(read_two, app, path)
    assert calls == []


def test_e3_a_generator_that_blocks_is_noticed() -> None:
    app = application()
    with blocking.forbidden() as calls, pytest.raises(Exception, match="Blocking call"):
        anyio.run(read_two, app, "/blocks")
    assert ["to time.sleep" in each for each in calls] == [True]
