"""Reading: the parser of both backends against the decoders that Python has."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from time import process_time
from typing import Any

import httpx
from pydantic import BaseModel, TypeAdapter

from readers import READERS
from sserpent._core import compiled, pure
from sserpent._core.conversion import json_validator, validate_event

from .harness.callgrind import Counted
from .harness.servers import cores, pin
from .harness.timing import Table, Turn, in_turns

NAME = "reading"
TOKENS = "LLM tokens, 16 KB chunks"
ONE = "one event per chunk"
LINES = "20 short lines per event"
MEGABYTE = "1 MB event in 1 KB chunks"
LARGE = "8 MB event in 1 KB chunks"
TYPED = "typed events, 16 KB chunks"
GATEWAY = "gateway on httpx, one event per chunk"
PURE_GATEWAY = f"{GATEWAY}, pure Python"
COUNTED_TOKENS = "reading 100 LLM tokens"
COUNTED_MEGABYTE = f"reading a {MEGABYTE}"
COUNTED_LARGE = f"reading an {LARGE}"

TOKEN = (
    b'data: {"id":"chatcmpl-123","object":"chat.completion.chunk",'
    b'"choices":[{"delta":{"content":" token"}}]}\n\n'
)
COUNT = 4000
SHORT_LINES = b"".join(b"data: line %d\n" % number for number in range(20)) + b"\n"


def chunked(stream: bytes, size: int) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


def large(megabytes: int) -> list[bytes]:
    return chunked(b"data: " + b"x" * (megabytes * 2**20) + b"\n\n", 1024)


# The chunks of each case, and how many events they are.
STREAMS = {
    TOKENS: (chunked(TOKEN * COUNT, 16_384), COUNT),
    ONE: ([TOKEN] * COUNT, COUNT),
    LINES: (chunked(SHORT_LINES * 500, 16_384), 500),
    MEGABYTE: (large(1), 1),
}
CORES = {"sserpent": compiled, "sserpent-pure": pure}
# What reads chunks, and returns what it has found.
Reader = Callable[[list[bytes]], list[Any]]


def parsed(core: Any) -> Reader:
    def read(chunks: list[bytes]) -> list[str]:
        feed = core.EventStreamParser().feed
        return [event.data for chunk in chunks for event in feed(chunk)]

    return read


def decoded(name: str) -> Reader:
    def read(chunks: list[bytes]) -> list[str]:
        return [event.data for event in READERS[name](chunks)]

    return read


OURS = {name: parsed(core) for name, core in CORES.items()}
# The MCP SDK's is httpx2's.
PEERS = {name: decoded(name) for name in READERS if name not in ("sserpent", "mcp")}
# Quadratic on large events: a run would take minutes.
QUADRATIC = {"anthropic", "sseclient-py", "launchdarkly-eventsource"}

# A contender's work, and what it has found.
Work = Callable[[], Any]


def run(quick: bool) -> Iterable[Table]:
    """Processor time: a clock counts what others take too."""
    table = Table(NAME, "µs of processor time per event", minima=True)
    with gateways() as forwarded:
        for case, events, contenders in [*cases(), *forwarded]:
            found = [work() for work in contenders.values()]
            assert all(each == found[0] for each in found), f"{case}: not the same events"
            # Makes no events.
            if case == TOKENS:
                contenders["memchr"] = partial(searched, STREAMS[TOKENS][0])
            turns = {(case, name): turn_of(work, events) for name, work in contenders.items()}
            in_turns([table], turns, rounds=3 if quick else 9)
    return [table]


def turn_of(work: Work, events: int) -> Turn:
    def turn() -> list[float]:
        started = process_time()
        work()
        return [(process_time() - started) / events * 1e6]

    return turn


def cases() -> Iterator[tuple[str, int, dict[str, Work]]]:
    for case, (chunks, events) in STREAMS.items():
        peers = {n: read for n, read in PEERS.items() if case != MEGABYTE or n not in QUADRATIC}
        yield case, events, works({**OURS, **peers}, chunks)
    yield LARGE, 1, works(OURS, large(8))
    readers = {name: typed(core) for name, core in CORES.items()}
    readers["httpx-sse"] = typed_httpx_sse
    yield TYPED, COUNT, works(readers, STREAMS[TOKENS][0])


def works(readers: dict[str, Reader], chunks: list[bytes]) -> dict[str, Work]:
    return {name: partial(read, chunks) for name, read in readers.items()}


def searched(chunks: list[bytes]) -> None:
    """One pass of the C library's `memchr` over all bytes: nobody who looks at them takes less."""
    for chunk in chunks:
        assert chunk.find(b"\0") == -1


def counted() -> Iterator[Counted]:
    """What valgrind counts."""

    def reading(read: Reader, chunks: list[bytes]) -> Callable[[int], None]:
        def many(count: int) -> None:
            for _ in range(count):
                read(chunks)

        return many

    for name, read in OURS.items():
        tokens = chunked(TOKEN * 100, 16_384)
        yield Counted(COUNTED_TOKENS, name, 10, reading(read, tokens))
        yield Counted(COUNTED_MEGABYTE, name, 1, reading(read, large(1)))
        yield Counted(COUNTED_LARGE, name, 1, reading(read, large(8)))


# Typed events


class Delta(BaseModel):
    content: str


class Choice(BaseModel):
    delta: Delta


class Completion(BaseModel):
    id: str
    object: str
    choices: list[Choice]


def typed(core: Any) -> Callable[[list[bytes]], list[Any]]:
    validate = json_validator(Completion)

    def read(chunks: list[bytes]) -> list[Any]:
        feed = core.EventStreamParser().feed
        return [validate_event(event, validate) for chunk in chunks for event in feed(chunk)]

    return read


def typed_httpx_sse(chunks: list[bytes]) -> list[Any]:
    validate = TypeAdapter(Completion).validate_python
    return [validate(json.loads(event.data)) for event in READERS["httpx-sse"](chunks)]


# A gateway: reads with httpx from a server in another process, and writes each event again

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
def gateways() -> Iterator[list[tuple[str, int, dict[str, Work]]]]:
    with upstream() as url, httpx.Client() as client:

        def stream(forward: Callable[[httpx.Response], Any]) -> Any:
            with client.stream("GET", url) as response:
                return forward(response)

        yield [
            (
                case,
                COUNT,
                {
                    name: partial(stream, gateway(CORES[name])),
                    "httpx-sse": partial(stream, gateway_httpx_sse(CORES[name])),
                },
            )
            for case, name in ((GATEWAY, "sserpent"), (PURE_GATEWAY, "sserpent-pure"))
        ]
