"""The servers of the tests on a core of their own, and a client on raw sockets that only counts."""

from __future__ import annotations

import os
import resource
import selectors
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from functools import cache

import psutil

import servers
from benches import ROOT

MARK = b"data: "  # in each event once
END = b"0\r\n\r\n"  # of a chunked body; as long as what `Counter` keeps


def uvicorn(app: str) -> list[str]:
    """The command; a connection may lie idle while other contenders stream."""
    options = "--interface asgi3 --loop uvloop --http httptools --log-level warning"
    options += " --no-access-log --backlog 4096 --timeout-keep-alive 600"
    return servers.uvicorn(app, *options.split())


def granian(app: str) -> list[str]:
    options = "--interface asgi --host 127.0.0.1 --port {port} --loop uvloop --workers 1"
    options += " --runtime-threads 1 --backlog 4096 --no-ws --log-level warning"
    return [sys.executable, "-m", "granian", app, *options.split()]


@cache
def cores() -> tuple[set[int], set[int]]:
    """The processor cores of the servers and of the client; the same where there is but one, or
    where the system does not let us choose."""
    if not hasattr(os, "sched_getaffinity"):
        return set(), set()
    first, *others = sorted(os.sched_getaffinity(0))
    return {first}, set(others[:1]) or {first}


def pin(cores: set[int]) -> None:
    """Keeps this process, and what it starts, on some cores."""
    if cores:
        os.sched_setaffinity(0, cores)


class Server(servers.Server):
    """A running server on a core of its own, whose memory and processor time can be read."""

    # What it has of the memory and the limits of another process would be measured too.
    is_forked = False

    def __init__(self, command: list[str], **environment: str) -> None:
        # As many connections as the system lets us have, here and there.
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        server_cores, client_cores = cores()
        pin(server_cores)
        super().__init__(command, ROOT, **environment)
        pin(client_cores)

    def post(self, path: str) -> None:
        urllib.request.urlopen(self.url + path, data=b"").close()

    def body(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path) as response:
            assert response.headers.get_content_type() == "text/event-stream"
            return bytes(response.read())

    def _processes(self) -> list[psutil.Process]:
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def memory(self) -> int:
        """The resident memory, in bytes."""
        return sum(process.memory_info().rss for process in self._processes())

    def cpu_seconds(self) -> float:
        """The processor time used so far, also by threads that have ended."""
        if sys.platform == "linux":
            # What clock_getcpuclockid(3) returns: in nanoseconds, where psutil has ticks of 10 ms.
            return sum(time.clock_gettime(~each.pid << 3 | 2) for each in self._processes())
        used = [each.cpu_times() for each in self._processes()]
        return sum(each.user + each.system for each in used)

    def close(self) -> None:
        # FastAPI's streams keep uvicorn from ending, so the servers are not asked politely.
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        super().close()


def request(path: str, *, close: bool = False) -> bytes:
    connection = "close" if close else "keep-alive"
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n\r\n".encode()


class Counter:
    """Counts a stream's events as its bytes arrive, at the price of one pass over them."""

    def __init__(self) -> None:
        self.events = 0
        self.tail = b""

    def receive(self, sock: socket.socket) -> None:
        """Waits for the next bytes."""
        received = sock.recv(1 << 20)
        assert received, f"the connection broke after {self.events} events"
        # A mark may lie across the border of two reads; none fits into the tail.
        received = self.tail + received
        self.events += received.count(MARK)
        self.tail = received[1 - len(MARK) :]


def read_stream(sock: socket.socket, path: str, count: int) -> None:
    """Reads a whole stream, which must have `count` events. The connection stays usable."""
    counter = Counter()
    sock.sendall(request(path))
    while counter.tail != END:
        counter.receive(sock)
    assert counter.events == count, f"{path}: {counter.events} events instead of {count}"


def read_events(socks: Sequence[socket.socket], count: int) -> None:
    """Reads from many streams until each has had `count` further events."""
    with closing(selectors.DefaultSelector()) as selector:
        for sock in socks:
            selector.register(sock, selectors.EVENT_READ, Counter())
        while selector.get_map():
            ready = selector.select(timeout=60)
            assert ready, "the streams do not go on"
            for key, _ in ready:
                key.data.receive(key.fileobj)
                assert key.data.events <= count, f"more than {count} events"
                if key.data.events == count:
                    selector.unregister(key.fileobj)
