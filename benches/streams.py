"""Whole-server runs: real servers, real sockets, the server and the client on different cores."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import fmean, median

from . import axum
from .check import check_stream
from .measure import Table, rounds_of
from .servers import (
    GRANIAN,
    UVICORN,
    Server,
    body,
    first_event,
    read_events,
    request,
    serving,
    stream,
)

KINDS = ("models", "events", "tokens", "dicts", "sync")
BURST = ("fastapi", "sserpent", "sserpent-pure", "sse-starlette", "hand", "joined")
TURN = ("sserpent", "hand", "fastapi", "sserpent-pure", "sse-starlette", "asgi")
# About a tenth of a second each.
EVENTS = {"fastapi": 3_000, "sse-starlette": 6_000, "hand": 15_000}
MANY_EVENTS = 100_000
TURN_EVENTS = {"fastapi": 4_000}
MANY_TURN_EVENTS = 12_000


class Contenders:
    """One server with every contender's routes, and one with `SSERPENT_PURE=1`."""

    def __init__(self, native: Server, pure: Server) -> None:
        self.native = native
        self.pure = pure
        self._connections: dict[Server, socket.socket] = {}

    def place(self, name: str, kind: str) -> tuple[Server, str]:
        """Which server has a contender's stream, and where."""
        server = self.pure if name == "sserpent-pure" else self.native
        return server, f"/{name.removesuffix('-pure')}/{kind}"

    def check(self, name: str, kind: str) -> None:
        server, path = self.place(name, kind)
        check_stream(kind, body(server, f"{path}?n=1000"), 1000)

    def seconds(self, name: str, kind: str, count: int) -> float:
        """How long one stream takes, on a connection that is open already."""
        server, path = self.place(name, kind)
        if server not in self._connections:
            self._connections[server] = server.connect()
        return stream(self._connections[server], f"{path}?n={count}", count)

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()


@contextmanager
def contenders_on(command: str, core: int | None) -> Iterator[Contenders]:
    with ExitStack() as stack:
        native = stack.enter_context(serving(command, core))
        pure = stack.enter_context(serving(command, core, SSERPENT_PURE="1"))
        running = Contenders(native, pure)
        stack.callback(running.close)
        yield running


def bursts(name: str, running: Contenders, rounds: int, contenders: Sequence[str]) -> Table:
    """Events that are there as fast as the server takes them."""
    table = Table(f"{name}, burst", "µs per event")
    for kind in KINDS:
        # Joined chunks are a floor for generators on the event loop only.
        names = [each for each in contenders if (each, kind) != ("joined", "sync")]
        for each in names:
            running.check(each, kind)
        for each in rounds_of(names, rounds):
            count = EVENTS.get(each, MANY_EVENTS)
            table.add(kind, each, running.seconds(each, kind, count) / count * 1e6)
    return table


def turns(name: str, running: Contenders, rounds: int, contenders: Sequence[str]) -> Table:
    """One event for each turn of the event loop."""
    table = Table(f"{name}, one event per loop turn", "µs per event")
    for each in contenders:
        running.check(each, "turn")
    for each in rounds_of(contenders, rounds):
        count = TURN_EVENTS.get(each, MANY_TURN_EVENTS)
        table.add("models", each, running.seconds(each, "turn", count) / count * 1e6)
    return table


def growth(running: Contenders, rounds: int) -> Table:
    """The cost of an event in streams of different length: the server's processor time beyond
    that for the same number of streams of one event, for each further event. Processor time,
    because the way of the last chunk to the client would count in short streams only."""
    table = Table("uvicorn, length of the stream", "µs of processor time per event")
    lengths = {"fastapi": (1_000, 10_000), "sserpent": (1_000, 10_000, 100_000, 1_000_000)}
    in_total = {"fastapi": 10_000, "sserpent": 1_000_000}
    for number in range(rounds):
        for name, all_lengths in lengths.items():
            start = _cpu_seconds(running, name, 1, 300)
            for length in all_lengths if number % 2 == 0 else reversed(all_lengths):
                taken = _cpu_seconds(running, name, length, in_total[name] // length)
                table.add(f"{length:,} events", name, (taken - start) / (length - 1) * 1e6)
    return table


def _cpu_seconds(running: Contenders, name: str, length: int, streams: int) -> float:
    """The server's processor time for each of a number of streams."""
    server, _ = running.place(name, "models")
    before = server.cpu_seconds()
    for _ in range(streams):
        running.seconds(name, "models", length)
    return (server.cpu_seconds() - before) / streams


def many_streams(running: Contenders, rounds: int, turn: bool) -> list[Table]:
    """The cost of an event while 1 to 1,000 streams run at once, from the moment at which all are
    told to go until the last event has arrived; the streams are open before and after. By the
    clock, and in the server's processor time, in which the client has no part."""
    title = f"uvicorn, concurrent streams, {'one event per loop turn' if turn else 'burst'}"
    clock = Table(title, "µs per event")
    processor = Table(f"{title}, processor time", "µs of processor time per event")
    if turn:
        in_total = {"fastapi": 10_000, "sserpent": 60_000, "hand": 60_000}
    else:
        in_total = {"fastapi": 10_000, "sserpent": 1_000_000, "hand": 40_000}
    for number in range(rounds):
        for streams in (1, 100, 1_000) if number % 2 == 0 else (1_000, 100, 1):
            for name in rounds_of(tuple(in_total), 1):
                count = in_total[name] // streams
                taken, used = _gated_seconds(running, name, streams, count, 0 if turn else None)
                case = f"{streams:,} at once"
                clock.add(case, name, taken / (streams * count) * 1e6)
                processor.add(case, name, used / (streams * count) * 1e6)
    return [clock, processor]


# Seconds between a stream's events, and how many: up to 5,000 events a second in all, which the
# slowest can still send in time.
PACES = {1: (0.001, 1_000), 100: (0.02, 75), 1_000: (0.2, 8)}


def paced_streams(running: Contenders, rounds: int) -> Table:
    """The server's processor time for an event of streams that wait between their events."""
    table = Table("uvicorn, paced streams", "µs of processor time per event")
    for number in range(rounds):
        for streams in PACES if number % 2 == 0 else reversed(PACES):
            pause, count = PACES[streams]
            for name in ("fastapi", "sserpent", "hand"):
                _, used = _gated_seconds(running, name, streams, count, pause)
                case = f"{streams:,} at once, an event every {pause * 1000:g} ms"
                table.add(case, name, used / (streams * count) * 1e6)
    return table


def _gated_seconds(
    running: Contenders, name: str, streams: int, count: int, pause: float | None
) -> tuple[float, float]:
    """By the clock, and in the server's processor time."""
    server, path = running.place(name, "gated")
    query = f"n={count}" if pause is None else f"n={count}&pause={pause}"
    with ExitStack() as stack:
        gate_keeper = stack.enter_context(server.connect())
        socks = [stack.enter_context(server.connect()) for _ in range(streams)]
        for sock in socks:
            sock.sendall(request(f"{path}?{query}", close=True))
        for sock in socks:
            first_event(sock)
        before = server.cpu_seconds()
        started = time.perf_counter()
        gate_keeper.sendall(request("/gates/start", method="POST"))
        read_events(socks, count)
        taken = time.perf_counter() - started
        used = server.cpu_seconds() - before
        server.post("/gates/end")
        for sock in socks:
            while sock.recv(1 << 16):
                pass
    return taken, used


@dataclass
class IdleTables:
    memory: Table
    first_event: Table
    keep_alive: Table


IDLE_CONTENDERS = ("fastapi", "sserpent", "sserpent-pure", "sse-starlette", "hand", "asgi")
WARM_UP = 200
IDLE_STREAMS = 2_000
PING_INTERVAL = 2
KEEP_ALIVES = 3


def idle(core: int | None, rounds: int) -> list[Table]:
    """What connections cost that wait for events, in a fresh server for each contender."""
    memory = Table("uvicorn, memory per idle connection", "KiB")
    first = Table("uvicorn, connection to first event", "µs")
    for name in rounds_of(IDLE_CONTENDERS, rounds):
        with _serving_idle(name, core) as (server, path), ExitStack() as stack:
            _open(server, path, WARM_UP, stack)
            before, cpu_before = server.memory(), server.cpu_seconds()
            delays = _open(server, path, IDLE_STREAMS, stack)
            used, cpu_used = server.memory() - before, server.cpu_seconds() - cpu_before
        case = f"{IDLE_STREAMS:,} connections"
        memory.add(case, name, used / IDLE_STREAMS / 1024)
        first.add("median", name, median(delays) * 1e6)
        first.add("mean", name, fmean(delays) * 1e6)
        first.add("processor time of the server", name, cpu_used / IDLE_STREAMS * 1e6)
    return [memory, first, _keep_alive(core)]


def _keep_alive(core: int | None) -> Table:
    """Processor time for keep-alives, one in two seconds instead of one in 15, so that there are
    some to measure."""
    table = Table("uvicorn, processor time of keep-alives", "µs per keep-alive")
    for name in IDLE_CONTENDERS:
        if name in ("hand", "asgi"):
            continue  # they have none
        environment = {"BENCH_PING_INTERVAL": str(PING_INTERVAL)}
        with _serving_idle(name, core, **environment) as (server, path), ExitStack() as stack:
            socks: list[socket.socket] = []
            _open(server, path, IDLE_STREAMS, stack, socks.append)
            _drain(socks)
            before = server.cpu_seconds()
            time.sleep(PING_INTERVAL * KEEP_ALIVES)
            used = server.cpu_seconds() - before
            sent = [received.count(b": ping") for received in _drain(socks)]
        # A server that is too slow for its keep-alives sends some late, but each stream has some.
        assert min(sent) >= 1, f"{name}: a stream without keep-alives"
        assert max(sent) <= KEEP_ALIVES + 1, f"{name}: {max(sent)} keep-alives in a stream"
        table.add(f"{IDLE_STREAMS:,} connections", name, used / sum(sent) * 1e6)
    return table


@contextmanager
def _serving_idle(name: str, core: int | None, **environment: str) -> Iterator[tuple[Server, str]]:
    if name == "sserpent-pure":
        environment["SSERPENT_PURE"] = "1"
    with serving(UVICORN, core, **environment) as server:
        yield server, f"/{name.removesuffix('-pure')}/idle"


def _open(
    server: Server,
    path: str,
    count: int,
    stack: ExitStack,
    keep: Callable[[socket.socket], object] = lambda sock: None,
) -> list[float]:
    """Opens streams one after the other; how long each took to its first event."""
    delays = []
    for _ in range(count):
        started = time.perf_counter()
        sock = stack.enter_context(server.connect())
        sock.sendall(request(path))
        first_event(sock)
        delays.append(time.perf_counter() - started)
        keep(sock)
    return delays


def _drain(socks: Sequence[socket.socket]) -> list[bytes]:
    """Everything that has arrived by now, for each connection."""
    received = []
    for sock in socks:
        sock.setblocking(False)
        try:
            received.append(sock.recv(1 << 16))
        except BlockingIOError:
            received.append(b"")
        sock.setblocking(True)
    return received


def measure_quick(rounds: int, core: int | None) -> list[Table]:
    contenders = ("fastapi", "sserpent")
    with contenders_on(UVICORN, core) as running:
        return [
            bursts("uvicorn", running, rounds, contenders),
            turns("uvicorn", running, rounds * 3, ("sserpent", "hand", "fastapi")),
        ]


def measure(rounds: int, core: int | None) -> list[Table]:
    tables = []
    with contenders_on(UVICORN, core) as running:
        tables.append(bursts("uvicorn", running, rounds, BURST))
        tables.append(turns("uvicorn", running, rounds * 3, TURN))
        tables.append(growth(running, rounds + 2))
        tables.extend(many_streams(running, max(5, rounds // 2), turn=False))
        tables.extend(many_streams(running, max(3, rounds // 2), turn=True))
        tables.append(paced_streams(running, max(3, rounds // 2)))
    with contenders_on(GRANIAN, core) as running:
        tables.append(bursts("granian", running, max(3, rounds // 2), BURST))
        tables.append(turns("granian", running, rounds, TURN))
    tables.extend(idle(core, 3))
    tables.extend(outer_limit(rounds, core))
    return tables


def outer_limit(rounds: int, core: int | None) -> list[Table]:
    """What a server without Python does with the same events."""
    program = axum.built()
    if program is None:
        return []
    table = Table("outer limit: axum, a compiled server", "µs per event")
    with serving(UVICORN, core) as uvicorn, serving(f"{program} {{port}}", core) as compiled:
        running = {"sserpent": Contenders(uvicorn, uvicorn), "axum": Contenders(compiled, compiled)}
        for kind in ("models", "turn"):
            for name, contenders in running.items():
                contenders.check(name, kind)
            for name in rounds_of(tuple(running), rounds):
                many = kind == "models" or name == "axum"
                count = MANY_EVENTS if many else MANY_TURN_EVENTS
                taken = running[name].seconds(name, kind, count)
                table.add(_OUTER_CASES[kind], name, taken / count * 1e6)
        for contenders in running.values():
            contenders.close()
    return [table]


_OUTER_CASES = {"models": "burst of models", "turn": "one event per loop turn"}
