"""Nothing is left of a subscription, an event loop, or an `open` that has failed."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import ref

import anyio
import pytest

from channel_clients import Client, connected
from event_loops import asyncio_only
from sserpent.channels import BrokerUnavailable, Channels

pytestmark = pytest.mark.anyio


def leftovers(channels: Channels) -> list[Any]:
    broker: Any = channels._broker
    followers = [each for history in broker.histories.values() for each in history.followers]
    return [*channels._hubs._by_loop, *followers, *channels._hubs.slots._taken]


def several(channels: Channels, news: Any, **options: Any) -> Any:
    return channels.subscribe(news.on(), **options)


def single(channels: Channels, news: Any, **options: Any) -> Any:
    return news.subscribe(**options)


def with_snapshot(channels: Channels, news: Any, **options: Any) -> Any:
    async def state() -> int:
        await asyncio.sleep(0)
        return 1

    return news.subscribe(snapshot=state, **{**options, "start": "live"})


@pytest.mark.parametrize("subscribe", [single, several, with_snapshot])
@pytest.mark.parametrize("leave", ["disconnect", "stall", "cancel", "close", "filter fails"])
def test_nothing_of_a_subscription_waits_for_the_garbage_collector(
    subscribe: Callable[..., Any], leave: str
) -> None:
    async def stream(channels: Channels, news: Any) -> None:
        client = Client()
        subscription = subscribe(
            channels,
            news,
            owner=1,
            start="earliest",
            send_timeout=0.01,
            filter=lambda e: 1 / e.data > 0,
        )

        async def run() -> None:
            with suppress(ZeroDivisionError):
                await client.run(subscription)

        task = asyncio.create_task(run())
        await client.until(lambda: client.data)
        if leave == "disconnect":
            client.disconnect()
        elif leave == "stall":
            client.stall()
            await news.publish(1)
        elif leave == "cancel":
            task.cancel()
        elif leave == "close":
            await channels.disconnect(owner=1)
        else:
            await news.publish(0)
        with suppress(asyncio.CancelledError):
            await task

    async def count() -> int:
        channels = Channels()
        news = channels.channel("news", history=3)

        async def streams(count: int) -> None:
            for _ in range(count):
                await news.publish(1)
                if leave == "filter fails":
                    for _ in range(3):
                        await news.publish(1)
                await stream(channels, news)

        await streams(3)  # what is made once
        gc.collect()
        gc.disable()
        try:
            await streams(10)
            await asyncio.sleep(0.01)
            if subscribe is with_snapshot:  # it is there for others, for a second
                await Client().until(lambda: not leftovers(channels))
            assert leftovers(channels) == []
            return gc.collect()
        finally:
            gc.enable()

    assert asyncio.run(count()) == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_event_loop_that_is_over_is_forgotten(backend: str) -> None:
    channels = Channels()
    news = channels.channel("news")
    references = []

    async def main() -> None:
        from sserpent._runtime.loops import current_token

        references.append(ref(current_token()))
        async with channels, connected(news.subscribe()) as client:
            await news.publish(1)
            await client.has(1)

    for _ in range(3):
        anyio.run(main, backend=backend)
    gc.collect()
    assert [each() for each in references] == [None] * 3


def test_an_event_loop_that_stops_in_the_middle_of_a_stream_does_not_hold_memory() -> None:
    """A publisher goes on in another thread; what waits for that event loop is bounded."""
    channels = Channels()
    news = channels.channel("news", history_bytes=10_000)
    loop = asyncio.new_event_loop()
    client = Client()
    task = loop.create_task(client.run(news.subscribe()))
    loop.run_until_complete(client.until(lambda: client.started))
    broker: Any = channels._broker
    [tail] = next(iter(broker.histories.values())).followers

    def publish(count: int) -> None:
        for n in range(count):
            news.publish_soon([n, "x" * 1_000])

    thread = threading.Thread(target=publish, args=[5_000])
    thread.start()
    thread.join()
    # The event loop does not turn: only so much waits for it, and its client is told of the rest.
    assert len(tail._incoming) < 1_100
    loop.run_until_complete(client.until(lambda: b"[4999," in client.body))
    assert len(client.data) + sum(each.data["missed"] for each in client.said) == 5_000
    task.cancel()
    with suppress(asyncio.CancelledError):
        loop.run_until_complete(task)

    abandoned = Client()
    other = asyncio.new_event_loop()
    task = other.create_task(abandoned.run(news.subscribe()))
    other.run_until_complete(abandoned.until(lambda: abandoned.started))
    [tail] = next(iter(broker.histories.values())).followers
    other.close()
    publish(1_000)
    assert next(iter(broker.histories.values())).followers == ()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()


@pytest.mark.parametrize("error", [LookupError, BrokerUnavailable, asyncio.CancelledError])
@pytest.mark.parametrize("at", ["follow", "read"])
@asyncio_only
async def test_an_open_that_fails_leaves_no_follower(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException], at: str
) -> None:
    channels = Channels(max_subscribers=5)
    a, b = channels.channel("a"), channels.channel("b")
    await a.publish(1)
    await b.publish(1)
    broker: Any = channels._broker
    original, calls = getattr(broker, at), 0

    async def fail(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise error
        return await original(*arguments)

    monkeypatch.setattr(broker, at, fail)
    client = Client()
    subscription = channels.subscribe(a.on(), b.on(), start="earliest")
    if error is BrokerUnavailable:
        await client.run(subscription)
        assert client.status == 200
        assert client.stream.retry is not None
    else:
        with pytest.raises(error):
            await client.run(subscription)
        assert not client.started
    assert leftovers(channels) == []


async def test_a_client_that_leaves_during_open_leaves_nothing() -> None:
    channels = Channels()
    news = channels.channel("news")
    client = Client()
    client.disconnect()
    with anyio.fail_after(20):
        await client.run(news.subscribe())
    assert leftovers(channels) == []


class Message(dict[str, Any]):
    """A message that can be referred to weakly."""


@asyncio_only
async def test_an_idle_subscriber_keeps_few_objects_and_no_message_of_its_request() -> None:
    count = 50
    news = Channels().channel("news")
    left, messages = asyncio.Event(), list[ref[Message]]()
    waiting = 0

    def receive() -> Callable[[], Any]:
        has_body = True

        async def receive() -> Any:
            nonlocal has_body, waiting
            if has_body:
                has_body = False
                message = Message(type="http.request", body=b"", more_body=False)
                messages.append(ref(message))
                return message
            waiting += 1
            await left.wait()
            return {"type": "http.disconnect"}

        return receive

    async def send(message: Any) -> None:
        pass

    async def subscribe() -> list[asyncio.Task[None]]:
        nonlocal waiting
        waiting = 0
        tasks = [
            asyncio.create_task(news.subscribe()({**scope}, receive(), send)) for _ in range(count)
        ]
        while waiting < count:
            await asyncio.sleep(0)
        return tasks

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    tasks = await subscribe()
    gc.collect()
    before = len(gc.get_objects())
    tasks += await subscribe()
    gc.collect()
    kept = (len(gc.get_objects()) - before) / count
    assert [message() for message in messages] == [None] * (2 * count)
    left.set()
    await asyncio.gather(*tasks)
    # Of those that every full collection goes through, the test's own among them: the task, the
    # scope, `receive` and what that waits for.
    assert kept <= 38, kept
