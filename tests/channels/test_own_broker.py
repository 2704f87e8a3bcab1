"""A broker of the user's own, handed to `Channels`: the one on the page on the architecture."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from channel_clients import Client, connected
from pages import DOCS, run_blocks
from sserpent.channels import Channels

pytestmark = [pytest.mark.once, pytest.mark.anyio]


@pytest.fixture
def broker() -> Any:
    return run_blocks(DOCS / "architecture.md")["DictBroker"]()


async def test_clients_of_two_applications_share_its_histories(broker: Any) -> None:
    async with Channels(broker) as one:
        rooms = [each.channel("rooms", keyed=True) for each in (one, Channels(broker))]
        async with connected(rooms[0].subscribe(key="lobby")) as client:
            first = await rooms[1].publish(1, key="lobby")
            await rooms[0].publish(2, key="lobby")
            await client.has(1, 2)
        async with connected(rooms[1].subscribe(key="lobby", after=first)) as client:
            await client.has(2)
            assert rooms[0].publish_soon(3, key="lobby") is not None
            await client.has(2, 3)


async def test_c16_the_streams_of_a_user_end_in_every_application(broker: Any) -> None:
    one, other = Channels(broker), Channels(broker)
    news = [each.channel("news") for each in (one, other)]
    async with one, anyio.create_task_group() as tasks:
        clients = [Client() for _ in range(3)]
        owners = [(0, "7"), (1, "7"), (1, "8")]
        for client, (at, owner) in zip(clients, owners, strict=True):
            tasks.start_soon(client.run, news[at].subscribe(owner=owner))
            await client.until(lambda client=client: client.started)
        assert await one.disconnect(owner=7) == 1
        for client in clients[:2]:
            await client.until(lambda client=client: client.complete)
        await news[0].publish(1)
        await clients[2].has(1)
        clients[2].disconnect()
    assert not any(broker.followers.values())


def test_it_may_keep_no_runs(broker: Any) -> None:
    with pytest.raises(NotImplementedError, match="DictBroker keeps no runs"):
        Channels(broker).runs("answers")


def test_what_is_no_broker_is_refused_with_what_it_lacks() -> None:
    class Half:
        def publish(self) -> None: ...

    not_a_broker: Any = Half()
    with pytest.raises(TypeError, match=r"'broker' .* not Half, which has no 'open', 'ready', "):
        Channels(not_a_broker)


async def test_a_closed_one_refuses(broker: Any) -> None:
    async with Channels(broker) as channels:
        news = channels.channel("news")
    with pytest.raises(RuntimeError, match="closed"):
        await news.publish(1)
    with pytest.raises(RuntimeError, match="closed"):
        news.publish_soon(1).result(0)


def test_c17_what_waits_for_an_event_loop_that_has_ended_is_published_at_the_end(
    broker: Any,
) -> None:
    channels = Channels(broker)
    news = channels.channel("news")
    loop = asyncio.new_event_loop()
    loop.run_until_complete(channels.__aenter__())
    published = news.publish_soon(1)
    loop.close()

    async def close() -> None:
        with anyio.fail_after(10):
            await channels.aclose()

    anyio.run(close)
    assert published.result(0).split("-")[1] == "1"
