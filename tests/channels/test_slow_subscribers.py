"""C9 and C10: a slow subscriber disturbs nobody, and nobody disturbs the event loop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from channel_clients import Client, MakeChannels, connected, offset_of
from channel_places import Place
from event_loops import asyncio_only
from sserpent.channels import Channels
from sserpent.channels.fanout import hub, tail

pytestmark = pytest.mark.anyio


async def turns(count: int = 20) -> None:
    """Lets the event loop turn: everyone has had the occasion to take what there is."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


# C9


async def test_c9_a_slow_subscriber_delays_no_other(make_channels: MakeChannels) -> None:
    async with make_channels() as channels:
        news = channels.channel("news")
        async with (
            connected(news.subscribe()) as one,
            connected(news.subscribe()) as slow,
            connected(news.subscribe()) as two,
        ):
            slow.stall()
            for n in range(500):
                await news.publish(n)
            for client in (one, two):
                await client.has(*range(500))
            assert slow.data == []
            slow.unstall()
            await slow.has(*range(500))
            # What had gathered came at once.
            assert len(slow.bodies) < 10


async def test_c9_what_has_gathered_is_taken_in_chunks_of_max_pending(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        news = channels.channel("news")
        async with connected(news.subscribe(max_pending=10_000)) as slow:
            slow.stall()
            for n in range(100):
                await news.publish([n, "x" * 900])
            slow.unstall()
            await slow.until(lambda: len(slow.data) == 100)
            assert [n for n, _ in slow.data] == list(range(100))
            assert max(map(len, slow.bodies)) <= 10_000
            assert len(slow.bodies) < 20


# What was published while the client stalled, and what it then sees; history is 5.
OVERFLOWS = {
    "gap": ([*range(15, 20), "then"], 14, False),
    "latest": ([19, "then"], 18, False),
    "disconnect": ([], 0, True),
}


@pytest.mark.parametrize("overflow", OVERFLOWS)
async def test_c9_when_the_ring_has_passed_a_subscriber_it_is_as_overflow_says(
    make_channels: MakeChannels, overflow: Any
) -> None:
    data, missed, ends = OVERFLOWS[overflow]

    async with make_channels() as channels:
        news = channels.channel("news", history=5, overflow=overflow)
        async with connected(news.subscribe()) as client:
            client.stall()
            ids = [await news.publish(0)]
            await client.until(lambda: client.stalled)
            for n in range(1, 20):
                ids.append(await news.publish(n))
                await turns()
            client.unstall()
            if ends:
                await client.until(lambda: client.complete)
                # The chunk that the client had stalled with, and no more.
                assert client.data == [0]
                assert client.said == []
                assert farewell(client)
            else:
                await client.until(lambda: 19 in client.data)
                await news.publish("then")
                await client.has(0, *data)
                [gap] = client.said
                assert gap.data == {
                    "reason": "overflow",
                    "missed": missed,
                    "from": ids[0],
                    "to": ids[missed],
                }
                assert gap.id == ids[missed]
        if ends:
            async with connected(news.subscribe(after=client.last_id)) as back:
                await back.has(*range(15, 20))
                assert [each.data["missed"] for each in back.said] == [14]


def farewell(client: Client) -> bool:
    *_, comment, retry, rest = client.lines
    milliseconds = int(retry.removeprefix("retry: "))
    return comment.startswith(":") and 1_000 <= milliseconds <= 5_000 and rest == ""


@pytest.mark.parametrize("padding", [0, 5_000, 200_000])
async def test_c9_of_pending_events_a_slow_one_gets_the_newest_of_each_conflate(
    make_channels: MakeChannels, padding: int
) -> None:
    async with make_channels() as channels:
        prices = channels.channel("prices", history_bytes=2**24)
        async with connected(prices.subscribe()) as client:
            client.stall()
            await prices.publish("first")
            await client.until(lambda: client.stalled)
            for n in range(20):
                for name in ("a", "b"):
                    await prices.publish([name, n, "x" * padding], conflate=name)
                if n % 5 == 0:
                    await prices.publish(n)
            await turns()
            client.unstall()
            await client.until(lambda: ["b", 19, "x" * padding] in client.data)
            assert [each[:2] if isinstance(each, list) else each for each in client.data] == [
                "first", 0, 5, 10, 15, ["a", 19], ["b", 19],
            ]  # fmt: skip
            assert client.said == []


async def test_c9_conflate_takes_nothing_from_one_that_keeps_up_or_comes_back(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        prices = channels.channel("prices")
        async with connected(prices.subscribe()) as client:
            first = await prices.publish(0, conflate="a")
            for n in range(1, 20):
                await client.has(*range(n))
                await prices.publish(n, conflate="a")
            await client.has(*range(20))
        async with connected(prices.subscribe(after=first)) as back:
            await back.has(*range(1, 20))


async def test_c9_conflate_does_not_let_what_a_filter_hides_stand_for_what_it_shows(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        prices = channels.channel("prices")
        shown = prices.subscribe(filter=lambda event: event.data != "hidden")
        async with connected(shown) as client:
            client.stall()
            await prices.publish("first")
            await client.until(lambda: client.stalled)
            await prices.publish("old", conflate="a")
            await prices.publish("new", conflate="a")
            await prices.publish("hidden", conflate="a")
            await turns()
            client.unstall()
            await prices.publish("last")
            await client.has("first", "new", "last")


# C10


def ticking_clock() -> Callable[[], float]:
    """Returns a clock that each look at it moves by half a millisecond."""
    return partial(next, count(0.0005, 0.0005))


@asyncio_only
async def test_c10_a_flush_takes_2_ms_at_a_stretch_and_another_is_the_first_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look = ticking_clock()
    stretches: deque[list[int]] = deque([[]])

    run_of_hub = hub.Hub._run

    def noted_run(self: Any) -> None:
        stretches.append([])
        run_of_hub(self)

    monkeypatch.setattr(hub, "monotonic", look)
    monkeypatch.setattr(tail, "monotonic", look)
    monkeypatch.setattr(hub.Hub, "_run", noted_run)

    class Noted(Client):
        number = 0

        async def send(self, message: Any) -> None:
            if b"data: " in message.get("body", b""):
                stretches[-1].append(self.number)
            await super().send(message)

    channels = Channels()
    news = channels.channel("news")
    clients = [Noted() for _ in range(40)]
    async with anyio.create_task_group() as tasks:
        for number, client in enumerate(clients):
            client.number = number
            tasks.start_soon(client.run, news.subscribe())
            await client.until(lambda client=client: client.bodies)
        firsts = []
        for n in range(3):
            stretches.clear()
            stretches.append([])
            await news.publish(n)
            for client in clients:
                await client.has(*range(n + 1))
            served = [each for each in stretches if each]
            assert max(map(len, served)) <= 4
            assert sorted(each for stretch in served for each in stretch) == list(range(40))
            firsts.append(served[0][0])
        assert len(set(firsts)) == 3
        for client in clients:
            client.disconnect()


@asyncio_only
async def test_c10_a_flood_from_a_thread_is_taken_in_in_slices_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look = ticking_clock()
    stretches = [0]

    run_of_hub, append = hub.Hub._run, tail.Tail._append

    def noted_run(self: Any) -> None:
        stretches.append(0)
        run_of_hub(self)

    def noted_append(self: Any, entry: Any) -> None:
        stretches[-1] += 1
        append(self, entry)

    monkeypatch.setattr(hub, "monotonic", look)
    monkeypatch.setattr(tail, "monotonic", look)
    monkeypatch.setattr(hub.Hub, "_run", noted_run)
    monkeypatch.setattr(tail.Tail, "_append", noted_append)
    news = Channels().channel("news", history=5_000)
    async with connected(news.subscribe()) as client:

        def flood() -> None:
            for n in range(3_000):
                news.publish_soon(n)

        thread = threading.Thread(target=flood)
        thread.start()
        thread.join()  # the event loop stands still
        await client.has(*range(3_000))
    assert sum(stretches) == 3_000
    assert 64 <= max(stretches) <= 4 * 64


@asyncio_only
async def test_c10_many_keys_at_once_are_taken_in_in_slices_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look = ticking_clock()
    stretches = [0]

    def counted(function: Any) -> Any:
        def call(*args: Any) -> Any:
            stretches[-1] += 1
            return function(*args)

        return call

    call_soon = hub.Hub._call_soon

    def noted(self: Any, function: Any) -> None:
        def run() -> None:
            stretches.append(0)
            function()

        call_soon(self, run)

    monkeypatch.setattr(hub.Hub, "_call_soon", noted)
    monkeypatch.setattr(hub, "monotonic", look)
    monkeypatch.setattr(tail.Tail, "_append", counted(tail.Tail._append))
    monkeypatch.setattr(tail.Tail, "settle", counted(tail.Tail.settle))
    rooms = Channels().channel("rooms", keyed=True, history=2)
    clients = [Client() for _ in range(40)]
    async with anyio.create_task_group() as tasks:
        for key, client in enumerate(clients):
            tasks.start_soon(client.run, rooms.subscribe(key=key))
            await client.until(lambda client=client: client.bodies)
        stretches.append(0)
        for n in range(5):
            for key in range(40):
                await rooms.publish(n, key=key)
            for client in clients:
                await client.has(*range(n + 1))
        tails = list(rooms._broker.histories.values())
        assert len(tails) == 40
        await turns()
        for client in clients:
            client.disconnect()
    assert sum(stretches) >= 40 * 5 * 2
    assert max(stretches) <= 4


@pytest.mark.virtual_time
async def test_c10_nothing_waits_for_a_timer() -> None:
    news = Channels().channel("news")
    async with connected(news.subscribe()) as client:
        for n in range(100):
            now = anyio.current_time()
            await news.publish(n)
            while len(client.data) <= n:
                await anyio.lowlevel.checkpoint()
            assert anyio.current_time() == now


@pytest.mark.parametrize("size", [10, 100_000])
async def test_c9_a_flood_within_one_turn_reaches_those_who_keep_up_or_is_a_gap_that_is_exact(
    size: int,
) -> None:
    news = Channels().channel("news", history=100, history_bytes=2**20)
    async with connected(news.subscribe()) as client:
        for n in range(1_000 if size == 10 else 50):
            news.publish_soon([n, "x" * size])
        last = await news.publish("last")
        await client.until(lambda: "last" in client.data)
        missed = sum(each.data["missed"] for each in client.said)
        assert len(client.data) + missed == offset_of(last)
        assert [each.data["reason"] for each in client.said] == (["overflow"] if missed else [])
        assert bool(missed) == (size == 100_000)


# C9: bursts of more than `history_bytes`


async def _publish_each(channel: Any, items: list[Any]) -> None:
    for item in items:
        await channel.publish(item)


async def _publish_at_once(channel: Any, items: list[Any]) -> None:
    await channel.publish_many(items)


async def _publish_soon(channel: Any, items: list[Any]) -> None:
    for item in items:
        channel.publish_soon(item)


@pytest.mark.parametrize("publish", [_publish_each, _publish_at_once, _publish_soon])
@pytest.mark.parametrize("count", [200, 600])
async def test_c9_a_burst_beyond_history_bytes_reaches_all_who_keep_up(
    place: Place, publish: Any, count: int
) -> None:
    async with place.channels() as channels:
        prices = channels.channel("prices", history=100, history_bytes=65_536)
        read: list[Any] = []

        async def listen() -> None:
            async with prices.listen() as events:
                listening.set()
                async for event in events:
                    read.append(event.event or event.data[0])
                    if len(read) == count:
                        return

        listening = anyio.Event()
        async with connected(prices.subscribe()) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await listening.wait()
            await publish(prices, [[n, "x" * 1_000] for n in range(count)])
            await client.until(lambda: b"[%d," % (count - 1) in client.body)
            assert client.said == []
            assert [n for n, _ in client.data] == list(range(count))
        assert read == list(range(count))
        # Nothing more than that is kept once all have it.
        async with connected(prices.subscribe(start="earliest")) as late:
            await late.until(lambda: late.data)
            assert len(late.data) <= 65


async def test_c9_after_a_burst_the_ring_is_within_history_bytes_again(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        prices = channels.channel("prices", history_bytes=65_536)
        async with connected(prices.subscribe()) as client:
            await prices.publish_many(["x" * 1_000] * 600)
            await client.until(lambda: client.body.count(b"data: ") == 600)
            await turns()
            [hub_] = channels._hubs._by_loop.values()
            [tail_] = hub_._tails.values()
            assert len(tail_.ring) <= 65


async def test_c9_a_client_that_stalls_holds_back_no_more_than_history_bytes(
    make_channels: MakeChannels,
) -> None:
    async with make_channels() as channels:
        prices = channels.channel("prices", history_bytes=65_536)
        async with connected(prices.subscribe()) as client:
            client.stall()
            await prices.publish("first")
            await client.until(lambda: client.stalled)
            await prices.publish_many(["x" * 1_000] * 600)
            await turns()
            client.unstall()
            await client.until(lambda: client.said)
            [gap] = client.said
            assert gap.data["missed"] >= 530


async def test_c9_a_burst_of_ephemeral_events_beyond_history_bytes_reaches_all_who_keep_up(
    place: Place,
) -> None:
    async with place.channels() as channels:
        cursors = channels.channel("cursors", ephemeral=True, history_bytes=65_536)
        async with connected(cursors.subscribe()) as client:
            for count in (600, 10):
                for n in range(count):
                    await cursors.publish([n, "x" * 1_000])
            await cursors.publish(["last", ""])
            await client.until(lambda: b"last" in client.body)
            assert [n for n, _ in client.data] == [*range(600), *range(10), "last"]
