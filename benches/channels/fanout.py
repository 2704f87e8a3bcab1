"""One publish for many clients: processor time for each delivery, memory of an idle client, and how
long the event loop stands still."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

from asgi import Connection
from benches.harness.callgrind import Counted
from benches.harness.servers import Server, read_events, request, uvicorn
from benches.harness.timing import Table, Turn, in_turns
from servers import until

APP = "benches.channels.app:app"
CONTENDERS = ("loop", "sserpent", "queues", "hand", "sse-starlette", "fastapi")
SUBSCRIBERS = 1_000
MANY = 8_000
ROUNDS = 10
BURST = 100
WARM_UP = 100
COUNTED = 200

BURSTS = f"channels, {BURST} events at once for {SUBSCRIBERS:,} clients"
IDLE = "channels, memory of an idle client"
STALLS = "channels, longest stall of the event loop, 5,000 clients"
A_BURST = BURSTS, "burst", "sserpent"
AN_IDLE = IDLE, "idle", "sserpent"
A_STALL = STALLS, "5,000", "sserpent"
DELIVERY = f"one publish for {COUNTED} clients, a delivery, in process"


def deliveries_of(count: int) -> tuple[str, str]:
    """The table, and the case in it, of one publish for so many clients."""
    return f"channels, one publish for {count:,} clients", f"{count:,}"


def run(quick: bool) -> Iterable[Table]:
    yield deliveries(SUBSCRIBERS, ("loop", "sserpent", "queues") if quick else CONTENDERS)
    if quick:
        return
    yield deliveries(MANY, ("loop", "sserpent"))
    yield bursts()
    yield idle()
    yield stalls()


def deliveries(count: int, contenders: Iterable[str]) -> Table:
    table = Table(deliveries_of(count)[0], "µs of processor time per delivery")
    with ExitStack() as stack:
        turns = {}
        for name in contenders:
            server = stack.enter_context(closing(Server(uvicorn(APP))))
            socks = subscribed(server, name, count, stack)
            turns[f"{count:,}", name] = partial(delivered, server, name, socks)
        in_turns([table], turns, rounds=3)
    return table


def delivered(
    server: Server, name: str, socks: list[socket.socket], burst: int = 1
) -> tuple[float]:
    """Publishes round after round, each once the one before has arrived everywhere."""
    rounds = ROUNDS if burst == 1 else 1
    before = server.cpu_seconds()
    for _ in range(rounds):
        server.post(f"/{name}?count={burst}")
        read_events(socks, burst)
    return ((server.cpu_seconds() - before) / (rounds * burst * len(socks)) * 1e6,)


def bursts() -> Table:
    table = Table(BURSTS, "µs of processor time per delivery")
    with ExitStack() as stack:
        turns: dict[tuple[str, str], Turn] = {}
        for name in CONTENDERS:
            server = stack.enter_context(closing(Server(uvicorn(APP))))
            socks = subscribed(server, name, SUBSCRIBERS, stack)
            turns["burst", name] = partial(delivered, server, name, socks, BURST)
        in_turns([table], turns, rounds=2)
    return table


def idle() -> Table:
    table = Table(IDLE, "KiB")

    def measured(name: str) -> tuple[float]:
        with closing(Server(uvicorn(APP))) as server, ExitStack() as stack:
            subscribed(server, name, WARM_UP, stack)
            before = server.memory()
            subscribed(server, name, SUBSCRIBERS, stack)
            return ((server.memory() - before) / SUBSCRIBERS / 1024,)

    turns: dict[tuple[str, str], Turn] = {
        ("idle", name): partial(measured, name) for name in CONTENDERS
    }
    in_turns([table], turns, rounds=2)
    return table


def stalls() -> Table:
    table = Table(STALLS, "ms")
    with ExitStack() as stack:
        turns = {}
        for name in ("loop", "sserpent"):
            server = stack.enter_context(closing(Server(uvicorn(APP))))
            socks = subscribed(server, name, 5_000, stack)
            turns["5,000", name] = partial(stalled, server, name, socks)
        in_turns([table], turns, rounds=4)
    return table


def stalled(server: Server, name: str, socks: list[socket.socket]) -> tuple[float]:
    asked = urllib.request.Request(f"{server.url}/{name}/stall", b"", method="POST")
    with urllib.request.urlopen(asked) as response:
        longest = float(json.load(response))
    read_events(socks, 1)
    return (longest,)


def subscribed(server: Server, name: str, count: int, stack: ExitStack) -> list[socket.socket]:
    """Clients that are subscribed to a contender, and have read its headers."""
    before = reached(server, name) or 0
    socks = []
    for _ in range(count):
        socks.append(stack.enter_context(server.connect()))
        socks[-1].sendall(request(f"/{name}"))
        head = b""
        while b"\r\n\r\n" not in head:
            head += socks[-1].recv(1 << 16)
        assert b" 200 " in head.split(b"\r\n")[0], head
    until(lambda: reached(server, name) in (None, before + count))
    return socks


def reached(server: Server, name: str) -> int | None:
    with urllib.request.urlopen(f"{server.url}/{name}/subscribers") as response:
        found: int | None = json.load(response)
    return found


class Client(Connection):
    """Counts what it is sent, for nobody to read."""

    sent = 0

    async def send(self, message: Any) -> None:
        Client.sent += 1


async def deliver(name: str, count: int) -> None:
    """So many deliveries, without a server."""
    from .app import app, publish

    Client.sent = 0
    clients = [Client(f"/{name}", headers=[(b"host", b"localhost")]) for _ in range(COUNTED)]
    requests = [asyncio.ensure_future(client.run(app)) for client in clients]
    wanted = 2 * COUNTED  # headers, and a first block
    while Client.sent < wanted:  # noqa: ASYNC110, an event would be counted
        await asyncio.sleep(0)
    for _ in range(count // COUNTED):
        wanted += COUNTED
        await publish(name)
        while Client.sent < wanted:  # noqa: ASYNC110
            await asyncio.sleep(0)
    for each in requests:
        each.cancel()
    await asyncio.wait(requests)


def counted() -> Iterator[Counted]:
    for name in ("sserpent", "loop"):
        yield Counted(
            DELIVERY, name, 20 * COUNTED, partial(deliver, name), process=f"delivery by {name}"
        )
