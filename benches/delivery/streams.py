"""Streams through real servers and real sockets: the server's processor time for each event. While
a burst runs the server does nothing else, so that events per second follow from it; the clock
would also measure what else the machine does."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from benches import ROOT
from benches.harness.servers import (
    Server,
    granian,
    read_events,
    read_stream,
    request,
    uvicorn,
)
from benches.harness.timing import Table, Turn, in_turns

from .check import check_stream

APP = "benches.delivery.app:app"
KINDS = ("models", "events", "tokens", "dicts", "records", "named", "sync")
# On the second server: it differs in what sending costs, and not in what making an event does.
ELSEWHERE = ("models", "tokens", "sync")
CONTENDERS = ("fastapi", "sserpent", "sserpent-pure", "sse-starlette", "hand")
QUICK = ("fastapi", "sserpent", "hand")
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

    def used(self, name: str, kind: str, count: int) -> float:
        """Seconds of the server's processor time for one stream."""
        server, path = self.place(name, kind)
        before = server.cpu_seconds()
        read_stream(self.connections[server], f"{path}?n={count}", count)
        return server.cpu_seconds() - before

    def turn_of(self, name: str, kind: str) -> Turn:
        """An event of a stream of about `TURN_SECONDS`."""
        server, path = self.place(name, kind)
        check_stream(kind, server.body(f"{path}?n=200"), 200)
        # Enough for the start of a stream not to count, before it is scaled.
        count = 200
        while (taken := self.used(name, kind, count)) < TURN_SECONDS / 4:
            count *= 4
        count = 100 * max(2, round(count / 100 * TURN_SECONDS / taken))
        return lambda: [self.used(name, kind, count) / count * 1e6]


@contextmanager
def running(command: list[str]) -> Iterator[Running]:
    with closing(Server(command)) as native, closing(Server(command, SSERPENT_PURE="1")) as pure:
        servers = Running(native, pure)
        yield servers
        for connection in servers.connections.values():
            connection.close()


def run(quick: bool) -> Iterator[Table]:
    with running(uvicorn(APP)) as servers:
        yield bursts("uvicorn", servers, quick)
        yield turns("uvicorn", servers, quick)
        if quick:
            return
        yield lengths(servers)
        yield from concurrent(servers)
    with running(granian(APP)) as servers:
        yield bursts("granian", servers, quick, ELSEWHERE)
        yield turns("granian", servers, quick)
    program = built_axum()
    if program:
        yield outer_limit(program)


def bursts(name: str, servers: Running, quick: bool, kinds: tuple[str, ...] = KINDS) -> Table:
    """Events that are there as fast as the server takes them."""
    table = Table(f"{name}, burst", PROCESSOR)
    for kind in kinds:
        # Joined chunks are a floor for generators on the event loop only.
        others = () if quick or kind in ("named", "sync") else ("joined",)
        if kind == "named":
            others = ("typed",)
        contenders = (*(QUICK if quick else CONTENDERS), *others)
        measured = {(kind, each): servers.turn_of(each, kind) for each in contenders}
        in_turns([table], measured, rounds=4)
    return table


def turns(name: str, servers: Running, quick: bool) -> Table:
    """One event for each turn of the event loop."""
    table = Table(f"{name}, one event per loop turn", PROCESSOR)
    contenders = QUICK if quick else (*CONTENDERS, "asgi")
    in_turns([table], {("models", each): servers.turn_of(each, "turn") for each in contenders}, 6)
    return table


def lengths(servers: Running) -> Table:
    """The cost of an event in streams of different length: beyond that for streams of one event,
    for each further event."""
    table = Table("uvicorn, length of the stream", PROCESSOR)
    in_total = {"fastapi": 10_000, "sserpent": 1_000_000}

    def further(name: str, length: int) -> list[float]:
        streams = in_total[name] // length
        whole = sum(servers.used(name, "models", length) for _ in range(streams)) / streams
        start = sum(servers.used(name, "models", 1) for _ in range(100)) / 100
        return [(whole - start) / (length - 1) * 1e6]

    measured = {
        (f"{length:,} events", name): partial(further, name, length)
        for length in (1_000, 10_000, 100_000, 1_000_000)
        for name in in_total
        if length <= in_total[name]
    }
    in_turns([table], measured, rounds=3)
    return table


def concurrent(servers: Running) -> list[Table]:
    """The cost of an event while streams run at once."""
    burst = {"fastapi": 5_000, "sserpent": 150_000, "hand": 20_000}
    by_turn = {"fastapi": 5_000, "sserpent": 30_000, "hand": 30_000}
    together = Table("uvicorn, concurrent streams", PROCESSOR)
    measured = {
        (f"{shape}, {streams:,} at once", name): gated(
            servers, name, streams, in_total[name] // streams, pause
        )
        for shape, in_total, pause in (("burst", burst, None), ("one per turn", by_turn, 0.0))
        for streams in (1, 100, 1_000)
        for name in QUICK
    }
    in_turns([together], measured, rounds=3)
    # Seconds between a stream's events, and how many: up to 5,000 a second in all, which the
    # slowest can still send in time.
    paced = Table("uvicorn, paced streams", PROCESSOR)
    measured = {
        (f"{streams:,} at once", name): gated(servers, name, streams, count, pause)
        for streams, pause, count in ((1, 0.001, 600), (100, 0.02, 50), (1_000, 0.2, 6))
        for name in QUICK
    }
    in_turns([paced], measured, rounds=3)
    return [together, paced]


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
            read_events(socks, 1)
            before = server.cpu_seconds()
            server.post("/gates/start")
            read_events(socks, count)
            used = server.cpu_seconds() - before
            server.post("/gates/end")
            for sock in socks:
                while sock.recv(1 << 16):
                    pass
        return (used / (streams * count) * 1e6,)

    return turn


def outer_limit(program: Path) -> Table:
    """What a server without Python does with the same events; no contender."""
    table = Table("outer limit: axum, a compiled server", PROCESSOR)
    with running(uvicorn(APP)) as ours, running([str(program), "{port}"]) as compiled:
        for kind in ("models", "turn"):
            both = {"sserpent": ours, "axum": compiled}
            measured = {(kind, name): each.turn_of(name, kind) for name, each in both.items()}
            in_turns([table], measured, rounds=7)
    return table


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
