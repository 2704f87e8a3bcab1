"""Whole ASGI calls in one process, with a `send` that does nothing: what valgrind counts of the
application without the server and the kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry

from asgi import Connection
from benches.harness.callgrind import Counted
from sserpent.metrics import instrument_prometheus

TURN = "one event per loop turn, in process"
METERED_BURST = "burst of models with metrics, in process"
METERED_TURN = "one event per loop turn with metrics, in process"
FIRST_EVENT = "connection to first event, in process"


class NullSend(Connection):
    """Its `first` is done when the first bytes of the body are there."""

    def __init__(
        self, path: str, query: bytes = b"", headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        headers = [(b"host", b"localhost"), *headers]
        super().__init__(path, headers=headers, query_string=query)
        self.first = asyncio.get_running_loop().create_future()

    async def send(self, message: Any) -> None:
        if message.get("body") and not self.first.done():
            self.first.set_result(None)


async def stream(path: str, count: int) -> None:
    from .app import app

    await NullSend(path, b"n=%d" % count).run(app)


async def first_events(path: str, count: int) -> None:
    """So many streams, each of which its client leaves after its first event."""
    from .app import app

    for _ in range(count):
        connection = NullSend(path)
        request = asyncio.ensure_future(connection.run(app))
        await connection.first
        request.cancel()
        await asyncio.wait({request})


async def with_metrics(path: str, count: int) -> None:
    """As `stream`, observed as `sserpent.metrics` does."""
    stop = instrument_prometheus(CollectorRegistry())
    try:
        await stream(path, count)
    finally:
        stop()


def counted() -> Iterator[Counted]:
    """Not sync generators: how threads meet differs from run to run."""
    for kind in ("models", "events", "tokens", "dicts", "records"):
        for name, events in (("sserpent", 500), ("fastapi", 50)):
            run = partial(stream, f"/{name}/{kind}")
            yield Counted(f"burst of {kind}, in process", name, events, run)
    for name, events in (("typed", 500), ("sserpent", 500), ("fastapi", 50)):
        run = partial(stream, f"/{name}/named")
        yield Counted("burst of named, in process", name, events, run)
    for name, run in (("sserpent", stream), ("metrics", with_metrics)):
        for case, kind, events in ((METERED_BURST, "models", 500), (METERED_TURN, "turn", 100)):
            yield Counted(case, name, events, partial(run, f"/sserpent/{kind}"), process=name)
    for name in ("sserpent", "hand", "asgi", "fastapi"):
        yield Counted(TURN, name, 100, partial(stream, f"/{name}/turn"))
        yield Counted(FIRST_EVENT, name, 20, partial(first_events, f"/{name}/idle"))
