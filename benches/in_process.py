"""Whole ASGI calls in one process, with a `send` that does nothing: what the application costs
without the server and the kernel.

Contenders run in worker processes (`python -m benches.in_process`), one for each backend, that
take turns: only one computes at a time.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import Any

from .measure import Table, pin, rounds_of

EVENTS = {"fastapi": 3_000, "sse-starlette": 10_000}
MANY_EVENTS = 30_000
KINDS = ("models", "events", "tokens", "dicts", "sync", "turn")
CONTENDERS = ("fastapi", "sserpent", "sserpent-pure", "sse-starlette", "hand")


async def call(app: Any, path: str, query: str, send: Any) -> None:
    """One GET request; the client never leaves."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    messages = [{"type": "http.request", "body": b"", "more_body": False}]
    never = asyncio.Event()

    async def receive() -> Any:
        if not messages:
            await never.wait()
        return messages.pop()

    await app(scope, receive, send)


async def body_of(app: Any, path: str, query: str) -> bytes:
    """The body of the answer, which must be complete and successful."""
    status = 0
    chunks: list[bytes] = []
    more = True

    async def collect(message: Any) -> None:
        nonlocal status, more
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            chunks.append(message.get("body", b""))
            more = message.get("more_body", False)

    await call(app, path, query, collect)
    assert status == 200
    assert not more
    return b"".join(chunks)


async def seconds(app: Any, path: str, query: str) -> float:
    """How long the call takes."""

    async def null_send(message: Any) -> None:
        pass

    started = time.perf_counter()
    await call(app, path, query, null_send)
    return time.perf_counter() - started


async def first_event(app: Any, path: str) -> float:
    """How long it takes until the first bytes of the body are there; the client leaves then."""
    arrived = asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        if message.get("body") and not arrived.done():
            arrived.set_result(time.perf_counter())

    started = time.perf_counter()
    request = asyncio.ensure_future(call(app, path, "", send))
    try:
        return float(await arrived) - started
    finally:
        request.cancel()
        await asyncio.wait({request})


async def work() -> None:
    """The worker: answers each line of the standard input with one line of JSON."""
    from .app import app

    while line := await asyncio.to_thread(sys.stdin.readline):
        order, path, query = line.split()
        if order == "time":
            answer: Any = await seconds(app, path, query)
        else:
            answer = (await body_of(app, path, query)).decode()
        print(json.dumps(answer), flush=True)


class Worker:
    """A process that runs the application."""

    def __init__(self, core: int | None, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benches.in_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            preexec_fn=lambda: pin(core),
        )

    def ask(self, order: str, path: str, query: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(order, path, query, file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


def measure(rounds: int, core: int | None) -> list[Table]:
    """Microseconds per event, for each kind of stream."""
    from .check import check_stream

    table = Table("in process, null send", "µs per event")
    native, pure = Worker(core), Worker(core, SSERPENT_PURE="1")
    workers = dict.fromkeys(CONTENDERS, native) | {"sserpent-pure": pure}
    try:
        for kind in KINDS:
            for name in CONTENDERS:
                path = f"/{name.removesuffix('-pure')}/{kind}"
                check_stream(kind, workers[name].ask("body", path, "n=1000").encode(), 1000)
            for name in rounds_of(CONTENDERS, rounds):
                events = EVENTS.get(name, MANY_EVENTS)
                path = f"/{name.removesuffix('-pure')}/{kind}"
                taken = workers[name].ask("time", path, f"n={events}")
                table.add(kind, name, taken / events * 1e6)
    finally:
        native.close()
        pure.close()
    return [table]


if __name__ == "__main__":
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run
    run(work())
