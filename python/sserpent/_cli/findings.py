"""Says what an observation means, and what to change. Knows neither input nor output."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from statistics import median_low
from typing import Literal, NamedTuple

from ..client.responses import is_event_stream
from .observation import APART, Lump, Observation

# A lump before which nothing came for so long has been held back, in seconds.
_HELD = 0.5
# Proxies close a connection on which nothing comes for a minute, or half of one. A keep-alive after
# 15 s, which is usual, is not late.
_LONG_SILENCE = 17.0
# Where keep-alives come, but rarely, in seconds.
_TOO_LONG = 30.0


class Finding(NamedTuple):
    """Something that was found.

    Attributes:
        level: "fail" keeps events from arriving, "note" is worth knowing, "ok" is as it should be.
        text: What it is.
        advice: What to change; empty if nothing.
    """

    level: Literal["ok", "note", "fail"]
    text: str
    advice: str = ""


def findings(seen: Observation, seconds: float) -> Iterator[Finding]:
    """Returns what is found in a stream.

    Args:
        seen: What came.
        seconds: For how long it was looked at.
    """
    content_type = seen.headers.get("content-type", "")
    if not is_event_stream(seen.status, content_type):
        yield _refused(seen, content_type)
        return
    compressed = f", compressed with {seen.encoding}" if _is_compressed(seen) else ""
    yield Finding("ok", f"status 200, {content_type}, {seen.http_version}{compressed}")
    yield from _headers(seen)
    if seen.undecoded:
        was_asked_for = seen.encoding in seen.asked_for.lower()
        yield Finding(
            "note" if was_asked_for else "fail",
            f"the stream cannot be read: this command does not decompress {seen.encoding}",
            "Many clients do not either. For the command: pip install 'httpx2[brotli,zstd]', or"
            " --header 'Accept-Encoding: gzip'.",
        )
        return
    if seen.unreadable is not None:
        yield Finding(
            "fail",
            f"the stream cannot be read: {seen.unreadable}",
            "No client reads on from there: look at what compresses the stream, or at the event.",
        )
        return
    yield from _arrival(seen, seconds)
    yield from _keep_alives(seen, seconds)


def compressed_findings(seen: Observation, seconds: float) -> Iterator[Finding]:
    """Returns what is found in a stream that was asked for with compression, as browsers do, after
    its events came one by one without.

    Args:
        seen: What came.
        seconds: For how long it was looked at.
    """
    if seen.status == 204:
        return  # it has ended meanwhile
    if not is_event_stream(seen.status, seen.headers.get("content-type", "")):
        yield not_seen_compressed(f"status {seen.status}")
    elif seen.encoding != "identity":
        found = [each for each in findings(seen, seconds) if each.level == "fail"]
        if not found and seen.came_at_once:
            found = [Finding("fail", f"all {seen.events} events came together at the end")]
        for each in found or [_as_it_was_sent(seen, seconds)]:
            text = f"compressed with {seen.encoding}, as browsers ask for it: {each.text}"
            yield Finding(each.level, text, _COMPRESSES if found else each.advice)


def held_back_compressed(why: str) -> Finding:
    """Returns that no response came to who asked with compression, although one came without.

    Args:
        why: What was waited for.
    """
    return Finding("fail", f"asked with compression, as browsers do: {why}", _COMPRESSES)


def not_seen_compressed(why: str) -> Finding:
    """Returns that a stream could not be looked at once more.

    Args:
        why: What came in its place.
    """
    return Finding(
        "note",
        f"asked once more, with compression, as browsers do: {why}",
        "Whether events also arrive where they are compressed is not known.",
    )


def _is_compressed(seen: Observation) -> bool:
    """Returns whether a stream is compressed, and was asked for like that."""
    return seen.encoding != "identity" and seen.asked_for.strip().lower() != "identity"


def _refused(seen: Observation, content_type: str) -> Finding:
    status = seen.status
    if status == 204:
        return Finding(
            "fail",
            "status 204: the server says that nothing more comes",
            "That is right if a run has ended, or a key has none: check again while one is active.",
        )
    if status != 200:
        advice = {
            401: "Give the credentials by --header 'Authorization: ...'.",
            403: "Give the credentials by --header 'Authorization: ...'.",
            404: "Look at the path, also at what a proxy makes of it.",
            405: "The route may want a POST: --post '{}'.",
            409: "An answer is being generated: stop it, or look again when it has ended.",
            406: "The route refuses 'Accept: text/event-stream'.",
            422: "The route wants other parameters: the body says which.",
            429: "There are too many streams: wait, or raise the limit.",
            500: "The application has failed: its log has the traceback.",
            502: "The proxy does not reach the application.",
            503: "There are too many streams, or the application does not run.",
            504: "The application did not answer the proxy in time.",
        }.get(status, "A browser's EventSource gives up on any status but 200.")
        return Finding("fail", f"status {status}, not 200: {seen.body[:100]!r}", advice)
    kind = content_type or "no content type"
    advice = "A client takes nothing but text/event-stream for a stream."
    if content_type.startswith("application/json"):
        advice = (
            "The route answers in JSON: it lacks response_class=EventSourceResponse, or it does not"
            " yield."
        )
    elif content_type.startswith("text/html"):
        advice = "This is a page: of a login, of a proxy, or of another route."
    elif not content_type or content_type.startswith("text/plain"):
        advice = 'A StreamingResponse needs media_type="text/event-stream".'
    return Finding("fail", f"{kind}, not text/event-stream: {seen.body[:100]!r}", advice)


def _headers(seen: Observation) -> Iterator[Finding]:
    headers = seen.headers
    if seen.encoding != "identity" and not _is_compressed(seen):
        yield Finding(
            "note",
            f"compressed with {seen.encoding}, although identity was asked for",
            _COMPRESSES,
        )
    if "content-length" in headers:
        yield Finding(
            "fail",
            f"Content-Length: {headers['content-length']}: the whole body was there before it was"
            " sent",
            "Something collects the response: a cache, a middleware that reads the body, or an"
            " endpoint that returns a list.",
        )
    if seen.http_version == "HTTP/1.0":
        yield Finding(
            "note",
            "HTTP/1.0: clients cannot tell the end of the stream from a cut",
            "A proxy speaks HTTP/1.0 to the application or to the client; nginx:"
            " proxy_http_version 1.1.",
        )
    caching = headers.get("cache-control", "").lower()
    if "no-cache" not in caching and "no-store" not in caching:
        yield Finding("note", "no 'Cache-Control: no-cache': a cache may keep the stream")
    if "age" in headers:
        yield Finding("fail", "the header 'Age': this comes from a cache", "Turn it off here.")
    if headers.get("server", "").startswith("nginx"):
        yield Finding(
            "note",
            "nginx is on the way: with proxy_buffering on it may hold back the last event until the"
            " next one comes, which cannot be seen from outside",
            "Nothing to do if the application sends 'X-Accel-Buffering: no', as EventSourceResponse"
            " does, and nginx does not have it in proxy_ignore_headers. Else set proxy_buffering"
            " off.",
        )


_BUFFERS = (
    "Something on the way collects what is sent: a proxy (nginx: proxy_buffering off, or"
    " 'X-Accel-Buffering: no'), compression, or a middleware that reads the body. Ask the"
    " application itself, without the proxy, to see which."
)


_COMPRESSES = (
    "What compresses must flush after each event. Or take text/event-stream out of the types that"
    " the proxy (nginx: gzip_types) or the middleware compresses."
)


def _buffers(seen: Observation) -> str:
    if not _is_compressed(seen):
        return _BUFFERS
    return (
        f"{_COMPRESSES} Ask with --header 'Accept-Encoding: identity' to see if something else on"
        " the way collects what is sent."
    )


def _arrival(seen: Observation, seconds: float) -> Iterator[Finding]:
    if not seen.chunks:
        if seen.cut is not None:
            yield _cut(seen, seen.cut)
        elif seen.ended_at is not None:
            yield Finding("note", "the stream ended without an event")
        else:
            yield Finding(
                "fail",
                f"nothing came for {seconds:g} s, not even a keep-alive",
                f"{_buffers(seen)} Or the stream is quiet: then send keep-alives (ping_interval).",
            )
        return
    lumps = seen.lumps(APART)
    held = [lump for lump in lumps if lump.silence > _HELD and lump.events + lump.in_event > 1]
    parts = list(_parts(seen, lumps, seconds))
    unended = _unended(seen, seconds)
    if unended is not None:
        yield unended
    elif any(lump.in_line or lump.events > 1 for lump in parts):
        yield Finding(
            "fail",
            f"events come in lumps that end in the middle of an event: {_described(parts[0])}",
            f"{_buffers(seen)} If the application sends an event in parts, have it send it whole.",
        )
    elif parts:
        yield Finding(
            "fail",
            f"the blank line that ends an event comes late: in {len(parts)} cases after"
            f" {_HELD:g} s or more",
            f"{_BLANK} Send it with its event, not with the next one.",
        )
    elif held and len(lumps) == 1 and seen.ended_at is not None:
        yield Finding(
            "fail",
            f"all events came together at the end of the stream: {_described(held[0])}",
            _buffers(seen),
        )
    elif len(held) > 1:
        yield Finding(
            "fail",
            f"events come in lumps: {_described(held[0])}, and {len(held) - 1} more like that",
            f"{_buffers(seen)} If the application sends them together, all is well.",
        )
    elif "content-length" not in seen.headers:
        yield _as_it_was_sent(seen, seconds)
    if seen.cut is not None:
        yield _cut(seen, seen.cut)
    elif seen.ended_at is not None:
        yield _end(seen, seen.ended_at)


def _parts(seen: Observation, lumps: list[Lump], seconds: float) -> Iterator[Lump]:
    """Returns the lumps that end in the middle of an event, and are followed by silence."""
    last = 0.0 if seen.ended_at is not None else seconds - seen.chunks[-1].at
    silences = [*(lump.silence for lump in lumps[1:]), last]
    for lump, silence in zip(lumps, silences, strict=True):
        if lump.in_event and silence > _HELD:
            yield lump


_BLANK = r"An event ends with a blank line: 'data: ...\n\n'."


def _unended(seen: Observation, seconds: float) -> Finding | None:
    """Returns why what came makes no event, or does not end one; None if it does."""
    if not seen.events and seen.strange_lines:
        return Finding(
            "fail",
            f"no event came, but lines that are no fields of one: {seen.body[:100]!r}",
            "A line of data begins with 'data: ', and a blank line ends the event, as"
            " EventSourceResponse writes them.",
        )
    event = seen.unfinished
    if event is None:
        return None
    lasted = (seconds if seen.ended_at is None else seen.ended_at) - event.since
    is_old = lasted > _HELD
    if not seen.events and not event.in_line and (is_old or seen.cut is None):
        if seen.ended_at is None and not is_old:
            return None
        lines = "1 line of an event" if event.lines == 1 else f"{event.lines} lines of events"
        return Finding(
            "fail",
            f"no event came: {lines}, and no blank line that ends one",
            f"{_BLANK} The application leaves it out, or sends it too late.",
        )
    silence = seconds - seen.chunks[-1].at
    if seen.ended_at is None and is_old and (not seen.events or silence <= _HELD):
        return Finding(
            "note" if seen.events else "fail",
            f"an event does not end: {event.size:,} bytes of it came in {lasted:.1f} s",
            f"{_BLANK} Clients keep all of it until then. If the application has sent the end:"
            f" {_buffers(seen)}",
        )
    return None


def _end(seen: Observation, ended_at: float) -> Finding:
    after = f"after {ended_at:.1f} s"
    if seen.unfinished is not None and seen.has_known_end:
        return Finding(
            "fail",
            f"the stream ended {after} in the middle of an event, which clients discard",
            f"{_BLANK} The last one too.",
        )
    if seen.unfinished is not None:
        return Finding(
            "note",
            f"the connection ended {after} in the middle of an event, which clients discard",
            f"It was cut, or the last event lacks its end. {_BLANK}",
        )
    if seen.has_known_end:
        return Finding("ok", f"the stream ended as a whole {after}")
    return Finding("ok", f"the connection ended {after}: at the end of the stream, or by a cut")


def _cut(seen: Observation, why: str) -> Finding:
    at = seen.ended_at or 0.0
    silence = at - (seen.chunks[-1].at if seen.chunks else seen.headers_at)
    return Finding(
        "note",
        f"the connection was cut after {at:.1f} s, and {silence:.1f} s of silence: {why}",
        "The generator raised (the server's log has its traceback), or a proxy's timeout for"
        " silence is shorter than ping_interval.",
    )


def _as_it_was_sent(seen: Observation, seconds: float) -> Finding:
    if seen.came_at_once and seen.headers_at > _HELD:
        return Finding(
            "fail" if _is_compressed(seen) else "note",
            f"all {seen.events} events came together with the headers, after"
            f" {seen.headers_at:.1f} s",
            f"If the application took so long to answer, all is well. Else: {_buffers(seen)}",
        )
    if seen.came_at_once:
        return Finding(
            "note",
            f"all {seen.events} events came together with the headers",
            "Check a stream that lasts longer: nothing tells here whether something holds events"
            " back.",
        )
    if seen.events > 1:
        return Finding("ok", f"{seen.events} events came as they were sent")
    if seen.events == 1:
        return Finding("ok", "1 event came as it was sent")
    if seen.ended_at is not None:
        return Finding("note", "the stream ended without an event")
    count = len(seen.comments)
    keep_alives = "1 keep-alive" if count == 1 else f"{count} keep-alives"
    but = f", only {keep_alives}" if count else ""
    return Finding(
        "note",
        f"no event came within {seconds:g} s{but}",
        "Have the application send events meanwhile, or look for longer (--seconds).",
    )


def _described(lump: Lump) -> str:
    return f"{lump.events} events in {lump.size:,} bytes after {lump.silence:.1f} s without any"


def _keep_alives(seen: Observation, seconds: float) -> Iterator[Finding]:
    # Comments that come together, as padding does, are one.
    gaps = [gap for gap in (b - a for a, b in pairwise(seen.comments)) if gap > APART]
    silence = seen.longest_silence(seconds)
    # Not what the first event has before it.
    came = [at for at in seen.comments if at > seen.chunks[0].at + APART]
    if silence >= (_TOO_LONG if came else _LONG_SILENCE):
        yield Finding(
            "note",
            f"nothing came for {silence:.0f} s, and no keep-alive",
            "Proxies close connections on which nothing comes, many after 60 s: send a comment"
            " every 15 s (ping_interval).",
        )
    elif gaps:
        yield Finding("ok", f"keep-alives come every {median_low(gaps):.1f} s or so")
    elif came:
        yield Finding("ok", "a keep-alive came")
    if seen.blank_comments:
        yield Finding(
            "note",
            "a blank line follows the keep-alives: some decoders, the OpenAI SDK's among them, take"
            " it for the end of an empty event",
            "Send the comment line alone, as EventSourceResponse does.",
        )
