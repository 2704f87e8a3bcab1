"""Events that are in no history: who is typing, cursors, presence."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from channel_clients import Client, connected, offset_of
from channel_places import Place, heard, turns
from sserpent import ServerSentEvent
from sserpent.channels import Channels

pytestmark = pytest.mark.anyio


async def test_an_ephemeral_event_reaches_who_is_subscribed_and_has_no_id(place: Place) -> None:
    async with place.channels() as channels:
        news = channels.channel("news")
        first = await news.publish(1)
        async with connected(news.subscribe()) as client:
            assert await news.publish("typing", ephemeral=True) == ""
            await client.has("typing")
            assert client.body.count(b"id: ") == 1  # of the position, at the start
            assert client.last_id == first
            second = await news.publish(2)
            await client.has("typing", 2)
            assert offset_of(second) == offset_of(first) + 1
        async with connected(news.subscribe(start="earliest")) as late:
            await late.has(1, 2)


async def test_a_key_of_ephemeral_events_alone_has_no_history(place: Place) -> None:
    async with place.channels() as channels:
        cursors = channels.channel("cursors", keyed=True, ephemeral=True)
        await cursors.publish(0, key="nobody")
        async with connected(cursors.subscribe(key="a")) as client:
            await cursors.publish(1, key="a")
            assert cursors.publish_soon(2, key="a").result is not None
            await client.has(1, 2)
            kept = await cursors.publish(3, key="a", ephemeral=False)
            await client.has(1, 2, 3)
            assert offset_of(kept) == 1
        if place.redis is None:
            broker: Any = channels._broker
            assert [key.key for key in broker.histories] == ["a"]


async def test_a_slow_client_does_not_get_it_late_and_it_counts_in_no_gap(place: Place) -> None:
    async with place.channels() as channels:
        news = channels.channel("news")
        async with connected(news.subscribe()) as slow, connected(news.subscribe()) as quick:
            slow.stall()
            await news.publish(0)
            await slow.until(lambda: slow.stalled)
            await news.publish("typing", ephemeral=True)
            await quick.has(0, "typing")
            await turns()
            await news.publish(1)
            slow.unstall()
            await slow.has(0, 1)
            assert slow.said == []
            await news.publish("again", ephemeral=True)
            await slow.has(0, 1, "again")
            await quick.has(0, "typing", 1, "again")


async def test_of_each_conflate_the_newest_waits_for_a_slow_client(place: Place) -> None:
    async with place.channels() as channels:
        cursors = channels.channel("cursors", ephemeral=True)
        async with connected(cursors.subscribe()) as slow, connected(cursors.subscribe()) as quick:
            slow.stall()
            await cursors.publish(["ann", 0], conflate="ann")
            await slow.until(lambda: slow.stalled)
            for n in range(1, 4):
                await cursors.publish(["ann", n], conflate="ann")
                await cursors.publish(["bob", n], conflate="bob")
            await quick.until(lambda: ["bob", 3] in quick.data)
            await heard(channels)
            slow.unstall()
            await slow.has(["ann", 0], ["ann", 3], ["bob", 3])
            await cursors.publish("end")
            for client in (slow, quick):
                await client.until(lambda client=client: "end" in client.data)
            await heard(channels)
            # Nothing is kept once all have it.
            for hub in channels._hubs._by_loop.values():
                for tail in hub._tails.values():
                    assert not tail._newest_of
                    assert not tail._ephemeral
                    assert tail._ephemeral_bytes == 0


async def test_of_a_burst_a_client_that_keeps_up_gets_all_of_each_conflate(place: Place) -> None:
    async with place.channels() as channels:
        cursors = channels.channel("cursors", ephemeral=True)
        async with (
            connected(cursors.subscribe()) as quick,
            connected(cursors.subscribe(filter=lambda event: event.data < 2)) as filtered,
        ):
            for n in range(4):
                await cursors.publish(n, conflate="ann")
            await quick.has(0, 1, 2, 3)
            await filtered.has(0, 1)


async def test_an_event_that_the_filter_hides_stands_for_none_that_it_shows(place: Place) -> None:
    async with place.channels() as channels:
        cursors = channels.channel("cursors", ephemeral=True)
        slow = Client()
        async with slow.open(cursors.subscribe(filter=lambda event: event.data < 5)):
            slow.stall()
            await cursors.publish(0)
            await slow.until(lambda: slow.stalled)
            for n in (1, 2, 9):
                await cursors.publish(n, conflate="ann")
                await heard(channels)
            await cursors.publish(3, conflate="bob")
            await heard(channels)
            slow.unstall()
            await slow.has(0, 2, 3)


async def test_the_filter_and_the_listener_see_it_as_any_event(place: Place) -> None:
    async with place.channels() as channels:
        news = channels.channel("news")
        asked: list[Any] = []

        def even(event: ServerSentEvent) -> bool:
            asked.append((event.data, event.id))
            return event.data % 2 == 0

        read: list[ServerSentEvent] = []

        async def listen() -> None:
            async with news.listen(filter=even) as events:
                listening.set()
                async for event in events:
                    read.append(event)  # noqa: PERF401

        listening = anyio.Event()
        async with (
            connected(news.subscribe(filter=even)) as client,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listen)
            await listening.wait()
            for n in range(4):
                await news.publish(n, event="typing", ephemeral=True)
                await turns()
            await client.has(0, 2)
            await client.until(lambda: len(read) == 2)
            assert (read[0].data, read[0].event, read[0].id) == (0, "typing", None)
            assert set(asked) == {(n, None) for n in range(4)}
            tasks.cancel_scope.cancel()


async def test_in_a_stream_of_several_channels_it_leaves_the_id_alone(place: Place) -> None:
    async with place.channels() as channels:
        news, more = channels.channel("news"), channels.channel("more")
        async with connected(channels.subscribe(news.on(), more.on())) as client:
            await news.publish(1)
            await client.has(1)
            before = client.last_id
            await more.publish("typing", ephemeral=True)
            await client.has(1, "typing")
            assert client.last_id == before


async def test_what_waits_for_a_client_that_never_reads_is_bounded(place: Place) -> None:
    async with place.channels() as channels:
        cursors = channels.channel("cursors", ephemeral=True, history_bytes=2_000)
        async with connected(cursors.subscribe()) as slow:
            slow.stall()
            await cursors.publish("x")
            await slow.until(lambda: slow.stalled)
            for n in range(100):
                await cursors.publish([n, "x" * 100], conflate=n)
                await turns(2)
            await heard(channels)
            for hub in channels._hubs._by_loop.values():
                for tail in hub._tails.values():
                    assert tail._ephemeral_bytes <= 2_000
            slow.unstall()
            await slow.until(lambda: [99, "x" * 100] in slow.data)
            assert len(slow.data) < 25


async def test_a_client_that_waits_for_its_snapshot_gets_none_before_it(place: Place) -> None:
    async with place.channels() as channels:
        news = channels.channel("news")
        called, go_on = anyio.Event(), anyio.Event()

        async def state() -> str:
            called.set()
            await go_on.wait()
            return "state"

        client = Client()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.run, news.subscribe(snapshot=state))
            await called.wait()
            await news.publish("early", ephemeral=True)
            await heard(channels)
            go_on.set()
            await client.has("state")
            await news.publish("typing", ephemeral=True)
            await client.has("state", "typing")
            client.disconnect()


async def test_c7_a_new_client_is_told_its_position_even_if_an_ephemeral_event_comes_first(
    place: Place,
) -> None:
    async with place.channels() as channels:
        news = channels.channel("news")
        client = Client()
        client.stall()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.run, news.subscribe())
            await client.until(lambda: client.stalled)  # the headers wait
            await news.publish("typing", ephemeral=True)
            await heard(channels)
            client.unstall()
            await client.until(lambda: client.bodies)
            assert client.last_id
            client.disconnect()
        await news.publish("missed")
        async with connected(news.subscribe(after=client.last_id)) as client:
            await client.has("missed")


async def test_c9_a_client_that_got_ephemeral_events_alone_is_told_its_position_when_it_is_ended(
    place: Place,
) -> None:
    async with place.channels() as channels:
        news = channels.channel("news", history=2, overflow="disconnect")
        async with connected(news.subscribe(start="earliest")) as client:
            await news.publish("typing", ephemeral=True)
            await client.has("typing")
            client.stall()
            await news.publish("typing", ephemeral=True)
            await client.until(lambda: client.stalled)
            for n in range(10):
                await news.publish(n)
                await heard(channels)
            client.unstall()
            await client.until(lambda: client.complete)
            assert client.last_id


async def test_large_ephemeral_events_reach_a_client_that_keeps_up(place: Place) -> None:
    async with place.channels() as channels:
        images = channels.channel("images", ephemeral=True, history_bytes=1_000)
        async with connected(images.subscribe(max_pending=10_000_000)) as client:
            for n in range(3):
                await images.publish([n, "x" * 1_200_000])
                await client.until(lambda n=n: len(client.data) > n)
            await images.publish([3, "x" * 1_200_000], conflate="ann")
            await images.publish([4, "x" * 1_200_000])
            await client.until(lambda: client.data[-1][0] == 4)
            assert [n for n, _ in client.data][:3] == [0, 1, 2]


def test_ephemeral_is_true_or_false() -> None:
    wrong: Any = 1
    news = Channels().channel("news")
    with pytest.raises(TypeError, match="'ephemeral' must be True or False, not int"):
        news.publish_soon(1, ephemeral=wrong)
    with pytest.raises(TypeError, match="'ephemeral' must be True or False, not int"):
        Channels().channel("news", ephemeral=wrong)
