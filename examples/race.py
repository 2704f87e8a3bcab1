"""Counts events per second of `fastapi.sse` and sserpent, each on a server of its own.

The client is a bare socket that counts, so that the server is what is measured.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from urllib.request import urlopen

from serving import Server

import sserpent

MARK = b"data: "


@dataclass(frozen=True)
class Contender:
    name: str
    path: str
    # What SSERPENT_PURE is set to, and what BACKEND has to be then.
    pure: str | None
    backend: str


FASTAPI = Contender("fastapi.sse", "/fastapi", pure="1", backend="python")
PURE = Contender("sserpent, pure Python", "/sserpent", pure="1", backend="python")
RUST = Contender("sserpent, Rust", "/sserpent", pure=None, backend="rust")


def contenders() -> list[Contender]:
    """Those that this installation has."""
    return [FASTAPI, PURE, RUST] if sserpent.BACKEND == "rust" else [FASTAPI, PURE]


@contextmanager
def servers(racing: list[Contender]) -> Iterator[dict[Contender, int]]:
    """A server for each contender, by port; those that wait for their turn are idle."""
    with ExitStack() as stack:
        ports = {}
        for contender in racing:
            server = Server("burst:app", environment={"SSERPENT_PURE": contender.pure})
            ports[contender] = stack.enter_context(server).port
            with urlopen(f"http://127.0.0.1:{ports[contender]}/backend", timeout=10) as answer:
                backend = json.load(answer)
            if backend != contender.backend:
                raise RuntimeError(f"the server of '{contender.name}' runs in {backend}")
        yield ports


def burst(port: int, path: str, count: int) -> float:
    """Events per second of one stream of `count` events, from the request to the last byte."""
    started = time.perf_counter()
    events = max(_counted(port, path, count), default=0)
    seconds = time.perf_counter() - started
    if events != count:
        raise RuntimeError(f"{path} sent {events} of {count} events")
    return count / seconds


def sample(port: int, path: str, seconds: float, every: float) -> Iterator[tuple[float, float]]:
    """Reads an endless stream for a while.

    Yields:
        The seconds since the request, and the events per second since the last time.
    """
    started = last = time.perf_counter()
    counted = 0
    with closing(_counted(port, path, 1_000_000_000)) as counts:
        for events in counts:
            now = time.perf_counter()
            if now - last >= every:
                yield now - started, (events - counted) / (now - last)
                last, counted = now, events
            if now - started >= seconds:
                return
    raise RuntimeError(f"{path} ended after {counted} events")


def _counted(port: int, path: str, count: int) -> Iterator[int]:
    """Requests a stream; yields how many events have come, after each read."""
    request = f"GET {path}?count={count} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    # The mark may be cut in two between reads, so the end of each is kept, too short to hold one.
    kept = len(MARK) - 1
    buffer = bytearray(kept + 262_144)
    room = memoryview(buffer)[kept:]
    events = 0
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(request.encode())
        while received := sock.recv_into(room):
            events += buffer.count(MARK, 0, kept + received)
            buffer[:kept] = buffer[received : kept + received]
            yield events
