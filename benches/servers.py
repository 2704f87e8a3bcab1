"""Servers in processes of their own, and a client on raw sockets that only counts."""

from __future__ import annotations

import os
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from .measure import pin

ROOT = Path(__file__).parent.parent
MARK = b"data: "  # in each event once
END = b"0\r\n\r\n"  # of a chunked body

# A connection may lie idle for longer than uvicorn's 5 seconds while other contenders stream.
UVICORN = (
    "uvicorn benches.app:app --interface asgi3 --host 127.0.0.1 --port {port} --loop uvloop"
    " --http httptools --log-level warning --no-access-log --backlog 4096"
    " --timeout-keep-alive 600"
)
GRANIAN = (
    "granian --interface asgi benches.app:app --host 127.0.0.1 --port {port} --loop uvloop"
    " --workers 1 --runtime-threads 1 --backlog 4096 --no-ws --log-level warning"
)


def allow_many_files() -> None:
    """As many connections as the system lets us have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Server:
    """A running server on a core of its own.

    Args:
        command: A Python module and its arguments, or an absolute path and its arguments, with
            `{port}` in place of the port.
        core: The processor core to stay on; None for any.
    """

    def __init__(self, command: str, core: int | None, **environment: str) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port: int = sock.getsockname()[1]
        parts = command.format(port=self.port).split()
        if not parts[0].startswith("/"):
            parts = [sys.executable, "-m", *parts]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            parts,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: (pin(core), allow_many_files()),
        )
        self._wait_until_it_listens()

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{self.log()}")
            try:
                self.connect().close()
            except OSError:
                time.sleep(0.02)
            else:
                return

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def post(self, path: str) -> None:
        with self.connect() as sock:
            sock.sendall(request(path, method="POST", close=True))
            answer = read_all(sock)
        assert answer.startswith(b"HTTP/1.1 200 "), answer

    def _processes(self) -> list[psutil.Process]:
        process = psutil.Process(self._process.pid)
        return [process, *process.children(recursive=True)]

    def memory(self) -> int:
        """The resident memory, in bytes."""
        return sum(process.memory_info().rss for process in self._processes())

    def cpu_seconds(self) -> float:
        """The processor time used so far; where Linux counts it in nanoseconds, exactly."""
        total = 0.0
        for process in self._processes():
            threads = Path(f"/proc/{process.pid}/task")
            if (threads / str(process.pid) / "schedstat").exists():
                for thread in threads.iterdir():
                    total += int((thread / "schedstat").read_text().split()[0]) / 1e9
            else:
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def close(self) -> None:
        # FastAPI's streams keep uvicorn from ending, so the servers are not asked politely.
        for process in self._processes():
            process.kill()
        self._process.wait()
        self._log.close()


@contextmanager
def serving(command: str, core: int | None, **environment: str) -> Iterator[Server]:
    server = Server(command, core, **environment)
    try:
        yield server
    finally:
        server.close()


def request(path: str, *, method: str = "GET", close: bool = False) -> bytes:
    connection = "close" if close else "keep-alive"
    length = "Content-Length: 0\r\n" if method == "POST" else ""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}Connection: {connection}\r\n\r\n"
    )
    return head.encode()


def read_all(sock: socket.socket) -> bytes:
    chunks = []
    while chunk := sock.recv(1 << 20):
        chunks.append(chunk)
    return b"".join(chunks)


class Counter:
    """Counts a stream's events as its bytes arrive, at the price of one pass over them."""

    def __init__(self) -> None:
        self.events = 0
        self.size = 0
        self.tail = b""

    def add(self, buffer: bytearray, size: int) -> None:
        self.size += size
        self.events += buffer.count(MARK, 0, size)
        # A mark may lie across the border of two reads.
        overlap = len(MARK) - 1
        self.events += (self.tail[-overlap:] + buffer[: min(size, overlap)]).count(MARK)
        self.tail = (self.tail + buffer[max(0, size - overlap) : size])[-overlap:]

    @property
    def ended(self) -> bool:
        return self.tail == END


_buffer = bytearray(1 << 20)


def stream(sock: socket.socket, path: str, count: int) -> float:
    """Seconds from the request to the end of a stream, which must have `count` events. The
    connection stays usable."""
    counter = Counter()
    started = time.perf_counter()
    sock.sendall(request(path))
    while not counter.ended:
        size = sock.recv_into(_buffer)
        if not size:
            raise RuntimeError(f"{path}: the connection broke after {counter.events} events")
        counter.add(_buffer, size)
    taken = time.perf_counter() - started
    if counter.events != count:
        raise RuntimeError(f"{path}: {counter.events} events instead of {count}")
    return taken


def body(server: Server, path: str) -> bytes:
    """A stream's whole content, out of its chunks."""
    with server.connect() as sock:
        sock.sendall(request(path, close=True))
        head, _, rest = read_all(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    assert b"text/event-stream" in head.lower(), head
    content = []
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            assert rest == b"\r\n"
            return b"".join(content)
        content.append(rest[:length])
        rest = rest[length + 2 :]


def first_event(sock: socket.socket) -> None:
    """Reads until the first event has arrived whole."""
    received = b""
    while (
        b"\n\n" not in received.partition(MARK)[2]
        and b"\r\n\r\n" not in received.partition(MARK)[2]
    ):
        chunk = sock.recv(1 << 16)
        if not chunk:
            raise RuntimeError(f"the connection broke before the first event: {received!r}")
        received += chunk


def read_events(socks: Sequence[socket.socket], count: int) -> None:
    """Reads from many streams until each has had `count` further events."""
    counters = {sock: Counter() for sock in socks}
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            selector.register(sock, selectors.EVENT_READ)
        waiting = len(counters)
        while waiting:
            ready = selector.select(timeout=60)
            if not ready:
                raise RuntimeError("the streams do not go on")
            for key, _ in ready:
                size = key.fileobj.recv_into(_buffer)
                counter = counters[key.fileobj]
                counter.add(_buffer, size)
                if not size or counter.events > count:
                    raise RuntimeError(f"a stream has {counter.events} events, not {count}")
                if counter.events == count:
                    selector.unregister(key.fileobj)
                    waiting -= 1
