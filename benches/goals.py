"""The speed that is aimed at. Each goal stands with the cells that it is computed from and with why
it may be missed; every figure in a reason is one that the run has counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from . import gateway, reading
from .channels import brokers, compressed, fanout, herd, runs
from .core import calls
from .delivery import idle, in_process, mixed
from .harness.callgrind import BY_LIBRARY, INSTRUCTIONS
from .harness.timing import Tables, ratio

Cell = tuple[str, str, str]  # table, case, contender

NAMES = {
    "fastapi": "`fastapi.sse`",
    "sserpent": "`sserpent`",
    "sserpent-pure": "`sserpent`, pure Python",
    "typed": "`sserpent`, typed events",
    "hand": "`StreamingResponse`, hand-framed",
    "orjson": "`orjson.dumps`, hand-framed",
    "joined": "hand-framed, 100 events a chunk",
    "asgi": "bare ASGI",
    "to_json": "`to_json` alone",
    "metrics": "`sserpent`, with metrics",
    "axum": "axum (no Python)",
    "none": "no streams",
    "plain": "a plain stream",
    "loop": "a loop over `send`",
    "queues": "`sserpent`, a queue for each client",
    "memory": "channels in process",
    "redis": "channels on Redis",
    "generator": "its generator, streamed",
    "memchr": "one `memchr` pass",
    "copied": "joined and decoded",
}


def name_of(contender: str) -> str:
    return NAMES.get(contender, f"`{contender}`")


@dataclass(frozen=True)
class Goal:
    """A ratio that is to be at least a limit (≥), or at most (≤).

    `value` raises KeyError where the run has not measured it. `counted` is the case of the
    instructions that the reason is shown with.
    """

    work: str
    versus: str
    limit: str
    value: Callable[[Tables], float]
    reason: str = "not explained yet"
    counted: str = ""

    def is_met(self, value: float) -> bool:
        sign, limit = self.limit.split()
        return value >= float(limit) if sign == "≥" else value <= float(limit)

    def because(self, reason: str, counted: str = "") -> Goal:
        return replace(self, reason=reason, counted=counted)

    def why(self, tables: Tables) -> str:
        """The reason, with what was counted for each contender."""
        case = self.counted
        counts = tables[INSTRUCTIONS].cases.get(case, {}) if INSTRUCTIONS in tables else {}
        shown = []
        for contender, (total,) in counts.items():
            libraries = tables[BY_LIBRARY].cases[f"{case}: {contender}"]
            most = {name: spent for name, (spent,) in libraries.items() if spent > total / 50}
            parts = ", ".join(f"{name} {spent:,.0f}" for name, spent in most.items())
            shown.append(f"{name_of(contender)} {total:,.0f} ({parts})")
        return f"{self.reason}. Instructions: {'; '.join(shown)}" if shown else self.reason


def faster(
    work: str,
    table: str,
    case: str,
    limit: str,
    peer: str = "fastapi",
    contender: str = "sserpent",
) -> Goal:
    versus = f"times as fast as {name_of(peer)}"
    return Goal(work, versus, limit, lambda t: t[table].ratio(case, peer, contender))


def reads(case: str, peer: str, limit: str) -> Goal:
    return faster(f"reading {case}", reading.NAME, case, limit, peer)


def reads_pure(case: str, peer: str, limit: str) -> Goal:
    return faster(f"reading {case}{PURE}", reading.NAME, case, limit, peer, "sserpent-pure")


def share(work: str, above: Cell, below: Cell, limit: str) -> Goal:
    def value(tables: Tables) -> float:
        return ratio((tables[above[0]], *above[1:]), (tables[below[0]], *below[1:]))

    return Goal(work, f"of {name_of(below[2])}", limit, value)


def share_of(peer: str, work: str, table: str, case: str, limit: str) -> Goal:
    return share(work, (table, case, "sserpent"), (table, case, peer), limit)


def takes(work: str, cell: Cell, limit: str) -> Goal:
    """What it takes, in the unit of its table, however fast the machine is."""
    table, case, contender = cell
    value = lambda tables: tables[table].value(case, contender)  # noqa: E731
    return Goal(work, f"in {name_of(contender)}", limit, value)


def flat(work: str, table: str, cases: str) -> Goal:
    """The largest change, up or down, from the first of the cases whose names begin alike."""

    def value(tables: Tables) -> float:
        named = (case for case in tables[table].cases if case.startswith(cases))
        first, *others = ((tables[table], case, "sserpent") for case in named)
        return max(max(each, 1 / each) for each in (ratio(other, first) for other in others))

    return Goal(work, "largest change, as a factor", "≤ 1.15", value)


PURE = ", pure Python"
BURST = "uvicorn, burst"
TURN = "uvicorn, one event per loop turn"
PACED = "uvicorn, paced streams"
MEMORY = "uvicorn, memory per idle connection"
FIRST_EVENT = "uvicorn, connection to first event"
IDLE = idle.CASE
TOKEN = "token with event"
MODEL = "model with event, id, retry"
LINES = "100 KB, 1,350 lines"
RECORD = "dict with UUID and datetime"
PRICED = "dict with Decimals, datetime, timedelta"
DATACLASS = "dataclass with UUID and datetime"
RECORDS = "list of 100 dicts with UUID and datetime"

WRITER = (
    "each key and value is asked for its type, read and written by itself; the rest is the call,"
    " the buffer's lock and its clock"
)
ENGINE = (
    "in process it takes about as many instructions: one frame of Python less, and in its place an"
    " exchange of asyncio's current task around each `send`, a look at the time after it, and"
    " `by_alias` for pydantic-core"
)
OBJECTS = (
    "the event and its text are objects that CPython makes and frees; the search for line ends is a"
    " small part"
)
STEPS = "byte codes for each event: the block, its prefix, the object and its four attributes"

CLIENT = (
    "a request of FastAPI's and its response take what a loop over `send` takes; on top are the"
    " subscription's coroutine, the delivery, its timer, and where the client stands"
)
REDIS = (
    "the script is most of it, which Redis carries out alone: it reads the newest entry, appends,"
    " trims and publishes"
)

ONE_PUBLISH = fanout.deliveries_of(fanout.SUBSCRIBERS)
CHANNELS = (
    share_of("loop", "one publish for 1,000 clients", *ONE_PUBLISH, "≤ 1.1").because(
        "each client is asked what it has not had yet, sends in a context and as a task of its own,"
        " and all of that comes from memory that the processor has not seen since the last publish",
        fanout.DELIVERY,
    ),
    share_of("queues", "one publish for 1,000 clients", *ONE_PUBLISH, "≤ 0.65"),
    share_of("fastapi", "one publish for 1,000 clients", *ONE_PUBLISH, "≤ 0.08").because(
        "the server's `send` and the kernel are nearly all of it, and a bare loop needs them too"
    ),
    share(
        "one publish, a delivery to 8,000 clients",
        (*fanout.deliveries_of(fanout.MANY), "sserpent"),
        (*ONE_PUBLISH, "sserpent"),
        "≤ 1.15",
    ),
    takes("100 events at once for 1,000 clients, µs per delivery", fanout.A_BURST, "≤ 0.2").because(
        "publishing a hundred events, each validated and framed, is a part of it, the kernel's copy"
        " to each client another"
    ),
    takes("memory of a subscriber, KiB", fanout.AN_IDLE, "≤ 22").because(CLIENT),
    share_of("fastapi", "memory of a subscriber", *fanout.AN_IDLE[:2], "≤ 0.4").because(CLIENT),
    takes("longest stall of the event loop, 5,000 clients, ms", fanout.A_STALL, "≤ 6").because(
        "a slice is two milliseconds by the clock; what is longer, the processor did other work"
    ),
    *(
        takes(f"{herd.COMING}, {work}", (table, herd.FROZEN, "sserpent"), limit)
        for work, table, limit in (
            ("until all have an event, s", herd.BACK, "≤ 6"),
            ("longest stall, ms", herd.STALL, "≤ 100"),
        )
    ),
    takes(
        f"{herd.COMING}, a connection, µs", (herd.PROCESSOR, herd.FROZEN, "sserpent"), "≤ 400"
    ).because(
        "what bare ASGI takes is the server's and the kernel's; of the rest, FastAPI takes two"
        " thirds, to come to an endpoint with one dependency",
        herd.COUNTED,
    ),
    takes(
        f"{herd.GOING}, longest stall, ms", (herd.LEAVING, herd.FROZEN, "sserpent"), "≤ 50"
    ).because(
        "the server tells all streams in one turn of the event loop, bare ASGI's too; what they do"
        " then is spread over turns"
    ),
    takes("publishing, µs", (brokers.PUBLISH, "1 task", "memory"), "≤ 5").because(
        "sixteen calls in Python, from the check of the key to the history's limits"
    ),
    takes("publishing from 100 tasks, µs", (brokers.PUBLISH, "100 tasks", "redis"), "≤ 25").because(
        REDIS
    ),
    takes("publishing from 10 tasks, µs", (brokers.PUBLISH, "10 tasks", "redis"), "≤ 50").because(
        REDIS
    ),
    takes("replaying, µs per event", (brokers.REPLAY, "all", "memory"), "≤ 1"),
    takes("replaying, µs per event", (brokers.REPLAY, "all", "redis"), "≤ 5").because(
        "each entry is read, and made an object, in Python, while Redis reads the next ones"
    ),
    takes(
        "publish to `send`, half of them, ms", (brokers.LATENCY, "half of them", "redis"), "≤ 0.25"
    ).because(
        "it is one way to Redis and one back, its script between them, and a turn of the event loop"
        " at each end: four times some other process may have the processor"
    ),
    takes("publish to `send`, 99 %, ms", (brokers.LATENCY, "99 %", "redis"), "≤ 1"),
    takes(
        "10,000 keys, µs per event that comes in", (brokers.MANY_KEYS, "all", "redis"), "≤ 33"
    ).because(
        "each is a message of its own, which is read, compared with where its key stands, and"
        " handed to who follows that key, in Python"
    ),
    share(
        "commands of 1,000 clients that come back with one cursor",
        (brokers.COMMANDS, "1,000 that come back", "redis"),
        (brokers.COMMANDS, "1 that come back", "redis"),
        "≤ 1.5",
    ),
    share(
        "a token of a run in this process",
        (runs.TIME, runs.CASE, "memory"),
        (runs.TIME, runs.CASE, "generator"),
        "≤ 1.5",
    ).because(
        "a token of a run is kept, with an id, for whoever comes later: 46 calls in Python, 13 of"
        " which a token of a stream takes too",
        runs.A_TOKEN,
    ),
    share(
        "a token of a run on Redis",
        (runs.TIME, runs.CASE, "redis"),
        (runs.TIME, runs.CASE, "generator"),
        "≤ 3",
    ).because("what is said of a run in this process, and a command of Redis for 50 ms of tokens"),
    takes(
        "a token of a run, µs of Redis's time", (runs.IN_REDIS, runs.CASE, "redis"), "≤ 5"
    ).because(
        "in 50 ms there are three tokens of each stream, and a call of the script takes as long for"
        " one as for many"
    ),
)


def compresses(what: str, table: str, case: str, limit: str, peer: str = "plain") -> Goal:
    return share_of(peer, f"compressed {case}, {what}", table, case, limit)


def more_memory(case: str, limit: str) -> Goal:
    def value(tables: Tables) -> float:
        table = tables[compressed.MEMORY]
        return table.value(case, "sserpent") - table.value(case, "plain")

    return Goal(f"compressed {case}, memory, KiB", "more than a plain stream", limit, value)


JSON, HTML, AT_ONCE = compressed.CASES
SHARED = (
    "what is compressed once for all is passed on to each client after a look at whether it stands"
    " where the one before stood, in objects of its own that a plain client does not have and that"
    " the processor has not seen since the last publish"
)
COMPRESSION = (
    compresses("processor time", compressed.TIME, JSON, "≤ 1.05").because(SHARED),
    compresses("processor time", compressed.TIME, HTML, "≤ 1"),
    compresses("processor time", compressed.TIME, AT_ONCE, "≤ 1.2").because(
        f"each of the hundred events is compressed by itself, and flushed, once; {SHARED}"
    ),
    compresses("processor time", compressed.TIME, compressed.GENERATOR, "≤ 1.25").because(
        "zlib is nearly all of what is added: one call to compress and one to flush, each time with"
        " the window of another stream, which the processor's cache has lost meanwhile. zlib's"
        " quick search, which is used where events are small, takes a third less than its thorough"
        " one and finds as much in LLM chunks. A window of half the size takes as long and makes"
        " three times the bytes, and a fixed Huffman code saves nothing: zlib counts the symbols"
        " anyway"
    ),
    compresses("processor time", compressed.TIME, JSON, "≤ 0.6", "starlette-compress").because(
        SHARED
    ),
    compresses("processor time", compressed.TIME, HTML, "≤ 0.25", "starlette-compress").because(
        "the server's `send` and the kernel are nearly all of it: a plain stream takes more than"
        " this goal allows, and the compressed one takes less than a plain one"
    ),
    compresses("bytes", compressed.BYTES, JSON, "≤ 0.35").because(
        "nearly all of the clients join just before they are measured: until a segment of the chain"
        " begins, sixteen events after the last one at the earliest, they get events compressed by"
        " themselves, which makes JSON hardly smaller. A segment that began at once would cost the"
        " clients that are in one already. zlib's highest levels save one byte in seventy here, and"
        " take three times as long for HTML"
    ),
    compresses("bytes", compressed.BYTES, HTML, "≤ 0.1"),
    compresses("bytes", compressed.BYTES, compressed.GENERATOR, "≤ 0.12"),
    more_memory(JSON, "≤ 2"),
    more_memory(compressed.GENERATOR, "≤ 18"),
)
READING = (
    reads(reading.TOKENS, "httpx-sse", "≥ 11"),
    reads(reading.TOKENS, "httpx2", "≥ 18").because(OBJECTS, reading.COUNTED_TOKENS),
    reads(reading.TOKENS, "openai", "≥ 28").because(OBJECTS, reading.COUNTED_TOKENS),
    share(
        f"reading {reading.TOKENS}",
        (reading.NAME, reading.TOKENS, "sserpent"),
        (reading.NAME, reading.TOKENS, "memchr"),
        "≤ 8",
    ).because(OBJECTS, reading.COUNTED_TOKENS),
    reads(reading.ONE, "httpx-sse", "≥ 10"),
    reads(reading.LINES, "httpx-sse", "≥ 40").because(
        "each line is found, compared with `data:` and copied by itself"
    ),
    reads(reading.MEGABYTE, "httpx-sse", "≥ 2.5"),
    reads(reading.TYPED, "httpx-sse", "≥ 2.2").because("pydantic-core is most of it"),
    faster("gateway", gateway.NAME, gateway.NATIVE, "≥ 1.3", "httpx-sse").because(
        "httpx is most of it"
    ),
    reads_pure(reading.TOKENS, "httpx-sse", "≥ 1.8").because(STEPS),
    reads_pure(reading.TOKENS, "httpx2", "≥ 3").because(STEPS),
    reads_pure(reading.TOKENS, "openai", "≥ 5").because(STEPS),
    reads_pure(reading.ONE, "httpx-sse", "≥ 1.2"),
    reads_pure(reading.LINES, "httpx-sse", "≥ 1.8"),
    reads_pure(reading.MEGABYTE, "httpx-sse", "≥ 1.2"),
    reads_pure(reading.TYPED, "httpx-sse", "≥ 1.5").because("pydantic-core is most of it"),
    faster(f"gateway{PURE}", gateway.NAME, gateway.PURE, "≥ 1.05", "httpx-sse", "sserpent-pure"),
    *(
        share(
            f"reading one event of 8 MB, against one of 1 MB, {unit}",
            (table, large, contender),
            (table, small, contender),
            "≤ 9",
        ).because(
            'the instructions are linear. The copies of CPython, `b"".join(chunks).decode()`, grow'
            " as much, as their row shows: a stream of 1 MB, its buffer and its text stay in the"
            " processor's cache and in memory that the process has already, those of 8 MB are read"
            " from main memory and written to pages that the kernel has to clear first. With"
            " `malloc` told to keep its memory the ratio falls by a quarter, but a library must not"
            " tell it that"
        )
        for contender in ("sserpent", "sserpent-pure")
        for unit, table, large, small in (
            ("time", reading.NAME, reading.LARGE, reading.MEGABYTE),
            ("instructions", INSTRUCTIONS, reading.COUNTED_LARGE, reading.COUNTED_MEGABYTE),
        )
    ),
)
GOALS = (
    *(
        share_of(
            "hand",
            f"plain requests beside {mixed.STREAMS:,} streams, p{percentile}",
            mixed.name_of_table(percentile),
            mixed.CASE,
            "≤ 1.1",
        )
        for percentile in (95, 99)
    ),
    faster("burst of annotated models", BURST, "models", "≥ 55"),
    faster("burst of `ServerSentEvent(data=model, event, id)`", BURST, "events", "≥ 45"),
    faster("burst of `raw_data` tokens", BURST, "tokens", "≥ 220").because(
        "the generator makes an event object for each, the engine steps it",
        "burst of tokens, in process",
    ),
    faster("sync generator of models", BURST, "sync", "≥ 100"),
    faster("burst of dicts, no annotation", BURST, "dicts", "≥ 110").because(
        "JSON is most of it", "burst of dicts, in process"
    ),
    faster("burst of dicts with UUID and datetime", BURST, "records", "≥ 70").because(
        WRITER, "burst of records, in process"
    ),
    faster("one event per loop turn", TURN, "models", "≥ 4.2").because(
        "the turn of the loop, the server's `send` and the kernel are nearly all of it, and bare"
        " ASGI needs them too"
    ),
    share_of("hand", "one event per loop turn", TURN, "models", "≤ 1").because(
        ENGINE, in_process.TURN
    ),
    share_of("hand", "1 paced stream", PACED, "1 at once", "≤ 1").because(ENGINE),
    share_of("hand", "100 paced streams", PACED, "100 at once", "≤ 1").because(ENGINE),
    share_of("hand", "1,000 paced streams", PACED, "1,000 at once", "≤ 1").because(ENGINE),
    share(
        "instructions of a burst of models with metrics",
        (INSTRUCTIONS, in_process.METERED_BURST, "metrics"),
        (INSTRUCTIONS, in_process.METERED_BURST, "sserpent"),
        "≤ 1.02",
    ),
    share(
        "instructions of one event per loop turn with metrics",
        (INSTRUCTIONS, in_process.METERED_TURN, "metrics"),
        (INSTRUCTIONS, in_process.METERED_TURN, "sserpent"),
        "≤ 1.02",
    ),
    share_of("fastapi", "memory per idle connection", MEMORY, IDLE, "≤ 0.5"),
    share_of("hand", "memory per idle connection", MEMORY, IDLE, "≤ 1"),
    share_of("fastapi", "connection to first event", FIRST_EVENT, IDLE, "≤ 0.4").because(
        "connecting, accepting and parsing are the same for all and come on top of what is counted"
        " here, which is from request to first event in process",
        in_process.FIRST_EVENT,
    ),
    faster(f"construct + encode, {TOKEN}", "encode", TOKEN, "≥ 12"),
    faster(f"construct + encode, {TOKEN}", "encode", TOKEN, "≥ 4", "sserpent-pure"),
    faster(f"construct + encode, {MODEL}", "encode", MODEL, "≥ 5"),
    share(
        f"construct + encode, {MODEL}",
        ("encode", MODEL, "sserpent"),
        ("to_json", "model", "to_json"),
        "≤ 1.4",
    ).because(
        "CPython makes and frees two objects and calls two functions more", f"encode: {MODEL}"
    ),
    faster("100 KB of text, one line", "encode", "100 KB in one line", "≥ 20"),
    faster("100 KB of text, 1,350 lines", "encode", LINES, "≥ 20").because(
        "each line end is looked for twice, for the size and for the copy", f"encode: {LINES}"
    ),
    share_of("orjson", "push of a dict", "push", "dict", "≤ 1.6").because(WRITER, "push: dict"),
    faster(f"push of a {RECORD}", "push", RECORD, "≥ 30").because(WRITER, f"push: {RECORD}"),
    faster(f"push of a {RECORD}", "push", RECORD, "≥ 12", "sserpent-pure").because(WRITER),
    faster(f"push of a {PRICED}", "push", PRICED, "≥ 25").because(WRITER),
    faster(f"push of a {DATACLASS}", "push", DATACLASS, "≥ 25").because(WRITER),
    faster(f"push of a {RECORDS}", "push", RECORDS, "≥ 25").because(WRITER),
    share_of(
        "plain",
        f"instructions of a push of a {calls.UI}",
        INSTRUCTIONS,
        f"push: {calls.UI}",
        "≤ 1.05",
    ),
    share_of(
        "plain",
        f"instructions of a push of a {calls.RESPONSES}",
        INSTRUCTIONS,
        f"push: {calls.RESPONSES}",
        "≤ 1.3",
    ).because(
        "the name is looked at for line ends and written as a line of its own, and each key is"
        " compared with two names",
        f"push: {calls.RESPONSES}",
    ),
    flat(
        "cost per event, 1,000 to 1,000,000 in a stream", "uvicorn, length of the stream", ""
    ).because(
        "the measurements of each length differ among themselves by more than the lengths do"
    ),
    flat(
        "cost per event, 1 to 1,000 streams at once", "uvicorn, concurrent streams", "burst"
    ).because(
        "the measurements of each number differ among themselves by more than the numbers do"
    ),
    *CHANNELS,
    *COMPRESSION,
    *READING,
)
