"""The decoders of event streams that Python has, each as a function from chunks to what it sees.

Private names are used where a client has no public decoder: what is compared is what its users
get.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, NamedTuple

from stream_cases import CASES, Case, Seen

STANDARD = (
    "https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation"
)


class Read(NamedTuple):
    """An event, and the reconnection time that came with it."""

    event: Seen
    retry: int | None


Reader = Callable[[Iterable[bytes]], Iterator[Any]]


def sserpent(chunks: Iterable[bytes]) -> Iterator[Any]:
    from sserpent.client import iter_events

    return iter_events(chunks)


def httpx_sse(chunks: Iterable[bytes]) -> Iterator[Any]:
    import httpx

    headers = {"content-type": "text/event-stream"}
    response = httpx.Response(200, headers=headers, content=iter(chunks))
    return import_module("httpx_sse").EventSource(response).iter_sse()


def httpx2(chunks: Iterable[bytes]) -> Iterator[Any]:
    import httpx2

    headers = {"content-type": "text/event-stream"}
    request = httpx2.Request("GET", "http://example")
    response = httpx2.Response(200, headers=headers, content=iter(chunks), request=request)
    return iter(httpx2.EventSource(response, max_event_size=None))


def mcp(chunks: Iterable[bytes]) -> Iterator[Any]:
    # Its transports read with httpx2's `EventSource`.
    assert (
        import_module("mcp.client.streamable_http").EventSource
        is import_module("httpx2").EventSource
    )
    return httpx2(chunks)


def openai(chunks: Iterable[bytes]) -> Iterator[Any]:
    return import_module("openai._streaming").SSEDecoder().iter_bytes(iter(chunks))


def anthropic(chunks: Iterable[bytes]) -> Iterator[Any]:
    return import_module("anthropic._streaming").SSEDecoder().iter_bytes(iter(chunks))


def sseclient(chunks: Iterable[bytes]) -> Iterator[Any]:
    return import_module("sseclient").SSEClient(iter(chunks)).events()


def launchdarkly(chunks: Iterable[bytes]) -> Iterator[Any]:
    reader = import_module("ld_eventsource.reader")
    lines = reader._BufferedLineReader.lines_from(iter(chunks))
    event = import_module("ld_eventsource.actions").Event
    retries: list[int] = []
    for each in reader._SSEReader(lines, None, retries.append).events_and_comments():
        if isinstance(each, event):
            retry = retries.pop() if retries else None
            yield SimpleNamespace(
                data=each.data, type=each.event, id=each.last_event_id, retry=retry
            )


READERS: dict[str, Reader] = {
    "sserpent": sserpent,
    "httpx-sse": httpx_sse,
    "httpx2": httpx2,
    "mcp": mcp,
    "openai": openai,
    "anthropic": anthropic,
    "sseclient-py": sseclient,
    "launchdarkly-eventsource": launchdarkly,
}


def seen(event: Any) -> Read:
    """What a user of the reader sees, whatever its names are."""
    event_type = getattr(event, "type", None) or getattr(event, "event", None)
    event_id = getattr(event, "id", None) or getattr(event, "last_event_id", None)
    retry = getattr(event, "retry", None)
    if isinstance(retry, str) and retry.isascii() and retry.isdigit():
        retry = int(retry)  # left to the user, who can
    return Read(Seen(event.data, event_type or "message", event_id or ""), retry)


def verdict(reader: Reader, case: Case) -> str:
    """What is wrong with what the reader makes of the stream, whole and byte by byte; empty if
    nothing is."""
    whole = _verdict(reader, case, [case.stream])
    if whole:
        return whole
    split = _verdict(reader, case, [case.stream[i : i + 1] for i in range(len(case.stream))])
    return f"{split}, if it comes byte by byte" if split else ""


def _verdict(reader: Reader, case: Case, chunks: list[bytes]) -> str:
    try:
        found = [seen(event) for event in reader(chunks)]
    except Exception as error:
        return f"raises {type(error).__name__}"
    events = [each.event for each in found]
    if len(events) != len(case.events):
        count = len(events) - len(case.events)
        named = {1: "an event too many", -1: "an event is lost"}
        return named.get(count, f"{count:+} events")
    for field in Seen._fields:
        if [getattr(e, field) for e in events] != [getattr(e, field) for e in case.events]:
            return f"another {field}"
    retries = {each.retry for each in found} - {None, case.reconnection_time}
    return f"takes it for {retries.pop()!r}" if retries else ""


def verdicts(name: str) -> dict[str, str]:
    return {case: verdict(READERS[name], CASES[case]) for case in CASES}


def page() -> str:
    """`docs/readers.md`."""
    table = {name: verdicts(name) for name in READERS}
    versions = [f"{name} {version(name)}" for name in READERS if name != "sserpent"]
    lines = [
        "# Readers",
        "",
        "This page compares how decoders read event streams. The",
        f"[standard]({STANDARD})",
        "defines the result for each stream. Each decoder reads each stream twice: at once, and",
        "byte by byte. An empty cell means that the decoder is right. The ID of an event stays",
        "until another ID comes. `python tools/reader_table.py` writes this page, and the streams",
        "are in `tests/support/stream_cases.py`.",
        "",
        "| Stream | " + " | ".join(READERS) + " |",
        "| --- |" + " --- |" * len(READERS),
        *(
            f"| {case} | " + " | ".join(table[name][case] for name in READERS) + " |"
            for case in CASES
        ),
        f"| **wrong, of {len(CASES)}** | "
        + " | ".join(str(sum(map(bool, table[name].values()))) for name in READERS)
        + " |",
        "",
        f"Versions: {', '.join(versions)}.",
        "The MCP SDK reads with httpx2's decoder.",
        "",
        "All of them get [compressed streams](compression.md) decompressed by their HTTP client.",
        "",
        "Two readers that are not in the table cannot read every stream:",
        "",
        "- google-genai treats every line that does not begin with `data: ` as JSON. A comment,",
        "  an `id`, an `event` or a `retry` raises `UnknownApiResponseError`. Send it only events",
        "  with `data`, without keep-alives: `ping_interval=None`.",
        "- Java's `GZIPInputStream`, under a `Reader`, returns nothing of a compressed stream",
        "  before its end. [Compression](compression.md) says what to use instead.",
        "",
    ]
    return "\n".join(line.rstrip() for line in lines)


def cells(page: str) -> dict[str, dict[str, str]]:
    """Returns the verdicts that a page has, by reader and stream."""
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in page.splitlines()
        if row.startswith("|")
    ]
    names, body = rows[0][1:], rows[2:-1]
    return {name: {row[0]: row[1 + at] for row in body} for at, name in enumerate(names)}
