"""Measures both brokers in one process, without sockets to clients: publishing, the way from there
to a client's `send`, replaying, and following ten thousand keys. Redis takes part where it is
installed."""

from __future__ import annotations

import asyncio
import gc
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from statistics import quantiles
from time import perf_counter, process_time
from typing import Any

import uvloop

from benches.harness.timing import Table, Turn, in_turns
from redis_server import RedisServer
from sserpent.channels import Channels, Subscription

EVENTS = 20_000
REPLAYED = 100_000
KEYS = 10_000
ROUND_TRIPS = 2_000
COMING_BACK = 1_000
SCOPE = {"type": "http", "method": "GET", "path": "/", "headers": []}
LARGE = {"history": REPLAYED, "history_bytes": 2**27}

PUBLISH = "channels, publishing"
REPLAY = "channels, replaying"
LATENCY = "channels, from publish to the client's send"
MANY_KEYS = f"channels, {KEYS:,} keys in one process"
COMMANDS = "channels, what Redis is asked"

MakeChannels = Callable[[], Channels]


def run(quick: bool) -> Iterable[Table]:
    if quick:
        return
    with brokers() as makers:
        yield measured(
            PUBLISH, "µs per event", published, ["1 task", "10 tasks", "100 tasks"], makers
        )
        yield measured(REPLAY, f"µs per event, of {REPLAYED:,}", replayed, ["all"], makers)
        yield latencies(makers)
        if "redis" in makers:
            redis = {"redis": makers["redis"]}
            unit = "µs of processor time per event that comes in"
            yield measured(MANY_KEYS, unit, followed, ["all"], redis)
            yield commands(makers["redis"])


@contextmanager
def brokers() -> Iterator[dict[str, MakeChannels]]:
    if shutil.which("redis-server") is None:
        print("redis-server is not installed: the rows of Redis are missing")
        yield {"memory": Channels}
        return
    with closing(RedisServer()) as server:
        # A busy machine may take longer to subscribe ten thousand than a client is made to wait.
        yield {"memory": Channels, "redis": partial(Channels, server.url, publish_timeout=60)}


def measured(
    name: str,
    unit: str,
    measure: Callable[[MakeChannels, str], Coroutine[Any, Any, float]],
    cases: Iterable[str],
    makers: dict[str, MakeChannels],
) -> Table:
    table = Table(name, unit, minima=True)
    turns: dict[tuple[str, str], Turn] = {
        (case, contender): lambda make=make, case=case: [uvloop.run(measure(make, case))]
        for case in cases
        for contender, make in makers.items()
    }
    in_turns([table], turns, rounds=2)
    return table


async def published(make: MakeChannels, case: str) -> float:
    tasks = int(case.split()[0])
    async with make() as channels:
        news = channels.channel("news")

        async def publish() -> None:
            for _ in range(EVENTS // tasks):
                await news.publish(" token")

        started = perf_counter()
        await asyncio.gather(*[publish() for _ in range(tasks)])
        return (perf_counter() - started) / EVENTS * 1e6


async def replayed(make: MakeChannels, case: str) -> float:
    """From the ring of a process that has it, or from Redis to one that has nothing."""
    async with make() as first:
        news = first.channel("replayed", **LARGE)
        async with following(news.subscribe(start="earliest")):
            await publish_all(news, REPLAYED)
            if make is Channels:
                return await taken_after(news.subscribe(start="earliest"), REPLAYED)
    async with make() as second:
        news = second.channel("replayed", **LARGE)
        return await taken_after(news.subscribe(start="earliest"), REPLAYED)


async def publish_all(channel: Any, count: int) -> None:
    async def publish() -> None:
        for _ in range(count // 100):
            await channel.publish(" token")

    await asyncio.gather(*[publish() for _ in range(100)])


async def taken_after(subscription: Subscription[Any], count: int) -> float:
    started = perf_counter()
    async with following(subscription) as client:
        await client.has(count)
        return (perf_counter() - started) / count * 1e6


class Client:
    """The ASGI side of a client that counts what it is sent."""

    def __init__(self) -> None:
        self.events = 0
        self.sent_at = 0.0
        self._wanted = 0
        self._arrived = asyncio.Event()
        self._gone = asyncio.Event()

    async def send(self, message: Any) -> None:
        self.sent_at = perf_counter()
        self.events += message.get("body", b"").count(b"\ndata: ")
        if self.events >= self._wanted:
            self._arrived.set()

    async def receive(self) -> Any:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def has(self, count: int) -> None:
        self._wanted = count
        if self.events < count:
            self._arrived.clear()
            await self._arrived.wait()

    def leave(self) -> None:
        self._gone.set()


@asynccontextmanager
async def following(subscription: Subscription[Any]) -> AsyncIterator[Client]:
    """A client that has got its headers."""
    client = Client()
    client._arrived.clear()
    task = asyncio.ensure_future(subscription(SCOPE, client.receive, client.send))
    await client._arrived.wait()
    try:
        yield client
    finally:
        client.leave()
        await task


def latencies(makers: dict[str, MakeChannels]) -> Table:
    table = Table(LATENCY, "ms", minima=True)
    for number in range(5):
        for name, make in list(makers.items())[:: -1 if number % 2 else 1]:
            times = uvloop.run(round_trips(make))
            table.add("half of them", name, quantiles(times, n=100)[49] * 1e3)
            table.add("99 %", name, quantiles(times, n=100)[98] * 1e3)
    return table


async def round_trips(make: MakeChannels) -> list[float]:
    times = []
    async with make() as channels:
        news = channels.channel("news")
        async with following(news.subscribe()) as client:
            for number in range(1, ROUND_TRIPS + 1):
                started = perf_counter()
                await news.publish(" token")
                await client.has(number)
                times.append(client.sent_at - started)
    return times


PUBLISHER = """
import asyncio, sys
from sserpent.channels import Channels

async def main():
    async with Channels(sys.argv[1]) as channels:
        news = channels.channel("keyed", keyed=True)
        async def publish(first):
            for key in range(first, int(sys.argv[2]), 100):
                await news.publish(" token", key=str(key))
        for _ in range(3):
            await asyncio.gather(*[publish(first) for first in range(100)])

asyncio.run(main())
"""


async def followed(make: MakeChannels, case: str) -> float:
    """Another process publishes to each key three times."""
    async with make() as channels:
        news = channels.channel("keyed", keyed=True)
        clients: list[Client] = []
        tasks = []
        for key in range(KEYS):
            client = Client()
            subscription = news.subscribe(key=str(key))
            tasks.append(asyncio.ensure_future(subscription(SCOPE, client.receive, client.send)))
            clients.append(client)
        await asyncio.gather(*[client._arrived.wait() for client in clients])
        waiting = [asyncio.ensure_future(client.has(3)) for client in clients]
        await asyncio.sleep(0)
        gc.collect()  # of what ten thousand clients have left behind by coming
        before = process_time()
        publisher = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PUBLISHER,
            make.args[0],
            str(KEYS),  # type: ignore[attr-defined]
        )
        await asyncio.gather(*waiting)
        spent = process_time() - before
        assert await publisher.wait() == 0
        for client in clients:
            client.leave()
        await asyncio.gather(*tasks)
        return spent / (3 * KEYS) * 1e6


def commands(make: MakeChannels) -> Table:
    """How many commands it takes when so many come back with one cursor."""
    table = Table(COMMANDS, "commands that Redis carries out", minima=True)
    for count in (1, COMING_BACK):
        table.add(f"{count:,} that come back", "redis", uvloop.run(asked_by(make, count)))
    return table


async def asked_by(make: MakeChannels, count: int) -> float:
    url = make.args[0]  # type: ignore[attr-defined]
    async with make() as channels:
        news = channels.channel("back")
        cursor = await news.publish(0)
        await publish_all(news, 500)
    async with make() as channels:
        news = channels.channel("back")
        # The connections are there.
        async with following(channels.channel("warm").subscribe()):
            before = commands_of(url)
            clients = [Client() for _ in range(count)]
            tasks = [
                asyncio.ensure_future(news.subscribe(after=cursor)(SCOPE, each.receive, each.send))
                for each in clients
            ]
            await asyncio.gather(*[client.has(500) for client in clients])
            asked = commands_of(url) - before
            for client in clients:
                client.leave()
            await asyncio.gather(*tasks)
    return asked


def commands_of(url: str) -> int:
    """How many commands a server has carried out, but for this one."""
    told = subprocess.run(
        ["redis-cli", "-u", url, "INFO", "commandstats"], capture_output=True, text=True, check=True
    )
    calls = [line for line in told.stdout.splitlines() if "calls=" in line]
    return sum(int(line.split("calls=")[1].split(",")[0]) for line in calls if "_info" not in line)
