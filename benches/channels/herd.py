"""Thousands of clients that come back to one process within five seconds, as after another one was
killed, and that leave it all at once."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import selectors
import socket
import struct
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

from benches.delivery.in_process import NullSend
from benches.harness.callgrind import Counted
from benches.harness.servers import Server, uvicorn
from benches.harness.timing import Table, in_turns

APP = "benches.channels.herd_app:app"
COUNTED = "a client that comes back to a channel and leaves, in process"
CONTENDERS = ("sserpent", "hand", "asgi")
SECONDS = 5
# Seconds after which something is wrong.
TIMEOUT = 90
DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
CLIENTS = 9_000 if DESCRIPTORS in (-1, resource.RLIM_INFINITY) else min(9_000, DESCRIPTORS - 1_000)

COMING = f"{CLIENTS:,} clients reconnect within {SECONDS} s"
GOING = f"{CLIENTS:,} clients leave at once"
BACK = f"channels, {COMING}, until all have an event"
STALL = f"channels, {COMING}, longest stall"
PROCESSOR = f"channels, {COMING}, a connection"
LEAVING = f"channels, {GOING}, longest stall"
LEFT = f"channels, {GOING}, until the last stream has ended"
# The settings of the garbage collector: Python's, and those of docs/production.md.
DEFAULT, FROZEN = "Python's collector", "collector as recommended"
# https://man7.org/linux/man-pages/man7/socket.7.html, SO_LINGER: a reset ends the connection, which
# keeps no port waiting.
NO_LINGER = struct.pack("ii", 1, 0)


def run(quick: bool) -> Iterable[Table]:
    if quick:
        return []
    tables = [
        Table(BACK, "s"),
        Table(STALL, "ms"),
        Table(PROCESSOR, "µs of processor time"),
        Table(LEAVING, "ms"),
        Table(LEFT, "ms"),
    ]
    turns = {
        (case, name): partial(measured, case, name)
        for case in (DEFAULT, FROZEN)
        for name in CONTENDERS
    }
    in_turns(tables, turns, rounds=1)
    return tables


def measured(case: str, name: str) -> list[float]:
    """Sends a herd to a fresh server, and returns a value for each table."""
    environment = {"FROZEN": "1"} if case == FROZEN else {}
    with closing(Server(uvicorn(APP), **environment)) as server:
        herd = Herd(server, f"/{name}", asked(server, "/id"))
        herd.come(10, 0.1)  # the first ones find what the later ones find ready
        asked(server, "/stall")
        before = server.cpu_seconds()
        back = herd.come(CLIENTS, SECONDS)
        connect = (server.cpu_seconds() - before) / CLIENTS * 1e6
        stall = asked(server, "/stall")
        left = herd.leave()
        return [back, stall, connect, asked(server, "/stall"), left * 1e3]


def asked(server: Server, path: str) -> Any:
    with urllib.request.urlopen(server.url + path, timeout=TIMEOUT) as response:
        return json.load(response)


class Herd:
    """Clients on raw sockets, in one thread.

    Each connects at a random time that is chosen before, whether or not earlier ones have been
    answered: a server that falls behind is not spared the others.
    """

    def __init__(self, server: Server, path: str, event_id: str) -> None:
        self._server = server
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {event_id}\r\n\r\n"
        self._request = head.encode()
        self._back: list[socket.socket] = []

    def come(self, count: int, seconds: float) -> float:
        """Returns after how many seconds all of them had their first event."""
        random.seed(1)
        dues = sorted(random.uniform(0, seconds) for _ in range(count))
        expected = len(self._back) + count
        began = time.monotonic()
        with closing(selectors.DefaultSelector()) as selector:
            for due in dues:
                self._go_on(selector, began + due)
                self._connect(selector)
            while len(self._back) < expected:
                assert time.monotonic() < began + TIMEOUT, f"{len(self._back)} of {expected}"
                self._go_on(selector, time.monotonic() + 0.01)
        return time.monotonic() - began

    def _connect(self, selector: selectors.BaseSelector) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        sock.connect_ex(("127.0.0.1", self._server.port))
        selector.register(sock, selectors.EVENT_WRITE, bytearray())

    def _go_on(self, selector: selectors.BaseSelector, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            for key, event in selector.select(left):
                sock: Any = key.fileobj
                if event == selectors.EVENT_WRITE:
                    sock.sendall(self._request)
                    selector.modify(sock, selectors.EVENT_READ, key.data)
                else:
                    self._read(selector, sock, key.data)

    def _read(self, selector: selectors.BaseSelector, sock: Any, received: bytearray) -> None:
        chunk = sock.recv(1 << 16)
        assert chunk, f"a connection broke: {received!r}"
        received += chunk
        if b"data: " in received:
            selector.unregister(sock)
            self._back.append(sock)

    def leave(self) -> float:
        """Returns after how many seconds the server has no stream any more."""
        began = time.monotonic()
        for sock in self._back:
            sock.close()
        self._back.clear()
        asked(self._server, "/empty")
        return time.monotonic() - began


async def come_and_leave(path: str, count: int) -> None:
    """So many clients, each of which leaves when it has its event. Another one stays: the first
    of a channel, and the last, have more to do."""
    from . import herd_app

    await herd_app.begin()

    async def come() -> tuple[NullSend, asyncio.Future[None]]:
        client = NullSend(path, headers=[(b"last-event-id", herd_app.id_before.encode())])
        request = asyncio.ensure_future(client.run(herd_app.app))
        await client.first
        return client, request

    stays = await come()
    for _ in range(count):
        client, request = await come()
        client.disconnect()
        await request
    stays[0].disconnect()
    await stays[1]


def counted() -> Iterator[Counted]:
    for name in CONTENDERS:
        yield Counted(
            COUNTED, name, 20, partial(come_and_leave, f"/{name}"), process=f"{name}, herd"
        )
