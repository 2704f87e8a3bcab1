"""The cost of snapshots, on one event loop, without a server: `python -m
benches.channels.snapshots`.

Each figure is a ratio in one run, or a number of calls.
"""

from __future__ import annotations

import asyncio
import statistics
import tracemalloc
from time import perf_counter, process_time
from typing import Any

from fastapi import FastAPI

from sserpent.channels import Channels

STATE = {f"figure {n}": "x" * 30 for n in range(1_000)}  # about 40 KB


GET = {
    "type": "http",
    "method": "GET",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "headers": [],
    "root_path": "",
    "scheme": "http",
    "server": ("bench", 80),
}


class Client:
    """A client that reads at once."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.gone = asyncio.Event()
        self.first = asyncio.Event()
        self.waited = 0.0

    async def receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message.get("body"):
            self.sent.append(message["body"])
            self.first.set()

    async def run(self, subscription: Any) -> None:
        began = perf_counter()
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        task = asyncio.create_task(subscription(scope, self.receive, self.send))
        await self.first.wait()
        self.waited = perf_counter() - began
        await task


async def leave(clients: list[Client], tasks: list[Any]) -> None:
    for client in clients:
        client.gone.set()
    await asyncio.gather(*tasks)


async def waiting() -> None:
    """1,000 clients come within 4 s, and the function takes 50 ms."""
    board = Channels().channel("board")
    calls = 0

    async def state() -> Any:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.05)
        return STATE

    clients, tasks = [Client() for _ in range(1_000)], []
    for client in clients:
        tasks.append(asyncio.create_task(client.run(board.subscribe(snapshot=state))))
        await asyncio.sleep(0.004)
    await asyncio.gather(*[client.first.wait() for client in clients])
    waited = [client.waited * 1_000 for client in clients]
    p50, longest = statistics.median(waited), max(waited)
    print(f"waiting: p50 {p50:.2f} ms, longest {longest:.0f} ms; {calls} calls")
    await leave(clients, tasks)


async def deliver(count: int, rounds: int, **options: Any) -> float:
    channels = Channels()
    board = channels.channel("board")
    clients = [Client() for _ in range(count)]
    tasks = [asyncio.create_task(each.run(board.subscribe(**options))) for each in clients]
    await asyncio.sleep(0.5)
    began = process_time()
    last = clients[-1]
    for n in range(rounds):
        before = [len(last.sent), len(clients[0].sent)]
        await board.publish(n)
        while before[0] == len(last.sent) or before[1] == len(clients[0].sent):  # noqa: ASYNC110
            await asyncio.sleep(0)
    seconds = process_time() - began
    for client in clients:
        client.first.set()
    await leave(clients, tasks)
    return seconds / (count * rounds) * 1e6


async def delivery() -> None:
    """One event for each of 1,000 clients, with a snapshot before it and without."""
    ratios = []
    for _ in range(5):
        without = await deliver(1_000, 100)
        ratios.append(await deliver(1_000, 100, snapshot=lambda: 1) / without)
    print(f"delivery: {statistics.median(ratios):.3f} of that without a snapshot")


async def memory_of(count: int, **options: Any) -> float:
    board = Channels().channel("board")
    clients: list[Client] = [Client() for _ in range(count)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tasks = [asyncio.create_task(each.run(board.subscribe(**options))) for each in clients]
    await asyncio.sleep(3)
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    for client in clients:
        client.first.set()
    await leave(clients, tasks)
    return held / count / 1024


def state_of_all() -> int:
    return 1


async def idle() -> None:
    without = await memory_of(1_000)
    more = await memory_of(1_000, snapshot=state_of_all) - without
    print(f"idle: {without:.2f} KiB of Python, and {more:.2f} KiB more with a snapshot")


async def reconnect() -> None:
    """500 clients come back to a history that has begun anew: with a snapshot, or with a `reset`
    and a GET of the state by each, which a FastAPI route answers."""
    app = FastAPI()

    @app.get("/")
    async def read() -> dict[str, str]:
        return STATE

    board = Channels().channel("board")
    calls = 0

    def state() -> Any:
        nonlocal calls
        calls += 1
        return STATE

    seconds = []
    both: list[dict[str, Any]] = [{"snapshot": state}, {}]
    for options in both:
        clients, began = [Client() for _ in range(500)], process_time()
        tasks = [
            asyncio.create_task(each.run(board.subscribe(after="feed-1-1", **options)))
            for each in clients
        ]
        await asyncio.gather(*[client.first.wait() for client in clients])
        if not options:
            for client in clients:
                await app(GET, client.receive, client.send)
        seconds.append(process_time() - began)
        await leave(clients, tasks)
    print(f"reconnect: {seconds[0] / seconds[1]:.2f} of the time of a reset and the state for each")


async def main() -> None:
    await waiting()
    await delivery()
    await idle()
    await reconnect()


if __name__ == "__main__":
    asyncio.run(main())
