"""Compressed streams: processor time for each delivery, bytes on the wire, and memory of a client.

The contenders are a plain stream, one that sserpent compresses, and the same plain stream behind
`starlette-compress`, which has a compressor for each client.
"""

from __future__ import annotations

import selectors
import socket
import urllib.request
import zlib
from collections.abc import Iterable
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

from benches.harness.servers import Server, uvicorn
from benches.harness.timing import Table, Turn, in_turns
from servers import until

APP = "benches.channels.compressed_app:app"
CONTENDERS = ("plain", "sserpent", "starlette-compress")
CLIENTS = 1_000
GENERATORS = 600
CASES = {"JSON of 150 B": (50, 1), "HTML of 4 KB": (25, 1), "JSON, 100 at once": (4, 100)}
GENERATOR = "LLM chunks, a generator for each client"
MARK = b"data: "

TIME = f"compressed, {CLIENTS:,} clients of a channel"
BYTES = "compressed, bytes on the wire for each event"
MEMORY = "compressed, memory of a client after it"


def run(quick: bool) -> Iterable[Table]:
    if quick:
        return
    time = Table(TIME, "µs of processor time per delivery")
    size = Table(BYTES, "bytes")
    memory = Table(MEMORY, "KiB")
    turns: dict[tuple[str, str], Turn] = {
        (case, name): partial(measured, case, name) for case in [*CASES, GENERATOR]
        for name in CONTENDERS
    }  # fmt: skip
    in_turns([time, size, memory], turns, rounds=2)
    yield from (time, size, memory)


def measured(case: str, name: str) -> tuple[float, float, float]:
    """Returns the processor time, the bytes and the memory of one run."""
    with closing(Server(uvicorn(APP))) as server, ExitStack() as stack:
        warm = subscribed(server, case, name, 50, stack)
        played(server, case, name, warm, 10)
        before = server.memory()
        clients = subscribed(
            server, case, name, GENERATORS if case == GENERATOR else CLIENTS, stack
        )
        everybody = [*warm, *clients]
        for client in everybody:
            client.wire_bytes = 0
        rounds, burst = CASES.get(case, (20, 1))
        began = server.cpu_seconds()
        played(server, case, name, everybody, rounds, burst)
        events = rounds * burst * len(everybody)
        spent = (server.cpu_seconds() - began) / events * 1e6
        size = sum(client.wire_bytes for client in everybody) / events
        return spent, size, (server.memory() - before) / len(clients) / 1024


class Client:
    """Reads one stream. Only the first clients decode it: the others know when they have as much.

    Args:
        sock: Its connection, whose headers have been read.
        first: What came with them.
        compressed: Whether its body is compressed.
    """

    def __init__(self, sock: socket.socket, first: bytes, compressed: bool) -> None:
        self.sock = sock
        self.events = self.wire_bytes = 0
        self._decoder: Any = zlib.decompressobj(31) if compressed else None
        self._body = bytearray()
        self._tail = b""
        self._feed(first)

    def receive(self) -> None:
        received = self.sock.recv(1 << 20)
        assert received, "the connection broke"
        self._feed(received)

    def _feed(self, received: bytes) -> None:
        self._body += received
        plain = b""
        while True:
            size, end, rest = self._body.partition(b"\r\n")
            if not end or len(rest) < int(size, 16) + 2:
                break
            chunk = bytes(rest[: int(size, 16)])
            self._body = rest[len(chunk) + 2 :]
            self.wire_bytes += len(chunk)
            plain += chunk if self._decoder is None else self._decoder.decompress(chunk)
        plain = self._tail + plain
        self.events += plain.count(MARK)
        self._tail = plain[1 - len(MARK) :]


def subscribed(server: Server, case: str, name: str, count: int, stack: ExitStack) -> list[Client]:
    before = reached(server)
    clients = []
    kind = case.split()[0].strip(",")
    for _ in range(count):
        sock = stack.enter_context(server.connect())
        head = f"GET /{name}/{kind} HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n"
        sock.sendall(head.encode())
        received = b""
        while b"\r\n\r\n" not in received:
            received += sock.recv(1 << 16)
        head_of, _, first = received.partition(b"\r\n\r\n")
        assert b" 200 " in head_of.split(b"\r\n")[0], head_of
        compressed = b"content-encoding: gzip" in head_of.lower()
        assert compressed is (name != "plain"), head_of
        clients.append(Client(sock, first, compressed))
    if case == GENERATOR:
        until(lambda: reached(server) == before + count)
    return clients


def played(
    server: Server, case: str, name: str, clients: list[Client], rounds: int, burst: int = 1
) -> None:
    """Publishes round after round, each once the one before has arrived everywhere."""
    kind = case.split()[0].strip(",")
    with closing(selectors.DefaultSelector()) as selector:
        for client in clients:
            selector.register(client.sock, selectors.EVENT_READ, client)
        for _ in range(rounds):
            wanted = {client: client.events + burst for client in clients}
            server.post(f"/{kind}?count={burst}")
            waiting = set(clients)
            while waiting:
                ready = selector.select(timeout=60)
                assert ready, "the streams do not go on"
                for key, _ in ready:
                    key.data.receive()
                    if key.data.events >= wanted[key.data]:
                        waiting.discard(key.data)


def reached(server: Server) -> int:
    with urllib.request.urlopen(f"{server.url}/clients") as response:
        return int(response.read())
