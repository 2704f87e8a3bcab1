"""Reading: the parser of both backends against the decoders that Python has, each first checked to
give the same events. `python -m benches.reading`, or `run()`, which returns the rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any, NamedTuple

import httpx
from pydantic import BaseModel, TypeAdapter

from sserpent._core import compiled, pure
from sserpent._core.conversion import json_validator, validate_event

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from readers import READERS

TOKEN = (
    b'data: {"id":"chatcmpl-123","object":"chat.completion.chunk",'
    b'"choices":[{"delta":{"content":" token"}}]}\n\n'
)
LINES = b"".join(b"data: line %d\n" % number for number in range(20)) + b"\n"
MEGABYTE = b"data: " + b"x" * 2**20 + b"\n\n"


class Row(NamedTuple):
    """How many times as long a peer takes as a backend; and the goal, if there is one."""

    work: str
    backend: str
    peer: str
    ratio: float
    at_least: float | None


def chunked(stream: bytes, size: int) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


WORK = {
    "LLM tokens, 16 KB chunks": chunked(TOKEN * 4000, 16_384),
    "one event per chunk": [TOKEN] * 4000,
    "20 short lines per event": chunked(LINES * 500, 16_384),
    "1 MB event in 1 KB chunks": chunked(MEGABYTE, 1024),
}
# Rust, then pure Python.
GOALS = {
    ("LLM tokens, 16 KB chunks", "httpx-sse"): (11, 1.8),
    ("LLM tokens, 16 KB chunks", "httpx2"): (18, 3),
    ("LLM tokens, 16 KB chunks", "openai"): (28, 5),
    ("one event per chunk", "httpx-sse"): (10, 1.2),
    ("20 short lines per event", "httpx-sse"): (40, 1.8),
    ("1 MB event in 1 KB chunks", "httpx-sse"): (2.5, 1.2),
}


def parsed(core: Any) -> Callable[[list[bytes]], list[str]]:
    def read(chunks: list[bytes]) -> list[str]:
        feed = core.EventStreamParser().feed
        return [event.data for chunk in chunks for event in feed(chunk)]

    return read


def decoded(name: str) -> Callable[[list[bytes]], list[str]]:
    def read(chunks: list[bytes]) -> list[str]:
        return [event.data for event in READERS[name](chunks)]

    return read


CORES = {"rust": compiled, "python": pure}
OURS = {name: parsed(core) for name, core in CORES.items()}
PEERS = {name: decoded(name) for name in READERS if name not in ("sserpent", "mcp")}
# Quadratic on large events: a run would take minutes.
QUADRATIC = {"anthropic", "sseclient-py", "launchdarkly-eventsource"}


def seconds(read: Callable[[list[bytes]], list[str]], chunks: list[bytes]) -> float:
    """Processor time. On a busy machine a clock counts what others take too, and more of it for the
    slower contender, which is interrupted more often: the ratio comes out too high."""
    start = process_time()
    read(chunks)
    return process_time() - start


def run(rounds: int = 5) -> list[Row]:
    """The median ratio of the pairs of each round, and growth with the size of an event."""
    rows = []
    for work, chunks in WORK.items():
        peers = {n: r for n, r in PEERS.items() if len(chunks) < 1000 or n not in QUADRATIC}
        contenders = {**OURS, **peers}
        expected = OURS["python"](chunks)
        for name, read in contenders.items():
            assert read(chunks) == expected, f"{name} reads other events of {work}"
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(rounds):
            for name in contenders if number % 2 == 0 else reversed(contenders):
                times[name].append(seconds(contenders[name], chunks))
        for at, backend in enumerate(OURS):
            for peer in peers:
                pairs = zip(times[peer], times[backend], strict=True)
                goal = GOALS.get((work, peer))
                ratio = median(theirs / ours for theirs, ours in pairs)
                rows.append(Row(work, backend, peer, ratio, goal and goal[at]))
    small = chunked(MEGABYTE, 1024)
    large = chunked(b"data: " + b"x" * 2**23 + b"\n\n", 1024)
    for backend, read in OURS.items():
        growth = median(seconds(read, large) / seconds(read, small) for _ in range(rounds))
        rows.append(Row("8 MB against 1 MB (at most 9)", backend, "itself", growth, None))
    return rows


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


def run_typed(rounds: int) -> list[Row]:
    chunks = chunked(TOKEN * 4000, 16_384)
    return against(
        "typed events, 16 KB chunks",
        {name: typed(core) for name, core in CORES.items()},
        dict.fromkeys(CORES, typed_httpx_sse),
        (2.2, 1.5),
        rounds,
        lambda read: read(chunks),
    )


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
        connection.sendall(chunk * 4000 + b"0\\r\\n\\r\\n")
"""


@contextmanager
def upstream() -> Iterator[str]:
    command = [sys.executable, "-c", UPSTREAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
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


def run_gateway(rounds: int) -> list[Row]:
    with upstream() as url, httpx.Client() as client:

        def stream(forward: Callable[[httpx.Response], Any]) -> Any:
            with client.stream("GET", url) as response:
                return forward(response)

        return against(
            "gateway on httpx, processor time",
            {name: gateway(core) for name, core in CORES.items()},
            {name: gateway_httpx_sse(core) for name, core in CORES.items()},
            (1.3, 1.05),
            rounds,
            stream,
        )


def against(
    work: str,
    ours: dict[str, Any],
    theirs: dict[str, Any],
    goals: tuple[float, float],
    rounds: int,
    call: Callable[[Any], Any],
) -> list[Row]:
    """The median ratio of pairs: httpx-sse's processor time over ours, for each backend."""

    def spent(contender: Any) -> float:
        start = process_time()
        call(contender)
        return process_time() - start

    rows = []
    for (backend, mine), goal in zip(ours.items(), goals, strict=True):
        peer = theirs[backend]
        assert call(mine) == call(peer), f"httpx-sse reads other events of {work}"
        ratio = median(spent(peer) / spent(mine) for _ in range(rounds))
        rows.append(Row(work, backend, "httpx-sse", ratio, goal))
    return rows


def main() -> None:
    for row in [*run(), *run_typed(rounds=9), *run_gateway(rounds=9)]:
        goal = "" if row.at_least is None else f"goal {row.at_least:g}"
        print(f"{row.work}: {row.backend} against {row.peer}: {row.ratio:.2f} {goal}")


if __name__ == "__main__":
    main()
