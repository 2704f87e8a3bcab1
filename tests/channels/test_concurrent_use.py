"""Calls of channels from within their own callbacks, finalizers, threads and forks."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from fastapi import HTTPException

from channel_clients import Client, connected, offset_of
from event_loops import asyncio_only
from sserpent.channels import Channels, ChannelsClosed
from sserpent.channels.history.position import HistoryKey
from sserpent.channels.redis.names import name_of

pytestmark = pytest.mark.anyio


async def test_a_subscription_that_is_returned_twice_serves_both() -> None:
    channels = Channels()
    news = channels.channel("news")
    subscription = news.subscribe()
    async with connected(subscription) as one, connected(subscription) as two:
        await news.publish(1)
        for client in (one, two):
            await client.has(1)
    assert channels._hubs._by_loop == {}


async def test_a_filter_that_publishes() -> None:
    news = Channels().channel("news")

    def publish_more(event: Any) -> bool:
        if event.data < 10:
            news.publish_soon(event.data + 1)
        return True

    async with connected(news.subscribe(filter=publish_more)) as client:
        await news.publish(0)
        await client.has(*range(11))


async def test_channels_that_are_closed_during_publishing_and_subscribing() -> None:
    channels = Channels()
    news = channels.channel("news")
    published: list[str] = []
    statuses: list[int] = []

    async def publish() -> None:
        while True:
            try:
                published.append(await news.publish(len(published)))
            except RuntimeError:
                break
            await anyio.lowlevel.checkpoint()

    async def read() -> None:
        client = Client()
        await client.run(news.subscribe(start="earliest"))
        statuses.append(client.status)
        assert client.data == list(range(len(client.data)))
        assert client.stream.retry is not None

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            for _ in range(20):
                tasks.start_soon(read)
                await anyio.lowlevel.checkpoint()
            await channels.aclose()
            for _ in range(5):
                tasks.start_soon(read)
    assert statuses == [200] * 25
    assert channels._hubs._by_loop == {}


async def test_channels_that_are_entered_again_while_an_old_subscriber_is_left() -> None:
    channels = Channels()
    news = channels.channel("news")
    async with connected(news.subscribe()) as old:
        old.stall()
        async with channels:
            await news.publish("before")
        async with channels, connected(news.subscribe()) as new:
            await news.publish("after")
            await new.has("after")
            await channels.disconnect(owner="nobody")
            old.unstall()
            await old.until(lambda: old.complete)
            assert old.data == ["before"]
            await news.publish("later")
            await new.has("after", "later")


async def test_what_strangers_send_is_not_kept() -> None:
    """Ids of runs, last event ids and keys come from URLs and headers."""

    channels = Channels()
    runs, rooms = channels.runs("answers"), channels.channel("rooms", keyed=True)
    news = channels.channel("news", history=1)

    async def ask(number: int) -> None:
        text = f"{number:03}" * 3_000
        for run_id in (text, text[:100]):
            with suppress(HTTPException):
                await runs.follow(run_id, after=text)
        with suppress(ValueError):
            rooms.subscribe(key=text)
        for key in (text[:500], str(number)):
            async with connected(rooms.subscribe(key=key, after=text)):
                pass
        await news.publish(number, event=text, conflate=text[:500])

    await ask(0)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(1, 200):
            await ask(number)
        async with connected(news.subscribe(after="x" * 10**6)):
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 500_000


def test_the_names_that_keys_have_in_redis_are_not_kept() -> None:
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(1_000):
            name_of("sserpent", 0, HistoryKey("rooms", f"{number:0500}"))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000


async def test_a_listener_that_was_made_long_ago_is_of_these_channels() -> None:
    channels = Channels()
    news = channels.channel("news")
    listener = news.listen()
    async with connected(news.subscribe()):
        pass
    async with connected(news.subscribe()) as client, listener as events:
        await news.publish(1)
        await client.has(1)
        await channels.aclose()
        with anyio.fail_after(20):
            assert [event.data async for event in events] == [1]


@contextmanager
def finalizers(publish: Callable[[], Any]) -> Iterator[Callable[[int], None]]:
    """Has a finalizer call `publish` in the middle of what follows: after so many further objects,
    which is where the garbage collector runs. All have run at the end."""

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            publish()

    def next_after(objects: int) -> None:
        Cycle()
        gc.set_threshold(objects)

    thresholds = gc.get_threshold()
    try:
        yield next_after
    finally:
        gc.set_threshold(*thresholds)
        gc.collect()


def test_a_finalizer_that_publishes_while_an_event_is_published() -> None:
    """At every place where the garbage collector can run."""
    news = Channels().channel("news", history=100_000)
    futures: list[Any] = []
    own = []
    with finalizers(lambda: futures.append(news.publish_soon("finalizer"))) as finalize_after:
        for n in range(300):
            finalize_after(1 + n % 30)
            own.append(news.publish_soon(n).result())
    ids = own + [each.result(timeout=0) for each in futures]
    assert len(futures) == 300
    assert sorted(map(offset_of, ids)) == list(range(1, 601))


async def test_a_finalizer_that_publishes_while_others_are_subscribed() -> None:
    news = Channels().channel("news", history=100_000)
    futures: list[Any] = []
    async with connected(news.subscribe()) as client:
        with finalizers(lambda: futures.append(news.publish_soon("finalizer"))) as finalize_after:
            for n in range(100):
                finalize_after(1 + n % 20)
                await news.publish(n)
        await client.until(lambda: len(client.data) == 100 + len(futures))
        assert [offset_of(each.id) for each in client.seen] == list(range(1, 201))
        assert [each for each in client.data if each != "finalizer"] == list(range(100))


@asyncio_only
async def test_an_exception_in_one_flush_leaves_nobody_waiting() -> None:
    """A filter may raise what no stream catches."""

    class Fatal(BaseException):
        pass

    def fail(event: Any) -> bool:
        raise Fatal

    import asyncio

    caught: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: caught.append(context))
    news = Channels().channel("news")
    async with (
        connected(news.subscribe(filter=fail)),
        connected(news.subscribe()) as one,
        connected(news.subscribe()) as two,
    ):
        await news.publish(1)
        for client in (one, two):
            await client.has(1)
        assert len(caught) == 1


def output_of(script: str) -> str:
    """Runs a script to its end. That a process with threads forks is not complained of."""
    command = [sys.executable, "-W", "ignore", "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


FORK = """
import os, sys, threading
from sserpent.channels import Channels
channels = Channels()
news = channels.channel("news")
before = news.publish_soon("before").result()
held, done = threading.Event(), threading.Event()
def hold():
    with channels._broker.lock:
        held.set()
        done.wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
read, write = os.pipe()
if os.fork() == 0:
    # What the other thread held is held for ever here, if it is held.
    os.write(write, news.publish_soon("in the child").result().encode())
    os._exit(0)
os.close(write)
done.set()
after = news.publish_soon("in the parent").result()
child = os.read(read, 1000).decode()
os.wait()
print(before, after, child)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_is_forked_has_histories_of_its_own() -> None:
    before, after, child = output_of(FORK).split()
    assert before.split("-")[0] == after.split("-")[0]
    assert child.split("-")[0] != after.split("-")[0]


FORK_IN_FIRST_USE = """
import os, signal, sys, threading
import sserpent
from types import ModuleType
from sserpent._core import treatment
from sserpent.channels import Channels

held, done = threading.Event(), threading.Event()

class Slow(ModuleType):
    def __getattr__(self, name):
        if threading.current_thread() is not threading.main_thread():
            held.set()
            done.wait()
        return getattr(treatment, name)

sys.modules[treatment.__name__] = Slow(treatment.__name__)
news = Channels().channel("news")
thread = threading.Thread(target=lambda: news.publish_soon("first").result())
thread.start()
held.wait(None if sserpent.BACKEND == "rust" else 0)
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    news.publish_soon("in the child").result()
    os._exit(0)
status = os.waitpid(pid, 0)[1]
done.set()
thread.join()
raise SystemExit(status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_is_forked_while_the_first_event_is_encoded_encodes_its_own() -> None:
    """The core holds no lock while it makes what it keeps. The child would wait for ever for the
    thread that holds it, which it does not have."""
    output_of(FORK_IN_FIRST_USE)


FIRST_PUBLISH = """
import sys
from sserpent.channels import Channels
news = Channels().channel("news")
before = set(sys.modules)
news.publish_soon({"text": [1]}).result()
print(*set(sys.modules) - before)
"""


def test_publishing_imports_nothing() -> None:
    """A process that another thread forks meanwhile would wait for the import for ever."""
    assert output_of(FIRST_PUBLISH).split() == []


WITHOUT_TRIO = """
import sys
sys.modules["trio"] = None
from sserpent.channels import Channels
news = Channels().channel("news")
print(news.publish_soon(1).result())
"""


def test_publishing_where_no_event_loop_runs_does_not_need_trio() -> None:
    output_of(WITHOUT_TRIO)


@pytest.mark.parametrize("count", [1, 5])
@asyncio_only
async def test_a_flood_from_a_thread_while_the_event_loop_is_slow(count: int) -> None:
    news = Channels().channel("news", history_bytes=20_000)

    def flood() -> None:
        for n in range(5_000):
            news.publish_soon(n)

    clients = [Client() for _ in range(count)]
    async with anyio.create_task_group() as tasks:
        for client in clients:
            tasks.start_soon(client.run, news.subscribe())
        for client in clients:
            await client.until(lambda client=client: client.started)
        await anyio.to_thread.run_sync(flood)
        for client in clients:
            await client.until(lambda client=client: b"data: 4999\n" in client.bodies[-1])
            expected = 0
            for each in client.seen:
                if each.type == "gap":
                    expected += each.data["missed"]
                else:
                    assert each.data == expected
                    expected += 1
            assert expected == 5_000
            client.disconnect()


@pytest.mark.parametrize("turn", [anyio.lowlevel.checkpoint, None])
async def test_a_publisher_that_never_waits_does_not_keep_the_event_loop(
    turn: Callable[[], Any] | None,
) -> None:
    news = Channels().channel("news", history=100)
    async with connected(news.subscribe()) as client:

        async def publish() -> None:
            for n in range(5_000):
                await news.publish(n)
                if turn is not None and n % 100 == 0:
                    await turn()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            # It is served in between.
            await client.until(lambda: any(b"data: 0\n" in each for each in client.bodies))
            assert b"data: 4999\n" not in client.body
            await client.until(lambda: b"data: 4999\n" in client.bodies[-1])
        missed = sum(each.data["missed"] for each in client.said)
        assert len(client.data) + missed == 5_000


RUNS_AFTER_A_FORK = """
import os, anyio
from sserpent.channels import Channels

channels = Channels()
runs = channels.runs("answers", ttl=0.05, shutdown_grace=0)

async def answer(count):
    yield count
    await anyio.sleep(count)

async def main():
    async with channels:
        for n in range(3):
            run = await runs.start(answer(0))
            assert (await run.wait()).state == "done"
        with anyio.fail_after(20):
            while runs._broker._runs:
                await anyio.sleep(0.01)
        run = await runs.start(answer(1_000))
    assert not runs._local.producers

child = os.fork()
if child == 0:
    status = 1
    try:
        anyio.run(main)
        status = 0
    finally:
        os._exit(status)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_runs_of_a_process_that_is_forked_are_forgotten_after_their_ttl() -> None:
    """As under `gunicorn --preload`, where the application is made before the fork."""
    output_of(RUNS_AFTER_A_FORK)


@pytest.mark.parametrize("how", ["left", "stopped"])
async def test_a_listener_that_has_ended_gives_no_more_events(how: str) -> None:
    channels = Channels()
    news = channels.channel("news", history=3)
    async with news.listen() as events:
        subscriber = events._subscriber
        assert subscriber is not None
        if how == "stopped":
            subscriber.end()
            subscriber.take_events()
            subscriber.reset(subscriber.cursor.tail, "epoch")
            assert not subscriber.pending
    assert not subscriber.pending
    with anyio.fail_after(10):
        assert [event async for event in events] == []


async def test_channels_that_are_closed_say_so_to_whoever_asks() -> None:
    async with Channels() as channels:
        news = channels.channel("news")
        await channels.ready()
        assert await news.subscriber_count() == 0
    for ask in (channels.ready, news.subscriber_count, news.position):
        with pytest.raises(ChannelsClosed):
            await ask()
