"""Reading: the parser of both backends against the decoders that Python has. `test_calls.py` times
it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

from pydantic import BaseModel, TypeAdapter

from readers import READERS
from sserpent._core import compiled, pure
from sserpent._core.decoding import json_validator, validate_event

from .harness.callgrind import Counted

NAME = "parse"
TOKENS = "LLM tokens, 16 KB chunks"
ONE = "one event per chunk"
LINES = "20 short lines per event"
MEGABYTE = "1 MB event in 1 KB chunks"
LARGE = "8 MB event in 1 KB chunks"
TYPED = "typed events, 16 KB chunks"
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


class Case(NamedTuple):
    """A stream that is read: `events` are in it, and each contender reads it whole."""

    events: int
    works: dict[str, Work]


@cache
def cases() -> dict[str, Case]:
    found = {}
    for name, (chunks, events) in STREAMS.items():
        peers = {n: read for n, read in PEERS.items() if name != MEGABYTE or n not in QUADRATIC}
        found[name] = Case(events, works({**OURS, **peers}, chunks))
    # Makes no events.
    found[TOKENS].works["memchr"] = partial(searched, STREAMS[TOKENS][0])
    found[LARGE] = Case(1, works(OURS, large(8)))
    for case, chunks in ((MEGABYTE, STREAMS[MEGABYTE][0]), (LARGE, large(8))):
        found[case].works["copied"] = partial(copied, chunks)
    readers = {name: typed(core) for name, core in CORES.items()}
    readers["httpx-sse"] = typed_httpx_sse
    found[TYPED] = Case(COUNT, works(readers, STREAMS[TOKENS][0]))
    return found


@cache
def expected(case: str) -> Any:
    return cases()[case].works["sserpent"]()


def check(case: str, contender: str) -> None:
    """Raises AssertionError unless a contender finds the events that the others find."""
    if contender not in ("memchr", "copied"):
        assert cases()[case].works[contender]() == expected(case)
    if case in (TOKENS, ONE):
        assert expected(case) == [TOKEN.removeprefix(b"data: ").decode().strip()] * COUNT


def works(readers: dict[str, Reader], chunks: list[bytes]) -> dict[str, Work]:
    return {name: partial(read, chunks) for name, read in readers.items()}


def searched(chunks: list[bytes]) -> None:
    """One pass of the C library's `memchr` over all bytes: nobody who looks at them takes less."""
    for chunk in chunks:
        assert chunk.find(b"\0") == -1


def copied(chunks: list[bytes]) -> str:
    """CPython's own two copies, of the chunks and to a text: nobody who collects an event and shows
    it as text takes much less."""
    return b"".join(chunks).decode()


def counted() -> Iterator[Counted]:
    """What valgrind counts."""

    def reading(read: Reader, chunks: list[bytes]) -> Callable[[int], None]:
        def many(count: int) -> None:
            for _ in range(count):
                read(chunks)

        return many

    for name, read in OURS.items():
        tokens = chunked(TOKEN * 100, 16_384)
        yield Counted(COUNTED_TOKENS, name, 10, reading(read, tokens), process=NAME)
        yield Counted(COUNTED_MEGABYTE, name, 1, reading(read, large(1)), process=NAME)
        yield Counted(COUNTED_LARGE, name, 1, reading(read, large(8)), process=NAME)


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
