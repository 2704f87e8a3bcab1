"""Several events at once, and how many subscribers there are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from pydantic import BaseModel, ValidationError

from channel_clients import connected, offset_of
from channel_places import Place
from event_loops import asyncio_only
from followers import Notes, item
from redis_checks import LIMITS, ROOM, MakeRedis
from sserpent import ServerSentEvent
from sserpent.channels import Channels
from sserpent.channels.history.position import parse_id

pytestmark = pytest.mark.anyio


async def test_several_events_are_published_in_order_with_nothing_between_them(
    place: Place,
) -> None:
    async with place.channels() as channels:
        news = channels.channel("news")
        async with connected(news.subscribe()) as client:
            await news.publish("before")
            ids: list[str] = []

            async def many(first: int) -> None:
                ids.extend(await news.publish_many(range(first, first + 100)))

            async with anyio.create_task_group() as tasks:
                for first in (0, 100, 200):
                    tasks.start_soon(many, first)
            await news.publish("after")
            await client.until(lambda: "after" in client.data)
            data = client.data[1:-1]
            assert sorted(data) == list(range(300))
            for start in (0, 100, 200):
                part = data[start : start + 100]
                assert part == list(range(part[0], part[0] + 100))
            assert sorted(ids, key=offset_of) == [each.id for each in client.seen[1:-1]]
        async with connected(news.subscribe(after=ids[0])) as back:
            await back.until(lambda: "after" in back.data)


class Item(BaseModel):
    number: int


async def test_if_one_item_is_bad_none_is_published(place: Place) -> None:
    async with place.channels() as channels:
        items = channels.channel("items", Item)
        wrong: Any = [Item(number=1), {"number": "x"}]
        with pytest.raises(ValidationError):
            await items.publish_many(wrong)
        assert offset_of(await items.position()) == 0
        assert await items.publish_many([]) == []
        named = await items.publish_many([Item(number=1)], event="item")
        assert [offset_of(each) for each in named] == [1]


async def _in_time() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    "wrong",
    [
        "ab",
        b"ab",
        bytearray(b"a"),
        {"a": 1},
        Item(number=1),
        ServerSentEvent(data=1),
        7,
        _in_time(),
    ],
    ids=lambda each: type(each).__name__,
)
@asyncio_only
async def test_items_that_are_one_event_are_refused(wrong: Any) -> None:
    async with Channels() as channels:
        news = channels.channel("news")
        with pytest.raises(TypeError, match="'items' must be an iterable of events"):
            await news.publish_many(wrong)
        assert offset_of(await news.position()) == 0
        for right in ((1,), range(1), {1}, iter([1]), {"a": 1}.items()):
            assert len(await news.publish_many(right)) == 1


async def test_limits_hold_for_several_at_once_too(place: Place) -> None:
    async with place.channels() as channels:
        small = channels.channel("small", history_bytes=2_000)
        await small.publish_many(["x" * 100] * 100)
        async with connected(small.subscribe(start="earliest")) as client:
            await client.until(lambda: client.data)
            assert 5 < len(client.data) < 20
        none = channels.channel("none", history=0)
        ids = await none.publish_many([1, 2, 3])
        assert await none.position() == ids[-1]


async def test_the_greatest_limits_are_taken(place: Place) -> None:
    async with place.channels() as channels:
        most = 2**63 - 1
        news = channels.channel("news", history=most, history_bytes=most)
        ids = await news.publish_many([1, 2, 3])
        async with connected(news.subscribe(after=ids[0])) as client:
            await news.publish(4)
            await client.has(2, 3, 4)


async def test_on_a_channel_of_ephemeral_events_they_are_ephemeral(place: Place) -> None:
    async with place.channels() as channels:
        cursors = channels.channel("cursors", ephemeral=True)
        async with connected(cursors.subscribe()) as client:
            event = ServerSentEvent(data=2, event="moved")
            assert await cursors.publish_many([1, event]) == ["", ""]
            await client.has(1, 2)


@asyncio_only
async def test_several_events_whose_answer_is_lost_are_not_published_twice(
    make_redis: MakeRedis,
) -> None:
    from sserpent.channels.redis import Pace, RedisBroker

    server = make_redis()
    broker = RedisBroker(server.url, pace=Pace(timeout=3))
    notes = Notes()
    await broker.follow(ROOM, LIMITS, notes)
    session: Any = broker._session
    await broker.publish(ROOM, LIMITS, item(0))
    command: list[Any] = []
    send = session.servers.send
    session.servers.send = lambda each: (command.append(each), send(each))
    ids = await broker.publish_many(ROOM, LIMITS, [item(n) for n in (1, 2, 3)])
    session.servers.send = send
    # As if its connection had been lost with the answer.
    [many] = [each for each in command if type(each).__name__ == "Publish"]
    many.lose()
    many.future = session.loop.create_future()
    many.deadline = session.loop.time() + 3
    send(many)
    assert (await many.future).decode() == ids[0]
    await broker.publish(ROOM, LIMITS, item(4))
    await notes.have(5)
    assert notes.numbers == [0, 1, 2, 3, 4]
    assert all(parse_id(each) for each in ids)
    await broker.aclose()


# How many subscribers there are


async def test_subscribers_are_counted_by_key(place: Place) -> None:
    async with place.channels() as channels:
        rooms = channels.channel("rooms", keyed=True)
        assert await rooms.subscriber_count(key="a") == 0
        async with (
            connected(rooms.subscribe(key="a")),
            connected(rooms.subscribe(key="a")),
            connected(rooms.subscribe(key="b")),
            rooms.listen(key="a"),
        ):
            assert await rooms.subscriber_count(key="a") == 3
            assert await rooms.subscriber_count(key="b") == 1
        with anyio.fail_after(20):
            while await rooms.subscriber_count(key="a"):
                await anyio.sleep(0.01)
        with pytest.raises(ValueError, match="`key` is missing"):
            await rooms.subscriber_count()


@asyncio_only
async def test_on_redis_those_of_all_processes_are_counted(make_redis: MakeRedis) -> None:
    server = make_redis()
    async with Channels(server.url) as one, Channels(server.url) as two:
        here, there = (each.channel("news") for each in (one, two))
        async with connected(here.subscribe()), connected(there.subscribe()):
            async with connected(there.subscribe()):
                for each in (here, there):
                    assert await each.subscriber_count() == 3
            # A process that does not answer is not waited for.
            session: Any = two._broker._session  # type: ignore[attr-defined]
            session.reply = lambda *_: None
            with anyio.fail_after(3):
                assert await here.subscriber_count() == 1
