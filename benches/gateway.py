"""A gateway: reads with httpx from a server in another process, and writes each event again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from time import process_time
from typing import Any

import httpx

from .harness.servers import cores, pin
from .harness.timing import Table, Turn, in_turns
from .reading import CORES, COUNT, TOKEN, Work

NAME = "gateway on httpx, one event per chunk"
NATIVE = "on the compiled core"
PURE = "in pure Python"


def run(quick: bool) -> Iterable[Table]:
    """Processor time: a clock counts what others take too."""
    table = Table(NAME, "µs of processor time per event", minima=True)
    with gateways() as forwarded:
        for case, contenders in forwarded.items():
            found = [work() for work in contenders.values()]
            assert all(each == found[0] for each in found), f"{case}: not the same events"
            turns = {(case, name): turn_of(work) for name, work in contenders.items()}
            in_turns([table], turns, rounds=3 if quick else 9)
    return [table]


def turn_of(work: Work) -> Turn:
    def turn() -> list[float]:
        started = process_time()
        work()
        return [(process_time() - started) / COUNT * 1e6]

    return turn


UPSTREAM = f"""
import socket
chunk = {TOKEN!r}
chunk = b"%x\\r\\n%s\\r\\n" % (len(chunk), chunk)
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
while True:
    connection, _ = listening.accept()
    with connection:
        connection.recv(65536)
        head = "HTTP/1.1 200 OK", "content-type: text/event-stream", "transfer-encoding: chunked"
        connection.sendall("\\r\\n".join([*head, "connection: close", "", ""]).encode())
        connection.sendall(chunk * {COUNT} + b"0\\r\\n\\r\\n")
"""


@contextmanager
def upstream() -> Iterator[str]:
    server_cores, client_cores = cores()
    pin(server_cores)
    command = [sys.executable, "-c", UPSTREAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        pin(client_cores)
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def gateway(core: Any) -> Callable[[httpx.Response], Iterator[Any]]:
    def read(response: httpx.Response) -> Iterator[Any]:
        feed = core.EventStreamParser().feed
        for chunk in response.iter_bytes():
            yield from feed(chunk)

    return forwarded(core, read)


def gateway_httpx_sse(core: Any) -> Callable[[httpx.Response], Iterator[Any]]:
    from httpx_sse import EventSource

    return forwarded(core, lambda response: EventSource(response).iter_sse())


def forwarded(core: Any, read: Callable[[httpx.Response], Iterator[Any]]) -> Callable[..., Any]:
    def forward(response: httpx.Response) -> list[bytes]:
        event = core.ServerSentEvent
        return [event(raw_data=each.data, event="token").encode() for each in read(response)]

    return forward


@contextmanager
def gateways() -> Iterator[dict[str, dict[str, Work]]]:
    """The gateways of a case, each with what reads a whole stream and writes it again."""
    with upstream() as url, httpx.Client() as client:

        def stream(forward: Callable[[httpx.Response], Any]) -> Any:
            with client.stream("GET", url) as response:
                return forward(response)

        yield {
            case: {
                name: partial(stream, gateway(CORES[name])),
                "httpx-sse": partial(stream, gateway_httpx_sse(CORES[name])),
            }
            for case, name in ((NATIVE, "sserpent"), (PURE, "sserpent-pure"))
        }
