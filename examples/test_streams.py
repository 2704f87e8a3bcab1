"""How to test an endless stream, without a server: run it with `pytest`."""

from collections.abc import AsyncIterator
from math import inf

import gateway
import pytest
import ticker

from sserpent.testing import Client, FakeUpstream, connect

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with connect(ticker.app) as client:
        yield client


async def test_the_stream_ticks_until_its_client_leaves(client: Client) -> None:
    async with client.events("/ticks") as events:
        assert (await events.next(timeout=5)).json() == {"tick": 0}
        assert (await events.next()).json() == {"tick": 1}
        assert ticker.app.state.listeners == 1
        await events.leave()
        assert ticker.app.state.listeners == 0


async def test_a_client_that_was_cut_off_resumes(client: Client) -> None:
    async with client.events("/ticks", last_event_id="41") as events:
        assert (await events.next()).json() == {"tick": 42}
        events.cut()
        again = await events.reconnect()
        assert (await again.next()).json() == {"tick": 43}


async def test_a_client_that_does_not_read_misses_nothing(client: Client) -> None:
    async with client.events("/ticks") as events:
        await events.stall()
        await events.until_send_waits()
        await events.resume()
        assert [(await events.next()).json()["tick"] for _ in range(3)] == [0, 1, 2]


async def test_a_shutdown_ends_the_stream(client: Client) -> None:
    async with client.events("/ticks") as events:
        await events.next()
        await client.shut_down()
        assert ticker.app.state.listeners == 0


async def test_the_gateway_stops_its_upstream_when_its_client_leaves() -> None:
    upstream = FakeUpstream([b'data: {"n":', b" 1}\n\n", inf])
    completion = {"model": "mine", "messages": []}
    async with connect(upstream) as provider, connect(gateway.app) as client:
        gateway.app.state.upstream = provider
        path = "/v1/chat/completions"
        async with client.events(path, method="POST", json=completion) as events:
            assert (await events.next()).data == '{"n":1}'
            await events.leave()
        assert upstream.requests[0].body == b'{"model":"mine","messages":[],"stream":true}'
        assert upstream.requests[0].client_left
