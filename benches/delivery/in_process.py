"""Whole ASGI calls in one process, with a `send` that does nothing: what the application costs
without the server and the kernel.

The contenders run in a worker process for each backend; only one computes at a time.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvloop
from asgi import Connection

from benches.harness.callgrind import Counted
from benches.harness.servers import on_server_cores
from benches.harness.timing import Table, Turn, in_turns

from .check import check_stream

KINDS = ("models", "events", "tokens", "dicts", "records", "sync", "turn")
QUICK = ("fastapi", "sserpent", "hand")
CONTENDERS = ("fastapi", "sserpent", "sserpent-pure", "sse-starlette", "hand")
TURN_SECONDS = 0.03


class NullSend(Connection):
    """Its `first` is done when the first bytes of the body are there."""

    def __init__(self, path: str, count: int | None = None) -> None:
        query = b"" if count is None else b"n=%d" % count
        super().__init__(path, headers=[(b"host", b"localhost")], query_string=query)
        self.first = asyncio.get_running_loop().create_future()

    async def send(self, message: Any) -> None:
        if message.get("body") and not self.first.done():
            self.first.set_result(None)


async def stream(path: str, count: int) -> None:
    from .app import app

    await NullSend(path, count).run(app)


async def first_events(path: str, count: int) -> None:
    """So many streams, each of which its client leaves after its first event."""
    from .app import app

    for _ in range(count):
        connection = NullSend(path)
        request = asyncio.ensure_future(connection.run(app))
        await connection.first
        request.cancel()
        await asyncio.wait({request})


def seconds(path: str, count: int) -> float:
    """In a worker: the processor time of a stream."""

    async def timed() -> float:
        started = time.process_time()
        await stream(path, count)
        return time.process_time() - started

    return uvloop.run(timed())


def body(path: str, count: int) -> bytes:
    """In a worker: what a stream sends; it must be complete and successful."""
    from .app import app

    async def whole() -> Connection:
        connection = Connection(path, query_string=b"n=%d" % count)
        await connection.run(app)
        return connection

    connection = uvloop.run(whole())
    assert connection.status == 200
    assert connection.complete
    return connection.body


@contextmanager
def worker(**environment: str) -> Iterator[Callable[..., Any]]:
    """Calls a function with arguments in a process of its own."""
    before = dict(os.environ)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:

        def call(function: Callable[..., Any], *arguments: Any) -> Any:
            return pool.submit(function, *arguments).result()

        os.environ.update(environment)
        with on_server_cores():
            call(os.getpid)
        os.environ.clear()
        os.environ.update(before)
        yield call


def turn_of(call: Callable[..., Any], path: str) -> Turn:
    count = sized(partial(call, seconds, path), TURN_SECONDS)
    return lambda: [call(seconds, path, count) / count * 1e6]


def sized(measure: Callable[[int], float], wanted: float) -> int:
    """How many events take about so many seconds."""
    measure(200)
    return max(2, round(wanted / measure(200) * 2)) * 100


def run(quick: bool) -> Iterable[Table]:
    table = Table("in process, null send", "µs of processor time per event", minima=True)
    with worker() as native, worker(SSERPENT_PURE="1") as pure:
        turns: dict[str, dict[tuple[str, str], Turn]] = {}
        for kind in KINDS:
            for name in QUICK if quick else CONTENDERS:
                call = pure if name == "sserpent-pure" else native
                path = f"/{name.removesuffix('-pure')}/{kind}"
                check_stream(kind, call(body, path, 200), 200)
                turns.setdefault(kind, {})[kind, name] = turn_of(call, path)
        for _ in range(2 if quick else 4):
            for contenders in turns.values():
                in_turns([table], contenders, rounds=5)
    return [table]


def counted() -> Iterator[Counted]:
    """What valgrind counts. Not sync generators: how threads meet differs from run to run."""
    for kind in ("models", "events", "tokens", "dicts", "records"):
        for name, events in (("sserpent", 500), ("fastapi", 50)):
            path = f"/{name}/{kind}"
            yield Counted(f"burst of {kind}, in process", name, events, partial(stream, path))
    for name in ("sserpent", "hand", "asgi", "fastapi"):
        yield Counted(TURN_COUNTED, name, 100, partial(stream, f"/{name}/turn"))
    for name in ("sserpent", "hand", "asgi", "fastapi"):
        yield Counted(FIRST_EVENT_COUNTED, name, 20, partial(first_events, f"/{name}/idle"))


TURN_COUNTED = "one event per loop turn, in process"
FIRST_EVENT_COUNTED = "connection to first event, in process"
