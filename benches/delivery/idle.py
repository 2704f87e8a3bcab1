"""What connections cost that wait for events: memory, the way to the first event, keep-alives."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from contextlib import ExitStack, closing, suppress
from functools import partial

from benches.harness.servers import Server, read_events, request, uvicorn
from benches.harness.timing import Table, in_turns

from .streams import APP, CONTENDERS

WARM_UP = 200
STREAMS = 1_000
CASE = f"{STREAMS:,} connections"
PING_INTERVAL = 2
KEEP_ALIVES = 3


def run(quick: bool) -> Iterable[Table]:
    if quick:
        return []
    opened = [
        Table("uvicorn, memory per idle connection", "KiB"),
        Table("uvicorn, connection to first event", "µs of processor time"),
    ]
    contenders = (*CONTENDERS, "asgi")
    in_turns(opened, {(CASE, name): partial(opening, name) for name in contenders}, rounds=2)
    kept = Table("uvicorn, keep-alives", "µs of processor time per keep-alive")
    # Who frames by hand has none.
    contenders = [name for name in CONTENDERS if name != "hand"]
    in_turns([kept], {(CASE, name): partial(keeping_alive, name) for name in contenders}, rounds=1)
    return [*opened, kept]


def serving(name: str, **environment: str) -> tuple[Server, str]:
    """A fresh server, and where the contender's stream is."""
    if name == "sserpent-pure":
        environment["SSERPENT_PURE"] = "1"
    return Server(uvicorn(APP), **environment), f"/{name.removesuffix('-pure')}/idle"


def opening(name: str) -> tuple[float, float]:
    """A connection's memory, and the server's processor time to its first event."""
    server, path = serving(name)
    with closing(server), ExitStack() as stack:
        opened(server, path, WARM_UP, stack)
        memory, cpu = server.memory(), server.cpu_seconds()
        opened(server, path, STREAMS, stack)
        memory, cpu = server.memory() - memory, server.cpu_seconds() - cpu
    return memory / STREAMS / 1024, cpu / STREAMS * 1e6


def keeping_alive(name: str) -> tuple[float]:
    """One in two seconds instead of one in 15, so that there are some to measure."""
    server, path = serving(name, BENCH_PING_INTERVAL=str(PING_INTERVAL))
    with closing(server), ExitStack() as stack:
        socks = opened(server, path, STREAMS, stack)
        began = time.monotonic()
        drain(socks)
        before = server.cpu_seconds()
        time.sleep(PING_INTERVAL * KEEP_ALIVES)
        used = server.cpu_seconds() - before
        sent = [received.count(b": ping") for received in drain(socks)]
        most = (time.monotonic() - began) / PING_INTERVAL + 1
    # A server that is too slow for its keep-alives sends some late, but each stream has some.
    assert min(sent) >= 1, f"{name}: a stream without keep-alives"
    assert max(sent) <= most, f"{name}: {max(sent)} keep-alives in a stream"
    return (used / sum(sent) * 1e6,)


def opened(server: Server, path: str, count: int, stack: ExitStack) -> list[socket.socket]:
    """Streams opened one after the other, each up to its first event."""
    socks = []
    for _ in range(count):
        socks.append(stack.enter_context(server.connect()))
        socks[-1].sendall(request(path))
        read_events(socks[-1:], 1)
    return socks


def drain(socks: list[socket.socket]) -> list[bytes]:
    """Everything that has arrived by now, for each connection."""
    received = [b""] * len(socks)
    for number, sock in enumerate(socks):
        with suppress(BlockingIOError):
            received[number] = sock.recv(1 << 16, socket.MSG_DONTWAIT)
    return received
