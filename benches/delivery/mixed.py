"""How long plain requests take beside many streams with an event a second."""

from __future__ import annotations

import selectors
import socket
import time
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack, closing
from functools import partial
from statistics import quantiles

from benches.harness.servers import Server, read_events, request, uvicorn
from benches.harness.timing import Table, in_turns

from .streams import APP

STREAMS = 2_000
CASE = f"{STREAMS:,} streams"
CONTENDERS = ("none", "hand", "sserpent", "sse-starlette", "fastapi")
# Plain requests in a second, at even distances, whether or not earlier ones have been answered.
RATE = 200
SECONDS = 6
PERCENTILES = (50, 95, 99)


def name_of_table(percentile: int) -> str:
    return f"uvicorn, plain requests beside {STREAMS:,} streams of an event a second, p{percentile}"


def run(quick: bool) -> Iterable[Table]:
    if quick:
        return []
    tables = [Table(name_of_table(each), "ms") for each in PERCENTILES]
    in_turns(tables, {(CASE, name): partial(latencies, name) for name in CONTENDERS}, rounds=1)
    return tables


def latencies(name: str) -> list[float]:
    """The percentiles of the plain requests, in milliseconds, on a fresh server."""
    with closing(Server(uvicorn(APP))) as server, ExitStack() as stack:
        streams = [] if name == "none" else ticking(server, f"/{name}/ticking", stack)
        taken = Load(server, streams).run()
    cuts = quantiles(taken, n=100, method="inclusive")
    return [cuts[each - 1] * 1_000 for each in PERCENTILES]


def ticking(server: Server, path: str, stack: ExitStack) -> list[socket.socket]:
    """Opens the streams one after the other over a second, so that they do not tick together."""
    opened = []
    for number in range(STREAMS):
        sock = stack.enter_context(server.connect())
        sock.sendall(request(path))
        opened.append(sock)
        if number % 100 == 99:
            read_events(opened[-100:], 1)
            time.sleep(0.02)
    return opened


class Load:
    """Sends the plain requests and reads everything that comes, in one thread.

    A request is due at its time, and its latency counts from there: a server that falls behind is
    not spared the requests that it keeps waiting.
    """

    def __init__(self, server: Server, streams: list[socket.socket]) -> None:
        self._server = server
        self._selector = selectors.DefaultSelector()
        for sock in streams:
            self._selector.register(sock, selectors.EVENT_READ, "stream")
        self._free: deque[socket.socket] = deque()
        self._due: dict[socket.socket, float] = {}
        self._taken: list[float] = []
        self._events = 0

    def run(self) -> list[float]:
        """Returns the seconds that each request took."""
        with closing(self._selector):
            start = time.monotonic()
            for number in range(RATE * SECONDS):
                due = start + number / RATE
                self._read_until(due)
                self._send(due)
            deadline = time.monotonic() + 30
            while self._due and time.monotonic() < deadline:
                self._read_until(time.monotonic() + 0.01)
            streams = len(self._selector.get_map()) - len(self._free) - len(self._due)
            for sock in (*self._free, *self._due):
                sock.close()
        assert not self._due, "plain requests are not answered"
        assert self._events >= streams * (SECONDS - 1) * 0.5, "the streams do not tick"
        return self._taken

    def _send(self, due: float) -> None:
        if self._free:
            sock = self._free.popleft()
        else:
            sock = self._server.connect()
            self._selector.register(sock, selectors.EVENT_READ, "plain")
        self._due[sock] = due
        sock.sendall(request("/plain"))

    def _read_until(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                received = sock.recv(1 << 16)
                assert received, f"a {key.data} connection broke"
                if key.data == "stream":
                    self._events += received.count(b"data: ")
                elif received.endswith(b"}"):
                    self._taken.append(time.monotonic() - self._due.pop(sock))
                    self._free.append(sock)
