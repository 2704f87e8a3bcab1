"""`EventSource` and `SyncEventSource`, rules R20 to R25: over real sockets, with httpx2 and httpx,
with an event loop and without, with the backend of the run."""

from __future__ import annotations

import gc
import math
import threading
import time
import warnings
from email.utils import formatdate
from itertools import count
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import httpx2
import pytest
from pydantic import BaseModel, ValidationError

from scripted_server import CHUNKED, STREAM, answer, chunk, nothing_to_come, scripted
from sserpent.client import (
    ErrorEvent,
    EventSource,
    EventTooLarge,
    IncompleteStream,
    MessageEvent,
    NotAnEventStream,
    SyncEventSource,
)
from sserpent.client.reconnecting import Failed, Reconnection, checked_times, sendable_id

# The clients leave the generators within their own to the event loop, of which Trio warns.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Async generator 'httpx"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Token(BaseModel):
    text: str


class Reader:
    """Reads a stream over all its connections, with or without an event loop."""

    library: Any
    source: Any

    def read(self, url: str, count: int | None = None, **options: Any) -> list[Any]:
        """The first events, or all, and the source for what is asked of it after that."""
        raise NotImplementedError


class SyncReader(Reader):
    def read(self, url: str, count: int | None = None, **options: Any) -> list[Any]:
        found: list[Any] = []
        client = options.pop("client", None) or self.library.Client()
        with client, SyncEventSource(client, url, **{"retry": 0.0, **options}) as self.source:
            while len(found) != count and (item := self._next()) is not None:
                found.append(item)
        return found

    def _next(self) -> Any:
        try:
            return next(self.source, None)
        except ValidationError as error:
            return error


class AsyncReader(Reader):
    backend: str

    def read(self, url: str, count: int | None = None, **options: Any) -> list[Any]:
        async def read() -> list[Any]:
            found: list[Any] = []
            client = options.pop("client", None) or self.library.AsyncClient()
            options.setdefault("retry", 0.0)
            async with client, EventSource(client, url, **options) as self.source:
                while len(found) != count and (item := await self._next()) is not None:
                    found.append(item)
            return found

        return anyio.run(read, backend=self.backend)

    async def _next(self) -> Any:
        try:
            return await anext(self.source, None)
        except ValidationError as error:
            return error


@pytest.fixture(
    params=[
        (kind, library, backend)
        for library in (httpx2, httpx)
        for kind, backend in ((SyncReader, ""), (AsyncReader, "asyncio"), (AsyncReader, "trio"))
    ],
    ids=lambda param: "-".join([param[1].__name__, param[2] or "sync"]),
)
def reader(request: pytest.FixtureRequest) -> Reader:
    kind, library, backend = request.param
    made: Any = kind()
    made.library, made.backend = library, backend
    return made  # type: ignore[no-any-return]


def data(events: list[Any]) -> list[str]:
    return [event.data for event in events]


# Coming back


def test_r20_it_comes_back_with_the_last_id_over_all_ends_of_a_connection(reader: Reader) -> None:
    with scripted(
        [STREAM, b"id: 1\ndata: a\n\n"],  # a whole end
        [CHUNKED, chunk(b"id: 2\ndata: b\n\ndata: half")],  # a cut
        [],  # no response at all
        [*answer(503, "Retry-After: 0", body=b"busy")],
        [STREAM, b": nothing but a comment\n"],
        [STREAM, b"event: bye\ndata: c\n\n"],
    ) as server:
        events = reader.read(server.url, until_event="bye")
        assert data(events) == ["a", "b"]
        ids = [server.header(number, "Last-Event-ID") for number in range(6)]
        assert ids == [None, b"1", b"2", b"2", b"2", b"2"]
        assert server.header(0, "Accept") == b"text/event-stream"
        assert server.header(0, "Cache-Control") == b"no-store"


def test_r20_a_stream_cut_at_any_byte_loses_nothing_and_repeats_nothing(reader: Reader) -> None:
    frames = b"id: 1\ndata: one\n\nid: 2\ndata: two\n\n"
    second = frames.index(b"id: 2")
    for cut in range(len(frames) + 1):
        known = {None: frames, b"1": frames[second:], b"2": b""}
        heard = [] if cut < second else [b"1"] if cut < len(frames) else [b"2"]
        rest = known[heard[0] if heard else None]
        with scripted(
            [CHUNKED, *([chunk(frames[:cut])] if cut else [])],
            [STREAM, rest + b"data: end\n\n"],
        ) as server:
            events = reader.read(server.url, until="end")
            assert data(events) == ["one", "two"], cut
            assert server.header(1, "Last-Event-ID") == (heard[0] if heard else None), cut


def test_r20_headers_may_be_a_function_that_is_called_for_each_connection(reader: Reader) -> None:
    tokens = iter(["first", "second"])

    def headers() -> dict[str, str]:
        return {"Authorization": next(tokens)}

    async def later() -> dict[str, str]:
        await anyio.lowlevel.checkpoint()
        return headers()

    for function in (headers, later) if isinstance(reader, AsyncReader) else (headers,):
        tokens = iter(["first", "second"])
        with scripted([STREAM], nothing_to_come()) as server:
            assert reader.read(server.url, headers=function) == []
            sent = [server.header(number, "Authorization") for number in (0, 1)]
            assert sent == [b"first", b"second"]


def failing_headers(reader: Reader, errors: list[Exception]) -> tuple[Any, list[int]]:
    """A function of headers that raises these errors first, and a list that counts its calls."""
    calls: list[int] = []

    def headers() -> dict[str, str]:
        calls.append(len(calls))
        if len(calls) <= len(errors):
            raise errors[len(calls) - 1]
        return {"Authorization": "token"}

    async def later() -> dict[str, str]:
        await anyio.lowlevel.checkpoint()
        return headers()

    return (later if isinstance(reader, AsyncReader) else headers), calls


def refusal(library: Any, status: int) -> Exception:
    request = library.Request("GET", "http://login")
    response = library.Response(status, request=request)
    error: Exception = library.HTTPStatusError("refused", request=request, response=response)
    return error


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_r23_headers_whose_server_is_away_count_as_a_connection_that_was_not_made(
    reader: Reader, method: str
) -> None:
    library = reader.library
    errors = [
        library.ConnectError("away"),
        library.ReadTimeout("slow"),
        *(refusal(library, status) for status in (408, 429, 500, 503)),
    ]
    headers, calls = failing_headers(reader, errors)
    with scripted([STREAM, b"data: a\n\n"]) as server:
        events = reader.read(server.url, 1, method=method, headers=headers, max_delay=0.0)
        assert data(events) == ["a"]
        assert len(server.requests) == 1
        assert server.header(0, "Authorization") == b"token"
    assert len(calls) == len(errors) + 1
    headers, calls = failing_headers(reader, errors)
    with pytest.raises(library.ReadTimeout, match="slow"):
        reader.read("http://127.0.0.1:9", method=method, headers=headers, max_failures=2)
    assert len(calls) == 2


def test_r23_a_hook_that_raises_for_a_status_changes_nothing(reader: Reader) -> None:
    for_loop, library = isinstance(reader, AsyncReader), reader.library

    async def hook(response: Any) -> None:
        response.raise_for_status()

    def client() -> Any:
        hooks = {"response": [hook if for_loop else library.Response.raise_for_status]}
        return (library.AsyncClient if for_loop else library.Client)(event_hooks=hooks)

    with scripted(answer(429), answer(503), [STREAM, b"data: a\n\n"]) as server:
        assert data(reader.read(server.url, 1, client=client(), method="POST")) == ["a"]
    with scripted(*[answer(503)] * 2) as server:
        with pytest.raises(library.HTTPStatusError, match="503"):
            reader.read(server.url, client=client(), max_failures=2)
        assert len(server.requests) == 2
    for status, method in ((404, "GET"), (500, "POST")):
        with scripted(answer(status)) as server:
            with pytest.raises(library.HTTPStatusError, match=str(status)):
                reader.read(server.url, client=client(), method=method)
            assert len(server.requests) == 1


def test_r23_headers_that_no_other_try_would_mend_end_the_reading(reader: Reader) -> None:
    library = reader.library
    lasting = refusal(library, 401), library.UnsupportedProtocol("ftp"), KeyError("token")
    for error in lasting:
        headers, calls = failing_headers(reader, [error])
        with pytest.raises(type(error)) as caught:
            reader.read("http://127.0.0.1:9", headers=headers)
        assert caught.value is error
        assert len(calls) == 1
        assert reader.source.failures == 0


def test_r20_an_async_function_of_headers_is_refused_without_an_event_loop() -> None:
    async def headers() -> dict[str, str]:
        return {}

    client = httpx2.Client()
    with client, SyncEventSource(client, "http://127.0.0.1:9", headers=headers) as source:  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="'headers' must not be an async function"):
            next(source)


def test_r20_attributes_say_where_it_stands() -> None:
    more = threading.Event()
    with scripted([], [], [STREAM, b"id: 7\ndata: a\n\ndata: b\n\n", more]) as server:
        with httpx2.Client() as client:
            with SyncEventSource(client, server.url, retry=0.0, last_event_id="5") as source:
                assert (source.connected, source.failures, source.last_event_id) == (False, 0, "5")
                assert next(source).data == "a"
                assert (source.connected, source.failures, source.last_event_id) == (True, 0, "7")
                more.set()
            assert not source.connected
            assert next(source, None) is None
        assert server.header(0, "Last-Event-ID") == b"5"
        assert len(server.requests) == 3


def test_r20_the_last_id_is_that_of_the_last_event_that_was_handed_out(reader: Reader) -> None:
    with scripted([STREAM, b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n", ...]) as server:
        assert data(reader.read(server.url, count=1)) == ["a"]
        assert reader.source.last_event_id == "1"


def test_r20_leaving_closes_the_connection_and_not_the_client() -> None:
    with scripted([STREAM, b"data: a\n\n", ...], nothing_to_come()) as server:
        with httpx2.Client() as client:
            with SyncEventSource(client, server.url) as source:
                assert next(source).data == "a"
            assert server.left.wait(10)
            assert client.get(server.url).status_code == 204


def test_r20_a_wrong_kind_of_client_is_refused() -> None:
    with httpx2.Client() as client, pytest.raises(TypeError, match="SyncEventSource does"):
        EventSource(client, "http://x")
    client = httpx2.AsyncClient()
    with pytest.raises(TypeError, match="but EventSource does: AsyncClient"):
        SyncEventSource(client, "http://x")
    with pytest.raises(TypeError, match="'client' must be a client of httpx2 or httpx, not str"):
        EventSource("http://x", client)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"retry": "3"}, TypeError, "'retry' must be a number of seconds, not str"),
        ({"retry": -1}, ValueError, "'retry' must be finite and not negative, not -1"),
        ({"silence_timeout": 0}, ValueError, "'silence_timeout' must be finite and more than 0"),
        ({"max_delay": float("inf")}, ValueError, "'max_delay' must be finite"),
        ({"max_failures": 0}, ValueError, "'max_failures' must be at least 1, not 0"),
        ({"max_failures": True}, TypeError, "'max_failures' must be an integer or None, not bool"),
        ({"until": b"x"}, TypeError, "'until' must be a string or None, not bytes"),
        ({"method": None}, TypeError, "'method' must be a string, not NoneType"),
        ({"repeat": "no"}, TypeError, "'repeat' must be True or False, not str"),
        ({"raise_on": [1]}, TypeError, "'raise_on' must be the name of an event, or several"),
        ({"last_event_id": "\n"}, ValueError, "SSE 'last_event_id' must be a single line"),
    ],
)
def test_bad_options_are_refused_by_name(options: Any, error: Any, message: str) -> None:
    with httpx2.Client() as client, pytest.raises(error, match=message):
        SyncEventSource(client, "http://x", **options)


# Items


def test_r20_a_validation_error_passes_and_an_event_too_large_does_not(reader: Reader) -> None:
    with scripted(
        [STREAM, b'data: {"text": "a"}\n\ndata: {}\n\ndata: {"text": "b"}\n\n', ...],
    ) as server:
        first, error, last = reader.read(server.url, count=3, type=Token)
        assert (first, last) == (Token(text="a"), Token(text="b"))
        assert error.event == MessageEvent("{}")
    with scripted([STREAM, b"data: a\n\ndata: " + b"x" * 100]) as server:
        with pytest.raises(EventTooLarge):
            reader.read(server.url, max_event_size=50)
        assert len(server.requests) == 1


def test_r20_an_event_that_is_an_error_ends_it(reader: Reader) -> None:
    with scripted([STREAM, b"data: a\n\nevent: error\ndata: no\n\n", ...]) as server:
        with pytest.raises(ErrorEvent, match="the stream sent the event 'error': 'no'") as caught:
            reader.read(server.url, raise_on="error")
        assert caught.value.event == MessageEvent("no", type="error")
        assert server.left.wait(10)


# How long it waits


def reconnection(**options: Any) -> Reconnection:
    times = {"silence_timeout": 45.0, "retry": 3.0, "max_delay": 60.0}
    counts = {"max_failures": None, "repeat": False, "method": "GET"}
    times.update({name: options.pop(name) for name in list(options) if name in times})
    return Reconnection(checked_times(**times), **{**counts, **options})


def waits(rules: Reconnection, failures: int) -> list[float]:
    found = []
    for _ in range(failures):
        rules.failed(Failed(OSError()), "")
        found.append(rules.delay())
    return found


def test_r21_the_wait_doubles_up_to_the_largest_and_is_drawn_from_once_to_twice_of_it() -> None:
    for _ in range(50):
        bases = [3, 6, 12, 24, 48, 60, 60]
        for base, wait in zip(bases, waits(reconnection(), 7), strict=True):
            assert base <= wait <= 2 * base
    drawn = {round(waits(reconnection(), 1)[0], 6) for _ in range(20)}
    assert len(drawn) > 10


def test_r21_a_longer_delay_of_the_stream_wins_over_the_largest() -> None:
    rules = reconnection(max_delay=10)
    rules.ended(1.0, reconnection_time=100_000)
    assert all(100 <= wait <= 200 for wait in waits(rules, 10))


def test_r21_without_a_delay_the_first_return_is_at_once_and_doubling_begins_at_100_ms() -> None:
    rules = reconnection()
    rules.ended(1.0, reconnection_time=0)
    first, *others = waits(rules, 5)
    assert first == 0
    for base, wait in zip([0.1, 0.2, 0.4, 0.8], others, strict=True):
        assert base <= wait <= 2 * base


def test_r21_no_number_of_failures_overflows() -> None:
    rules = reconnection()
    assert all(wait <= 120 for wait in waits(rules, 5_000))
    assert waits(reconnection(retry=1e300), 1)[0] == 2.0**31


@pytest.mark.parametrize(
    ("retry_after", "least"),
    [
        ("100", 100),
        (" 7 ", 7),
        ("9" * 400, 2.0**31),
        ("-5", 0),
        ("1.5", 0),
        ("soon", 0),
        ("", 0),
        ("٣", 0),
        ("Fri, 99 Foo 2026 00:00:00 GMT", 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
    ],
)
def test_r21_retry_after_is_a_lower_bound_if_it_can_be_read(retry_after: str, least: float) -> None:
    rules = reconnection(retry=1, max_delay=2)
    rules.failed(rules.refused(OSError(), 503, retry_after), "")
    wait = rules.delay()
    assert max(least, 1) <= wait <= max(least, 1) + 1
    assert rules.delay() <= 2  # it counts once


def test_r21_clients_that_are_told_the_same_retry_after_do_not_come_back_together() -> None:
    found = []
    for _ in range(20):
        rules = reconnection()
        rules.failed(rules.refused(OSError(), 503, "100"), "")
        found.append(rules.delay())
    assert all(100 <= wait <= 103 for wait in found)
    assert len({round(wait, 6) for wait in found}) > 10


def test_r21_retry_after_may_be_a_date() -> None:
    rules = reconnection(retry=1)
    date = formatdate(time.time() + 100, usegmt=True)
    rules.failed(rules.refused(OSError(), 429, date), "")
    assert 97 < rules.delay() < 102


def test_r21_an_event_or_a_long_connection_resets_the_count() -> None:
    rules = reconnection()
    waits(rules, 4)
    rules.ended(44.0, None)
    assert rules.failures == 4
    rules.ended(46.0, None)
    assert rules.failures == 0
    waits(rules, 4)
    rules.succeeded()
    assert waits(rules, 1)[0] <= 6


class Down:
    """An HTTP client without a server."""

    def __init__(self) -> None:
        self.asked = 0
        self._real = httpx2.AsyncClient()

    @property
    def build_request(self) -> Any:
        return self._real.build_request

    async def send(self, request: Any, stream: bool) -> Any:
        await anyio.lowlevel.checkpoint()
        self.asked += 1
        if self.asked <= 2_000:
            raise httpx2.ConnectError("down", request=request)
        return httpx2.Response(204, request=request)


@pytest.mark.virtual_time
async def test_r21_two_thousand_failures_are_waited_for() -> None:
    client = Down()
    begin = anyio.current_time()
    async with EventSource(client, "http://x") as source:
        assert [event async for event in source] == []
        assert source.failures == 2_000
    assert client.asked == 2_001
    assert 60 * 1_995 < anyio.current_time() - begin < 120 * 2_000


class Busy(Down):
    """Answers the first request by 429."""

    async def send(self, request: Any, stream: bool) -> Any:
        self.asked += 1
        if self.asked > 1:
            return httpx2.Response(204, request=request)
        return httpx2.Response(429, headers={"Retry-After": "30"}, request=request)


@pytest.mark.virtual_time
async def test_r21_the_retry_after_of_a_server_that_gives_out_tokens_counts() -> None:
    request = httpx2.Request("GET", "http://login")
    response = httpx2.Response(429, headers={"Retry-After": "100"}, request=request)
    errors = [httpx2.HTTPStatusError("busy", request=request, response=response)]

    def headers() -> dict[str, str]:
        if errors:
            raise errors.pop()
        return {}

    client = Down()
    client.asked = 2_000
    begin = anyio.current_time()
    async with EventSource(client, "http://x", headers=headers) as source:
        assert [event async for event in source] == []
    assert 100 <= anyio.current_time() - begin <= 104


@pytest.mark.virtual_time
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_r21_a_wait_that_is_cancelled_goes_on_where_it_was(method: str) -> None:
    client = Busy()
    begin = anyio.current_time()
    async with EventSource(client, "http://x", method=method) as source:
        events: list[MessageEvent] | None = None
        with anyio.fail_after(100):
            while events is None:
                with anyio.move_on_after(1):  # shorter than any wait
                    events = [event async for event in source]
    assert client.asked == 2
    assert 30 <= anyio.current_time() - begin <= 34


# The log


def logged(caplog: Any) -> list[str]:
    records = [record for record in caplog.records if record.name == "sserpent"]
    return [f"{record.levelname} {record.getMessage()}" for record in records]


def test_an_outage_is_logged_once_for_each_reason_and_the_end_of_a_stream_is_not(
    reader: Reader, caplog: Any
) -> None:
    away = [answer(503), answer(503), answer(502)]
    ended = [[STREAM, b"data: a\n\n"], [STREAM, b"data: b\n\n"], [STREAM], [STREAM]]
    with scripted(*away, *ended, answer(502), nothing_to_come()) as server:
        url = server.url.replace("http://", "http://ada:secret@")
        assert data(reader.read(f"{url}?token=secret", max_delay=0.01)) == ["a", "b"]
    reasons = "status 503", "status 502", "IncompleteStream: the stream ended", "status 502"
    assert logged(caplog) == [
        f"WARNING No events from {server.url}, trying again: {reason}" for reason in reasons
    ]


def test_headers_whose_server_is_away_are_logged(reader: Reader, caplog: Any) -> None:
    errors = [reader.library.ConnectError("refused")] * 2

    def headers() -> dict[str, str]:
        if errors:
            raise errors.pop()
        return {}

    with scripted(nothing_to_come()) as server:
        assert reader.read(server.url, headers=headers, max_delay=0.01) == []
    reason = "the function 'headers' has failed, ConnectError: refused"
    assert logged(caplog) == [f"WARNING No events from {server.url}, trying again: {reason}"]


# IDs


@pytest.mark.parametrize(
    ("last_event_id", "sent"),
    [
        ("ä 漢", "ä 漢".encode()),
        ("a\tb", b"a\tb"),
        ("", None),
        (" a", None),
        ("a\t", None),
        ("a\x01", None),
        ("\x7f", None),
        ("\x0b", None),
    ],
)
def test_r22_an_id_is_sent_as_browsers_send_it_or_not_at_all(
    reader: Reader, last_event_id: str, sent: bytes | None
) -> None:
    assert sendable_id(last_event_id) == sent
    frame = f"id: {last_event_id}\ndata: a\n\n".encode()
    if last_event_id.startswith(" "):
        frame = b"id: " + frame[4:]
    with scripted(
        [STREAM, b"id: older\ndata: -\n\n" + frame], [STREAM, b": none\n"], nothing_to_come()
    ) as server:
        reader.read(server.url)
        assert reader.source.last_event_id == last_event_id
        assert [server.header(number, "Last-Event-ID") for number in (1, 2)] == [sent, sent]


@pytest.mark.parametrize(("last_event_id", "sent"), [("6", b"6"), ("b ", None), ("", b"5")])
def test_r22_an_id_of_the_stream_takes_the_place_of_one_among_the_headers(
    reader: Reader, last_event_id: str, sent: bytes | None
) -> None:
    frame = f"id: {last_event_id}\ndata: a\n\n".encode()
    with scripted([STREAM, frame], nothing_to_come()) as server:
        reader.read(server.url, headers={"last-event-id": "5"})
        assert [server.header(number, "Last-Event-ID") for number in (0, 1)] == [b"5", sent]


# Ends


def test_r23_a_204_ends_it_unless_a_last_event_was_named(reader: Reader) -> None:
    with scripted([STREAM, b"data: a\n\n"], nothing_to_come()) as server:
        assert data(reader.read(server.url)) == ["a"]
    for named in ({"until": "end"}, {"until_event": ["end", "stop"]}):
        with scripted(nothing_to_come()) as server:
            with pytest.raises(IncompleteStream, match="without the event 'end'"):
                reader.read(server.url, **named)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 599])
def test_r23_statuses_that_pass_are_failures(reader: Reader, status: int) -> None:
    with scripted(*[answer(status, body=b"later")] * 3) as server:
        with pytest.raises(NotAnEventStream, match=f"status {status} .*later") as caught:
            reader.read(server.url, max_failures=3)
        assert (caught.value.status, caught.value.body) == (status, b"later")
        assert caught.value.url == server.url
        # A traceback shows nothing of how failures are counted.
        assert caught.value.__context__ is None
        assert len(server.requests) == 3


@pytest.mark.parametrize("status", [201, 301, 307, 400, 401, 403, 404, 410])
def test_r23_other_statuses_end_it(reader: Reader, status: int) -> None:
    with scripted(answer(status, "Location: /", body=b"x" * 700)) as server:
        with pytest.raises(NotAnEventStream) as caught:
            reader.read(server.url)
        error = caught.value
        assert (error.status, error.content_type, error.body) == (status, "", b"x" * 500)
        assert ("does not follow redirects" in str(error)) is (300 <= status < 400)
        assert len(server.requests) == 1


async def test_r23_the_beginning_of_a_body_leaves_no_generator_open() -> None:
    """Trio warns of one. httpx2 leaves one of its own open, httpcore2's."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with scripted(answer(404, body=b"x" * 100_000)) as server:
            async with httpx2.AsyncClient() as client, EventSource(client, server.url) as source:
                with pytest.raises(NotAnEventStream):
                    await anext(source)
        gc.collect()
    warned = [str(each.message) for each in caught if each.category is ResourceWarning]
    assert [each for each in warned if "'httpcore2." not in each] == []


def test_r23_another_content_type_ends_it(reader: Reader) -> None:
    with scripted(answer(200, "Content-Type: application/json", body=b"{}")) as server:
        with pytest.raises(NotAnEventStream, match=r"status 200 with application/json: b'\{\}'"):
            reader.read(server.url)
    with scripted(
        answer(200, "Content-Type: TEXT/Event-Stream ;charset=x"), nothing_to_come()
    ) as s:
        assert reader.read(s.url) == []


def test_r23_the_last_failure_is_raised(reader: Reader) -> None:
    library = reader.library
    with scripted(*[[STREAM]] * 3) as server:
        with pytest.raises(IncompleteStream, match="the stream ended"):
            reader.read(server.url, max_failures=3)
        assert len(server.requests) == 3
    with scripted(*[[CHUNKED, chunk(b": x\n")]] * 2) as server:
        with pytest.raises(library.RemoteProtocolError):
            reader.read(server.url, max_failures=2)
    with pytest.raises(library.ConnectError):
        reader.read(server.url, max_failures=2)  # nobody listens there any more


def test_r23_redirects_are_as_the_client_is_set(reader: Reader) -> None:
    for_loop = isinstance(reader, AsyncReader)
    library = reader.library
    client = (library.AsyncClient if for_loop else library.Client)(follow_redirects=True)
    with scripted(nothing_to_come()) as target:
        with scripted(answer(307, f"Location: {target.url}")) as server:
            assert reader.read(server.url, client=client) == []
        assert len(target.requests) == 1


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/", "http://127.0.0.1:1/\x00"], ids=["protocol", "url"]
)
def test_r23_what_no_other_try_would_mend_is_raised_at_once(reader: Reader, url: str) -> None:
    with pytest.raises(Exception, match=r"(?i)protocol|url|character"):
        reader.read(url)


# Silence


def test_r24_a_silent_connection_is_made_anew_and_keep_alives_are_no_silence(
    reader: Reader,
) -> None:
    beats = [step for _ in range(5) for step in (b": ping\n", Pause(0.3))]
    with scripted(
        [STREAM, *beats, b"id: 1\ndata: a\n\n", ...], [STREAM, b"data: b\n\ndata: end\n\n"]
    ) as server:
        assert data(reader.read(server.url, silence_timeout=1.2, until="end")) == ["a", "b"]
        assert server.header(1, "Last-Event-ID") == b"1"
        assert server.left.wait(10)


def test_r24_silence_is_a_failure_however_long_it_lasted(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The clock says 0.15 s for each connection: on a slow machine it would be anything.
    clock = SimpleNamespace(monotonic=count(step=0.15).__next__)
    monkeypatch.setattr("sserpent.client.requesting.time", clock)
    silent = [STREAM, ...]
    with scripted(silent, silent, silent, [STREAM, b"data: a\n\n"]) as server:
        with pytest.raises(reader.library.ReadTimeout):
            reader.read(server.url, 1, silence_timeout=0.1, max_failures=3)
        assert reader.source.failures == 3


class Pause(threading.Event):
    """A step that takes a while: silence is what is tested."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def wait(self, timeout: float | None = None) -> bool:
        super().wait(self._seconds)
        return True


def test_r24_the_clients_other_timeouts_stay(reader: Reader) -> None:
    asked: list[Any] = []
    for_loop = isinstance(reader, AsyncReader)
    library = reader.library

    def handle(request: Any) -> Any:
        asked.append(dict(request.extensions["timeout"]))
        return library.Response(204)

    transport = library.MockTransport(handle)
    kind = library.AsyncClient if for_loop else library.Client
    client = kind(transport=transport, timeout=library.Timeout(7.0, read=1.0, pool=3.0))
    reader.read("http://x/", client=client)
    assert asked == [{"connect": 7.0, "read": 45.0, "write": 7.0, "pool": 3.0}]


# Requests with effects


POST: dict[str, Any] = {"method": "POST", "json": {"prompt": "Hi"}}


def test_r25_a_post_is_repeated_if_it_was_not_dealt_with(reader: Reader) -> None:
    with scripted(answer(429), answer(503), [STREAM, b"data: a\n\n"]) as server:
        assert data(reader.read(server.url, **POST)) == ["a"]
        assert [each.partition(b" ")[0] for each in server.requests] == [b"POST"] * 3
        assert all(each.endswith(b'{"prompt":"Hi"}') for each in server.requests)


def test_r25_a_post_is_repeated_if_a_proxy_did_not_let_it_through(reader: Reader) -> None:
    library = reader.library
    with scripted(answer(503), answer(502)) as server:
        kind = library.AsyncClient if isinstance(reader, AsyncReader) else library.Client
        with pytest.raises(library.ProxyError, match="502"):
            reader.read("https://localhost/", client=kind(proxy=server.url), max_failures=2, **POST)
        assert [each.partition(b" ")[0] for each in server.requests] == [b"CONNECT"] * 2


@pytest.mark.parametrize("status", [408, 425, 500, 502, 504])
def test_r25_a_post_is_not_repeated_after_other_statuses(reader: Reader, status: int) -> None:
    with scripted(answer(status), nothing_to_come()) as server:
        with pytest.raises(NotAnEventStream):
            reader.read(server.url, **POST)
        assert len(server.requests) == 1
    for allowed in ({"repeat": True}, {"last_event_id": "1"}):
        with scripted(answer(status), nothing_to_come()) as server:
            assert reader.read(server.url, **POST, **allowed) == []


def test_r25_a_post_that_breaks_is_raised_and_one_that_ends_is_over(reader: Reader) -> None:
    library = reader.library
    with scripted([STREAM, b"data: a\n\n"]) as server:
        assert data(reader.read(server.url, **POST)) == ["a"]
    with scripted([STREAM, b"data: a\n\n"]) as server:
        with pytest.raises(IncompleteStream, match=r"without the event '\[DONE\]'"):
            reader.read(server.url, until="[DONE]", **POST)
    with scripted([CHUNKED, chunk(b"data: a\n\n")]) as server:
        with pytest.raises(library.RemoteProtocolError):
            reader.read(server.url, until="[DONE]", **POST)
        assert len(server.requests) == 1


def test_r25_a_post_goes_on_after_an_id_that_came(reader: Reader) -> None:
    with scripted([CHUNKED, chunk(b"id: 1\ndata: a\n\n")], [STREAM, b"data: end\n\n"]) as server:
        assert data(reader.read(server.url, until="end", **POST)) == ["a"]
        assert server.header(1, "Last-Event-ID") == b"1"


# Cancellation


async def test_a_cancelled_read_goes_on_with_another_connection() -> None:
    with scripted([STREAM, b"id: 1\ndata: a\n\n", ...], [STREAM, b"data: b\n\n", ...]) as server:
        async with httpx2.AsyncClient() as client:
            async with EventSource(client, server.url) as source:
                assert (await anext(source)).data == "a"
                with anyio.move_on_after(0.05):
                    await anext(source)
                assert await anyio.to_thread.run_sync(server.left.wait, 10)
                assert not source.connected
                assert (await anext(source)).data == "b"
                assert source.failures == 0
        assert server.header(1, "Last-Event-ID") == b"1"


async def test_a_cancelled_read_of_a_post_does_not_end_as_if_it_were_whole() -> None:
    with scripted([STREAM, b"data: a\n\n", ...]) as server:
        async with httpx2.AsyncClient() as client:
            async with EventSource(client, server.url, method="POST") as source:
                assert (await anext(source)).data == "a"
                with anyio.move_on_after(0.05):
                    await anext(source)
                with pytest.raises(IncompleteStream, match="a read was cancelled"):
                    await anext(source)
        assert len(server.requests) == 1


async def test_a_post_goes_on_after_a_cancellation_before_it_was_sent() -> None:
    delays = [math.inf, 0.0]

    async def headers() -> dict[str, str]:
        await anyio.sleep(delays.pop(0))
        return {}

    with scripted([STREAM, b"data: a\n\n", ...]) as server:
        async with httpx2.AsyncClient() as client:
            options: Any = {"method": "POST", "headers": headers}
            async with EventSource(client, server.url, **options) as source:
                with anyio.move_on_after(0.01):
                    await anext(source)
                assert (await anext(source)).data == "a"
        assert len(server.requests) == 1


class Slow(httpx2.AsyncBaseTransport):
    """A client's connections, each of whose awaits can be the one that is cancelled."""

    def __init__(self) -> None:
        self.open = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await anyio.lowlevel.checkpoint()
        self.open += 1
        return httpx2.Response(
            200, headers={"Content-Type": "text/event-stream"}, stream=SlowBody(self)
        )


class SlowBody(httpx2.AsyncByteStream):
    def __init__(self, transport: Slow) -> None:
        self._transport = transport

    async def __aiter__(self) -> Any:
        for number in range(3):
            await anyio.lowlevel.checkpoint()
            yield b"id: %d\ndata: x\n\n" % number
        await anyio.sleep_forever()

    async def aclose(self) -> None:
        # As that of a real connection; the client itself does not shield it.
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()
        self._transport.open -= 1


@pytest.mark.parametrize("turns", range(16))
async def test_nothing_is_open_after_a_cancellation_at_any_await(turns: int) -> None:
    async def follow(client: httpx2.AsyncClient) -> None:
        async with EventSource(client, "http://x") as source:
            async for _ in source:
                pass

    transport = Slow()
    async with httpx2.AsyncClient(transport=transport) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow, client)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    assert transport.open == 0


def test_events_come_as_their_bytes_do() -> None:
    more = threading.Event()
    with scripted([STREAM, b"data: a\n\n", more, b"data: b\n\n", ...]) as server:
        with httpx2.Client() as client, SyncEventSource(client, server.url) as source:
            assert next(source).data == "a"
            more.set()
            assert next(source).data == "b"


# What is easily lost


def test_r20_an_event_that_is_too_large_is_told_also_behind_one_that_is_not(reader: Reader) -> None:
    """Both come in one chunk; then the connection is cut."""
    with scripted(
        [CHUNKED, chunk(b"data: a\n\ndata: " + 200 * b"b" + b"\n\n")],
        [STREAM, b"data: c\n\n"],
    ) as server:
        with pytest.raises(EventTooLarge):
            reader.read(server.url, 2, max_event_size=100)
        assert len(server.requests) == 1


@pytest.mark.parametrize("last_event_id", ["5 ", "\x01"])
def test_r25_an_id_that_cannot_be_sent_does_not_let_a_post_be_repeated(
    reader: Reader, last_event_id: str
) -> None:
    with scripted(
        [CHUNKED, chunk(f"id: {last_event_id}\ndata: a\n\n".encode())], [STREAM, b"data: b\n\n"]
    ) as server:
        with pytest.raises(reader.library.RemoteProtocolError):
            reader.read(server.url, 2, **POST)
        assert len(server.requests) == 1


def test_r23_the_body_of_a_refusal_does_not_hold_up_its_error(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sserpent.client.responses._PATIENCE", 0.5)
    trickle = [step for _ in range(200) for step in (Pause(0.1), chunk(b"x"))]
    head = b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n"
    with scripted([head + chunk(b"x"), *trickle]) as server:
        with pytest.raises(NotAnEventStream, match="status 401") as raised:
            reader.read(server.url)
        assert 1 <= len(raised.value.body) < 100


def test_r23_a_body_of_a_refusal_that_does_not_come_is_not_waited_for(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sserpent.client.responses._PATIENCE", 0.2)
    head = b"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\n"
    with scripted([head, b"b", ...], [STREAM, b"data: a\n\n", ...]) as server:
        begin = time.monotonic()
        assert data(reader.read(server.url, 1)) == ["a"]
        assert time.monotonic() - begin < 40  # silence_timeout is 45 s


async def test_r21_a_refusal_is_counted_though_the_reading_of_its_body_is_cancelled() -> None:
    async def poll(source: EventSource[MessageEvent]) -> None:
        while True:
            with anyio.move_on_after(0.2):
                await anext(source)

    head = b"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\n"
    # On a slow machine some of the reads are cancelled before the status has come.
    with scripted(*[[head, b"b", ...]] * 100) as server:
        async with httpx2.AsyncClient() as client:
            async with EventSource(client, server.url, retry=0, max_failures=2) as source:
                with pytest.raises(NotAnEventStream, match="status 503"):
                    await poll(source)
                assert source.failures == 2
