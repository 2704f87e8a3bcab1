"""Reading: the parser of both backends against the decoders that Python has, each first checked to
give the same events. `python -m benches.reading`, or `run()`, which returns the rows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

from sserpent._core import compiled, pure

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


OURS = {"rust": parsed(compiled), "python": parsed(pure)}
PEERS = {name: decoded(name) for name in READERS if name not in ("sserpent", "mcp")}
# Quadratic on large events: a run would take minutes.
QUADRATIC = {"anthropic", "sseclient-py", "launchdarkly-eventsource"}


def seconds(read: Callable[[list[bytes]], list[str]], chunks: list[bytes]) -> float:
    start = perf_counter()
    read(chunks)
    return perf_counter() - start


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


def main() -> None:
    for row in run():
        goal = "" if row.at_least is None else f"goal {row.at_least:g}"
        print(f"{row.work}: {row.backend} against {row.peer}: {row.ratio:.2f} {goal}")


if __name__ == "__main__":
    main()
