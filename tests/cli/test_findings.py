"""What the doctor finds in a stream whose bytes and times are given: nothing is waited for."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from sserpent._cli.findings import Finding, findings
from sserpent._cli.observation import Observation
from sserpent.client import EventTooLarge

pytestmark = pytest.mark.once

HEADERS = {"content-type": "text/event-stream", "cache-control": "no-cache"}
CHUNKED = {**HEADERS, "transfer-encoding": "chunked"}
BOM = b"\xef\xbb\xbf"


def observed(
    chunks: Sequence[tuple[float, bytes]],
    ended_at: float | None = None,
    headers: dict[str, str] = CHUNKED,
    version: str = "HTTP/1.1",
) -> Observation:
    seen = Observation(200, headers, version, 0.1)
    for at, body in chunks:
        seen.take(at, body)
    seen.ended_at = ended_at
    return seen


def found(seen: Observation, seconds: float = 20.0) -> list[Finding]:
    return list(findings(seen, seconds))


def said(seen: Observation, seconds: float = 20.0) -> str:
    return "\n".join(f"{each.level} {each.text}" for each in found(seen, seconds))


def each_second(*bodies: bytes) -> list[tuple[float, bytes]]:
    return [(float(at), body) for at, body in enumerate(bodies, 1)]


# The ends of lines


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("begin", [b"", BOM], ids=["", "BOM"])
@pytest.mark.parametrize("size", [1, 2, 3, 1_000])
def test_every_end_of_a_line_is_one(end: bytes, begin: bytes, size: int) -> None:
    lines = b": hi", b"retry: 5", b"id: 1", b"data: a", b"", b": ping", b"", b"data", b"", b""
    stream = begin + end.join(lines)
    # Each event comes in its own time, in pieces of this size.
    cuts = [stream[at : at + size] for at in range(0, len(stream), size)]
    seen = observed([(1.0, body) for body in cuts], 1.0)
    assert seen.events == 2
    assert len(seen.comments) == 2
    assert seen.blank_comments == 1
    assert seen.strange_lines == 0
    assert seen.unfinished is None


def test_events_whose_lines_end_with_cr_come_as_they_were_sent() -> None:
    seen = observed(each_second(*[b"id: 1\rdata: e\r\r"] * 4), 4.5)
    assert said(seen).splitlines()[1:] == [
        "ok 4 events came as they were sent",
        "ok the stream ended as a whole after 4.5 s",
    ]


def test_an_lf_in_the_next_chunk_belongs_to_its_cr() -> None:
    seen = observed(each_second(b"data: a\r", b"\ndata: b\r\n", b"\r", b"\n"))
    assert [chunk.in_event for chunk in seen.chunks] == [True, True, False, False]
    assert seen.events == 1


# Events that do not end


def test_an_application_that_forgets_the_blank_line() -> None:
    for ended_at in (None, 8.5):
        seen = observed(each_second(*[b"data: %d\n" % n for n in range(8)]), ended_at)
        fails = [each for each in found(seen) if each.level == "fail"]
        assert fails[0].text == "no event came: 8 lines of events, and no blank line that ends one"
        assert "proxy" not in "".join(each.advice for each in fails)


def test_a_single_line_without_its_blank_line() -> None:
    assert "fail no event came: 1 line of an event" in said(observed(each_second(b"data: a\n")))
    # It has only just come.
    assert "fail" not in said(observed([(19.8, b"data: a\n")]))


def test_a_blank_line_that_comes_with_the_next_event() -> None:
    seen = observed(each_second(b"data: 0\n", *[b"\ndata: %d\n" % n for n in range(1, 8)]))
    assert "fail the blank line that ends an event comes late: in 8 cases" in said(seen)
    assert "lumps" not in said(seen)


def test_the_last_part_that_a_full_buffer_holds_back_is_a_lump() -> None:
    seen = observed([(1.0, b"data: a\n\n" * 5 + b"data: ha")])
    assert "fail events come in lumps that end in the middle of an event: 5 events" in said(seen)


def test_a_retry_alone_is_not_the_middle_of_an_event() -> None:
    seen = observed(each_second(b"retry: 5\n", b"data: a\n\n", b"retry: 5\n", b"data: b\n\n"))
    assert "fail" not in said(seen)
    assert "ok 2 events came as they were sent" in said(seen)


@pytest.mark.parametrize("body", [b'{"n": 1}\n', b'{"n": 1}', b"Hello, this is text.\n\n"])
def test_lines_that_are_no_fields_are_shown(body: bytes) -> None:
    seen = observed(each_second(*[body] * 5))
    assert f"fail no event came, but lines that are no fields of one: {seen.body[:100]!r}" in said(
        seen
    )
    assert "fail" not in said(observed([(1.0, b"foo: bar\ndata: a\n\n")]))


@pytest.mark.parametrize("silent", [False, True])
def test_a_line_without_end(silent: bool) -> None:
    times = [1.0] * 15 if silent else [n * 0.02 for n in range(985, 1_000)]
    seen = observed([(0.5, b"data: "), *[(at, b"x" * 2**20) for at in times]])
    assert "fail an event does not end: 15,728,646 bytes of it came in 19.5 s" in said(seen)
    after_an_event = observed([(0.4, b"data: a\n\n"), *[(0.5 + n / 50, b"x") for n in range(975)]])
    assert "note an event does not end: 975 bytes of it came in 19.5 s" in said(after_an_event)


def test_a_line_without_end_takes_time_in_proportion_to_its_length() -> None:
    def seconds(chunks: int) -> float:
        seen = observed([])
        began = time.process_time()
        for _ in range(chunks):
            seen.take(1.0, b"x" * 4_096)
        return time.process_time() - began

    # A quadratic one takes 64 times as long.
    assert min(seconds(3_200) for _ in range(3)) < 24 * min(seconds(400) for _ in range(3)) + 0.01


def test_an_event_that_is_too_large_is_told_at_its_size() -> None:
    seen = observed([])
    for _ in range(4_096):
        seen.take(1.0, b"x" * 4_096)
    with pytest.raises(EventTooLarge):
        seen.take(1.0, b"x")


# The end of the stream


@pytest.mark.parametrize(
    ("headers", "version", "rest", "end"),
    [
        (CHUNKED, "HTTP/1.1", b"", "ok the stream ended as a whole after 3.0 s"),
        (HEADERS, "HTTP/2", b"", "ok the stream ended as a whole after 3.0 s"),
        (HEADERS, "HTTP/1.1", b"", "ok the connection ended after 3.0 s: at the end"),
        (HEADERS, "HTTP/1.0", b"", "ok the connection ended after 3.0 s: at the end"),
        (CHUNKED, "HTTP/1.1", b"data: hal", "fail the stream ended after 3.0 s in the middle"),
        (CHUNKED, "HTTP/1.1", b"data: a\n", "fail the stream ended after 3.0 s in the middle"),
        (HEADERS, "HTTP/1.1", b"data: hal", "note the connection ended after 3.0 s in the middle"),
        (HEADERS, "HTTP/1.0", b"data: a\n", "note the connection ended after 3.0 s in the middle"),
    ],
)
def test_the_end_is_said_to_be_whole_only_where_that_is_known(
    headers: dict[str, str], version: str, rest: bytes, end: str
) -> None:
    seen = observed(
        [*each_second(b"data: a\n\n", b"data: b\n\n"), (2.9, b"data: c\n\n" + rest)],
        3.0,
        headers,
        version,
    )
    assert end in said(seen)
    assert ("as a whole" in said(seen)) is ("as a whole" in end)


# Keep-alives


@pytest.mark.parametrize(
    ("at", "interval"),
    [
        ([0.1, 0.1, 1.1, 2.1, 3.1], 1.0),
        ([0.1, 0.12, 15.1, 30.1], 15.0),
        ([0.1, 3.0, 18.0, 33.0, 33.01, 48.0], 15.0),
    ],
)
def test_the_interval_of_keep_alives_is_not_that_of_comments_that_come_together(
    at: list[float], interval: float
) -> None:
    seen = observed([(0.1, b"data: a\n\n"), *[(when, b": ping\n") for when in at]])
    assert f"ok keep-alives come every {interval} s or so" in said(seen, at[-1] + 1)


@pytest.mark.parametrize("at", [5.0, 15.001, 19.9])
def test_one_keep_alive_is_said_to_have_come(at: float) -> None:
    seen = observed([(0.1, b"data: a\n\n"), (at, b": ping\n")])
    assert "ok a keep-alive came" in said(seen)
    assert "no keep-alive" not in said(seen)


def test_a_keep_alive_that_may_be_on_its_way_is_not_missed() -> None:
    seen = observed([(0.1, b"data: a\n\n"), (4.0, b"data: b\n\n")])
    assert "keep-alive" not in said(seen)


def test_padding_alone_is_no_keep_alive() -> None:
    seen = observed([(0.1, b": connected\n: padding\ndata: a\n\n")])
    assert "note nothing came for 20 s, and no keep-alive" in said(seen)
    assert "keep-alives come every" not in said(seen)


def test_keep_alives_that_come_too_rarely_are_noted() -> None:
    seen = observed([(0.1, b"data: a\n\n: hi\n"), (70.1, b": ping\n"), (140.1, b": ping\n")])
    assert "note nothing came for 70 s, and no keep-alive" in said(seen, 150.0)
    assert "ok keep-alives" not in said(seen, 150.0)
