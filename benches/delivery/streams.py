"""Streams through real servers and real sockets, the server and the client on different cores."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from benches import ROOT
from benches.harness.servers import (
    Server,
    first_event,
    granian,
    read_events,
    request,
    stream,
    uvicorn,
)
from benches.harness.timing import Table, Turn, in_turns

from .check import check_stream
from .in_process import sized

APP = "benches.delivery.app:app"
KINDS = ("models", "events", "tokens", "dicts", "records", "sync")
CONTENDERS = ("fastapi", "sserpent", "sserpent-pure", "sse-starlette", "hand")
QUICK = ("fastapi", "sserpent", "hand")
MANY = ("fastapi", "sserpent", "hand")
TURN_SECONDS = 0.1
PROCESSOR = "µs of processor time per event"


class Running:
    """One server with every contender's routes, and one with `SSERPENT_PURE=1`."""

    def __init__(self, native: Server, pure: Server) -> None:
        self.native = native
        self.pure = pure
        # One connection to each, in use all the time: granian closes idle ones.
        self.connections = {server: server.connect() for server in (native, pure)}

    def place(self, name: str, kind: str) -> tuple[Server, str]:
        """Which server has a contender's stream, and where."""
        server = self.pure if name == "sserpent-pure" else self.native
        return server, f"/{name.removesuffix('-pure')}/{kind}"

    def turn_of(self, name: str, kind: str) -> Turn:
        """An event of one stream, by the clock and in the server's processor time."""
        server, path = self.place(name, kind)
        check_stream(kind.replace("turn", "models"), server.body(f"{path}?n=200"), 200)
        sock = self.connections[server]
        count = sized(lambda count: stream(sock, f"{path}?n={count}", count), TURN_SECONDS)

        def turn() -> tuple[float, float]:
            before = server.cpu_seconds()
            taken = stream(sock, f"{path}?n={count}", count)
            return taken / count * 1e6, (server.cpu_seconds() - before) / count * 1e6

        return turn


@contextmanager
def running(command: list[str]) -> Iterator[Running]:
    with closing(Server(command)) as native, closing(Server(command, SSERPENT_PURE="1")) as pure:
        servers = Running(native, pure)
        yield servers
        for connection in servers.connections.values():
            connection.close()


def run(quick: bool) -> Iterable[Table]:
    tables: list[Table] = []
    with running(uvicorn(APP)) as servers:
        tables += bursts("uvicorn", servers, quick)
        tables += turns("uvicorn", servers, quick)
        if not quick:
            tables += [lengths(servers), concurrent(servers), paced(servers)]
    if not quick:
        with running(granian(APP)) as servers:
            tables += bursts("granian", servers, quick)
            tables += turns("granian", servers, quick)
        tables += outer_limit()
    return tables


def bursts(name: str, servers: Running, quick: bool) -> list[Table]:
    """Events that are there as fast as the server takes them."""
    tables = clock_and_processor(f"{name}, burst")
    for kind in KINDS:
        # Joined chunks are a floor for generators on the event loop only.
        floors = () if quick or kind == "sync" else ("joined",)
        contenders = (*(QUICK if quick else CONTENDERS), *floors)
        measured = {(kind, each): servers.turn_of(each, kind) for each in contenders}
        in_turns(tables, measured, rounds=5 if quick else 7)
    return tables


def turns(name: str, servers: Running, quick: bool) -> list[Table]:
    """One event for each turn of the event loop."""
    tables = clock_and_processor(f"{name}, one event per loop turn")
    contenders = QUICK if quick else (*CONTENDERS, "asgi")
    measured = {("models", each): servers.turn_of(each, "turn") for each in contenders}
    in_turns(tables, measured, rounds=10 if quick else 20)
    return tables


def clock_and_processor(name: str) -> list[Table]:
    return [Table(name, "µs per event"), Table(f"{name}, processor time", PROCESSOR)]


def lengths(servers: Running) -> Table:
    """The cost of an event in streams of different length: the server's processor time beyond
    that for streams of one event, for each further event."""
    table = Table("uvicorn, length of the stream", PROCESSOR)
    in_total = {"fastapi": 10_000, "sserpent": 1_000_000}

    def turn_of(name: str, length: int) -> Turn:
        server, path = servers.place(name, "models")
        sock = servers.connections[server]

        def seconds(length: int, streams: int) -> float:
            before = server.cpu_seconds()
            for _ in range(streams):
                stream(sock, f"{path}?n={length}", length)
            return (server.cpu_seconds() - before) / streams

        def turn() -> tuple[float]:
            whole = seconds(length, in_total[name] // length)
            return ((whole - seconds(1, 100)) / (length - 1) * 1e6,)

        return turn

    measured = {
        (f"{length:,} events", name): turn_of(name, length)
        for length in (1_000, 10_000, 100_000, 1_000_000)
        for name in in_total
        if length <= in_total[name]
    }
    in_turns([table], measured, rounds=5)
    return table


def concurrent(servers: Running) -> Table:
    """The cost of an event while streams run at once."""
    table = Table("uvicorn, concurrent streams", PROCESSOR)
    burst = {"fastapi": 10_000, "sserpent": 1_000_000, "hand": 40_000}
    by_turn = {"fastapi": 10_000, "sserpent": 60_000, "hand": 60_000}
    measured = {
        (f"{shape}, {streams:,} at once", name): gated(
            servers, name, streams, in_total[name] // streams, pause
        )
        for shape, in_total, pause in (("burst", burst, None), ("one per turn", by_turn, 0.0))
        for streams in (1, 100, 1_000)
        for name in MANY
    }
    in_turns([table], measured, rounds=4)
    return table


# Streams at once, seconds between a stream's events, and how many: up to 5,000 events a second in
# all, which the slowest can still send in time.
PACES = ((1, 0.001, 1_000), (100, 0.02, 75), (1_000, 0.2, 8))


def paced(servers: Running) -> Table:
    """The cost of an event of streams that wait between their events."""
    table = Table("uvicorn, paced streams", PROCESSOR)
    measured = {
        (f"{streams:,} paced stream{'s' * (streams > 1)}", name): gated(
            servers, name, streams, count, pause
        )
        for streams, pause, count in PACES
        for name in MANY
    }
    in_turns([table], measured, rounds=5)
    return table


def gated(servers: Running, name: str, streams: int, count: int, pause: float | None) -> Turn:
    """From the moment at which all streams are told to go until the last event has arrived; they
    are open before and after."""
    server, path = servers.place(name, "gated")
    path += f"?n={count}" if pause is None else f"?n={count}&pause={pause}"

    def turn() -> tuple[float]:
        with ExitStack() as stack:
            socks = [stack.enter_context(server.connect()) for _ in range(streams)]
            for sock in socks:
                sock.sendall(request(path, close=True))
            for sock in socks:
                first_event(sock)
            gate_keeper = stack.enter_context(server.connect())
            before = server.cpu_seconds()
            gate_keeper.sendall(request("/gates/start", method="POST"))
            read_events(socks, count)
            used = server.cpu_seconds() - before
            server.post("/gates/end")
            for sock in socks:
                while sock.recv(1 << 16):
                    pass
        return (used / (streams * count) * 1e6,)

    return turn


def outer_limit() -> Iterable[Table]:
    """What a server without Python does with the same events; no contender."""
    program = built_axum()
    if program is None:
        return
    table = Table("outer limit: axum, a compiled server", PROCESSOR)
    with running(uvicorn(APP)) as ours, running([str(program), "{port}"]) as compiled:
        for kind, case in {"models": "burst", "turn": "one event per loop turn"}.items():
            measured: dict[tuple[str, str], Turn] = {}
            for name, servers in {"sserpent": ours, "axum": compiled}.items():
                measured[case, name] = partial(processor, servers.turn_of(name, kind))
            in_turns([table], measured, rounds=7)
    yield table


def processor(turn: Callable[[], tuple[float, float]]) -> tuple[float]:
    return turn()[1:]


def built_axum() -> Path | None:
    """The server's program; None, with a message, where it cannot be built."""
    target = ROOT / "target" / "axum-sse"
    command = ["cargo", "build", "--release", "--quiet", "--locked", "--target-dir", str(target)]
    try:
        subprocess.run(command, check=True, cwd=Path(__file__).parent / "axum")
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"no axum row: {error}")
        return None
    return target / "release" / "axum-sse"
