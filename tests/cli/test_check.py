"""`sserpent check`: against real servers, with what it says and the status that it ends with."""

from __future__ import annotations

import asyncio
import gzip
import re
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx2
import pytest

from debian import program
from scripted_server import HEAD, ScriptedServer, answer, chunk, nothing_to_come, scripted
from servers import free_port, give_back, until
from sserpent._cli.arguments import main
from sserpent._cli.findings import findings
from sserpent._cli.observation import Observation

pytestmark = pytest.mark.once

CACHED = HEAD + b"Cache-Control: No-Cache\r\n"
GOOD = CACHED + b"Connection: close\r\n\r\n"


class Clock:
    """The clock of `check`, on which nothing but the pauses of a script takes time: what comes late
    because the machine is slow is not taken for held back."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Pause(threading.Event):
    """A step that takes a while: when bytes come is what is looked at."""

    def __init__(self, seconds: float, clock: Clock | None = None) -> None:
        super().__init__()
        self._seconds = seconds
        self._clock = clock or Clock()

    def on(self, clock: Clock) -> Pause:
        return Pause(self._seconds, clock)

    def wait(self, timeout: float | None = None) -> bool:
        super().wait(self._seconds)
        self._clock.now += self._seconds
        return True


def event(number: int, size: int = 20) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (number, b"x" * size)


# Whether what has come to the server, and to the client, is enough.
Enough = Callable[[ScriptedServer, Observation | None], bool]


@contextmanager
def looking_until(enough: Enough, server: ScriptedServer) -> Iterator[None]:
    """Has `check` look until it has seen enough, and not for `--seconds`, which a slow machine may
    take for anything."""
    seen: list[Observation] = []

    class Seen(Observation):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            seen.append(self)

    @contextmanager
    def move_on_after(_: float) -> Iterator[None]:
        seen.clear()

        def look() -> None:
            if enough(server, seen[-1] if seen else None):
                scope.cancel()
            else:
                asyncio.get_running_loop().call_later(0.01, look)

        with anyio.CancelScope(deadline=anyio.current_time() + 60) as scope:
            look()
            yield

    with pytest.MonkeyPatch.context() as patched:
        fake = SimpleNamespace(run=anyio.run, move_on_after=move_on_after)
        patched.setattr("sserpent._cli.check.anyio", fake)
        patched.setattr("sserpent._cli.check.Observation", Seen)
        yield


def check(
    capsys: Any,
    script: Sequence[Any],
    *options: str,
    again: Sequence[Any] | None = None,
    enough: Enough | None = None,
    clock: Any = None,
) -> tuple[int, str]:
    """Returns the status and the output. A stream that comes is asked for again, with compression:
    `again` is the answer then."""
    scripts_clock = Clock()
    scripts = [
        [step.on(scripts_clock) if isinstance(step, Pause) else step for step in each]
        for each in (script, script if again is None else again)
    ]
    with ExitStack() as stack:
        server = stack.enter_context(scripted(*scripts))
        if enough is not None:
            stack.enter_context(looking_until(enough, server))
        patched = stack.enter_context(pytest.MonkeyPatch.context())
        patched.setattr("sserpent._cli.check.time", clock or scripts_clock)
        status = main(["check", server.url, "--seconds", "8", *options])
        url = server.url
    printed = capsys.readouterr()
    assert printed.err == ""
    first, *lines = printed.out.splitlines()
    assert first == url
    return status, "\n".join(lines)


def test_a_stream_that_streams(capsys: Any) -> None:
    head = CACHED + b"Transfer-Encoding: chunked\r\n\r\n"
    events = [step for number in range(4) for step in (chunk(event(number)), Pause(0.2))]
    status, said = check(capsys, [head, *events, b"0\r\n\r\n"])
    assert status == 0
    assert "ok  status 200, text/event-stream, HTTP/1.1" in said
    assert "ok  4 events came as they were sent" in said
    assert "ok  the stream ended as a whole" in said
    assert said.endswith("Events arrive as they are sent.")
    assert "fail" not in said
    assert "note" not in said


def test_events_that_were_collected_come_in_lumps(capsys: Any) -> None:
    lump = b"".join(event(number) for number in range(10))
    status, said = check(capsys, [GOOD, Pause(0.8), lump, Pause(0.8), lump, Pause(0.8), lump])
    assert status == 1
    assert "fail  events come in lumps: 10 events in" in said
    assert "proxy_buffering off" in said
    assert said.endswith("Something keeps events from arriving.")


def test_a_full_buffer_ends_in_the_middle_of_an_event(capsys: Any) -> None:
    stream = b"".join(event(number, 500) for number in range(20))
    pages = [stream[at : at + 4096] for at in range(0, len(stream), 4096)]
    script = [GOOD, *[step for page in pages for step in (page, Pause(0.8))]]
    status, said = check(capsys, script)
    assert status == 1
    assert "fail  events come in lumps that end in the middle of an event:" in said


@pytest.mark.parametrize("compressed", [False, True])
def test_a_whole_stream_at_its_end(capsys: Any, compressed: bool) -> None:
    body = b"".join(event(number) for number in range(10))
    head = CACHED + b"Transfer-Encoding: chunked\r\n"
    if compressed:
        head, body = head + b"Content-Encoding: gzip\r\n", gzip.compress(body)
    status, said = check(capsys, [head + b"\r\n", Pause(0.8), chunk(body) + b"0\r\n\r\n"])
    assert status == 1
    assert "fail  all events came together at the end of the stream: 10 events" in said
    assert ("note  compressed with gzip, although identity was asked for" in said) is compressed


GZIPPED = CACHED + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n"
TRICKLE = [step for n in range(4) for step in (event(n), Pause(0.2))]


def gzipped(*, flushed: bool) -> list[Any]:
    """The steps of a compressed stream, whose compressor flushes each event, or collects all."""
    compressor = zlib.compressobj(wbits=31)
    steps: list[Any] = []
    for step in TRICKLE:
        if isinstance(step, Pause):
            steps.append(step)
        else:
            flush = compressor.flush(zlib.Z_SYNC_FLUSH) if flushed else b""
            steps.append(compressor.compress(step) + flush)
    return [GZIPPED, *steps, compressor.flush()]


def test_a_stream_that_is_held_back_only_where_it_is_compressed(capsys: Any) -> None:
    """Browsers ask for compression, which is where gzip of a proxy collects the events."""
    status, said = check(capsys, [GOOD, *TRICKLE], again=gzipped(flushed=False))
    assert status == 1
    assert "ok  4 events came as they were sent" in said
    assert (
        "fail  compressed with gzip, as browsers ask for it: all events came together at the end"
    ) in said
    assert "gzip_types" in said
    assert said.endswith("Something keeps events from arriving.")


def test_a_compressed_stream_whose_headers_are_held_back_too(capsys: Any) -> None:
    head, *rest = gzipped(flushed=False)
    body = b"".join(step for step in rest if isinstance(step, bytes))
    again = [Pause(0.8), head + body]
    status, said = check(capsys, [GOOD, *TRICKLE], again=again)
    assert status == 1
    assert "browsers ask for it: all 4 events came together with the headers" in said
    status, said = check(capsys, again, "--post", "{}")
    assert status == 1
    assert "fail  all 4 events came together with the headers, after" in said
    status, said = check(capsys, [GOOD, event(1), ...], again=[...], enough=event_or_second_request)
    assert status == 1
    assert "asked with compression, as browsers do: the headers did not come within 8 s" in said


def event_or_second_request(server: ScriptedServer, seen: Observation | None) -> bool:
    return len(server.requests) == 2 if seen is None else seen.events == 1


def test_a_whole_stream_that_comes_with_its_headers_tells_nothing(capsys: Any) -> None:
    body = b"".join(event(number) for number in range(10))
    status, said = check(capsys, [Pause(0.8), GOOD + body])
    assert status == 0
    assert "note  all 10 events came together with the headers, after" in said
    assert "as they were sent" not in said
    assert said.endswith("Whether events arrive as they are sent cannot be told.")


def test_events_that_come_at_once_are_not_said_to_have_come_as_they_were_sent() -> None:
    seen = Observation(200, {"content-type": "text/event-stream"}, "HTTP/1.1", 0.1)
    seen.take(0.1, event(1) + event(2))
    seen.ended_at = 0.1
    texts = [(each.level, each.text) for each in findings(seen, 8)]
    assert ("note", "all 2 events came together with the headers") in texts


@pytest.mark.parametrize(
    ("options", "level"),
    [((), "fail"), (("--header", "Accept-Encoding: gzip, x-press"), "note")],
)
def test_a_compression_that_the_command_does_not_know(
    capsys: Any, options: Sequence[str], level: str
) -> None:
    head = GOOD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: x-press\r\n\r\n")
    status, said = check(capsys, [head, b"\x0b\x02data: \x80"], *options)
    assert status == (level == "fail")
    assert f"{level}  the stream cannot be read: this command does not decompress x-press" in said
    assert "in the middle of an event" not in said


def test_the_time_that_the_client_itself_takes_is_not_the_servers(
    capsys: Any, monkeypatch: Any
) -> None:
    late = 0.0

    class Slow(httpx2.AsyncClient):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            nonlocal late
            super().__init__(*arguments, **options)
            late += 600.0

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late)
    monkeypatch.setattr(httpx2, "AsyncClient", Slow)
    _, said = check(capsys, [GOOD + event(1) + event(2)], clock=clock)
    assert late
    assert float(re.findall(r"ended after (\S+) s", said)[0]) < 600


def test_a_compressed_stream_that_nothing_comes_of(capsys: Any) -> None:
    again = [GZIPPED, ...]
    status, said = check(capsys, [GOOD, event(1), ...], again=again, enough=event_or_compression)
    assert status == 1
    assert "fail  compressed with gzip, as browsers ask for it: nothing came for 8 s" in said


def event_or_compression(_: ScriptedServer, seen: Observation | None) -> bool:
    return seen is not None and (seen.events == 1 or seen.encoding == "gzip")


def test_a_compressed_stream_that_streams(capsys: Any) -> None:
    status, said = check(capsys, [GOOD, *TRICKLE], again=gzipped(flushed=True))
    assert status == 0
    assert "ok  compressed with gzip, as browsers ask for it: 4 events came as they were" in said
    assert "note" not in said


def test_what_asks_for_compression(capsys: Any) -> None:
    for options, asked in (
        ([], [b"identity", b"gzip, deflate"]),
        (["--header", "accept-encoding: gzip"], [b"gzip"]),
        (["--post", "{}"], [b"gzip, deflate"]),  # it may have effects, and is sent once
        (["--post", "{}", "--header", "Accept-Encoding: identity"], [b"identity"]),
    ):
        with scripted(*[[GOOD, event(1)]] * 2) as server:
            assert main(["check", server.url, *options]) == 0
            count = len(server.requests)
            sent = [server.header(number, "Accept-Encoding") for number in range(count)]
            # The client adds what else it can decode.
            assert [(value or b"").partition(b", br")[0] for value in sent] == asked
            assert server.requests[0].lower().count(b"accept-encoding:") == 1
        capsys.readouterr()


@pytest.mark.parametrize("options", [["--post", "{}"], ["--header", "Accept-Encoding: gzip"]])
def test_a_stream_that_is_asked_for_once_with_compression(capsys: Any, options: list[str]) -> None:
    status, said = check(capsys, gzipped(flushed=True), *options, again=[])
    assert status == 0
    assert "ok  status 200, text/event-stream, HTTP/1.1, compressed with gzip\n" in said
    assert "although" not in said
    status, said = check(capsys, gzipped(flushed=False), *options, again=[])
    assert status == 1
    assert "fail  all events came together at the end of the stream: 4 events" in said
    assert "--header 'Accept-Encoding: identity'" in said


@pytest.mark.parametrize(
    ("again", "said_of_it"),
    [
        ([], "RemoteProtocolError: "),
        (answer(429, body=b"one at a time"), "status 429"),
    ],
)
def test_a_stream_that_does_not_come_twice(capsys: Any, again: list[Any], said_of_it: str) -> None:
    status, said = check(capsys, [GOOD, event(1)], again=again)
    assert status == 0
    assert f"note  asked once more, with compression, as browsers do: {said_of_it}" in said
    status, said = check(capsys, [GOOD, event(1)], again=nothing_to_come())
    assert status == 0
    assert "note" not in said


def test_a_response_whose_length_is_known_was_collected(capsys: Any) -> None:
    headers = "Content-Type: text/event-stream", "Cache-Control: no-store", "Age: 3"
    status, said = check(capsys, answer(200, *headers, body=event(1)))
    assert status == 1
    assert "fail  Content-Length: 34: the whole body was there before it was sent" in said
    assert "fail  the header 'Age': this comes from a cache" in said
    assert "as it was sent" not in said


@pytest.mark.parametrize(
    ("encoding", "body", "why"),
    [
        (b"Content-Encoding: gzip\r\n", b"no gzip", "DecodingError"),
        (b"", (b"data: " + b"x" * 2**20 + b"\n") * 17, "EventTooLarge"),
    ],
)
def test_a_stream_that_cannot_be_read(capsys: Any, encoding: bytes, body: bytes, why: str) -> None:
    head = CACHED + encoding + b"Connection: close\r\n\r\n"
    status, said = check(capsys, [head, body])
    assert status == 1
    assert f"fail  the stream cannot be read: {why}" in said
    assert "no response came" not in said


def test_silence(capsys: Any) -> None:
    status, said = check(capsys, [GOOD, ...], enough=lambda _, seen: seen is not None)
    assert status == 1
    assert "fail  nothing came for 8 s, not even a keep-alive" in said


@pytest.mark.parametrize(
    ("sent", "said_of_it"),
    [
        (b": ping\n", "no event came within 8 s, only 1 keep-alive\n"),
        (b": ping\n: ping\n", "no event came within 8 s, only 2 keep-alives\n"),
        (b"id: 1\n\n", "no event came within 8 s\n"),
    ],
)
def test_a_stream_without_an_event(capsys: Any, sent: bytes, said_of_it: str) -> None:
    def enough(_: ScriptedServer, seen: Observation | None) -> bool:
        return seen is not None and seen.body == sent

    status, said = check(capsys, [GOOD, sent, ...], enough=enough)
    assert status == 0
    assert f"note  {said_of_it}" in said
    assert "as they were sent" not in said
    assert said.endswith("No event came.")


def test_a_stream_that_ends_without_an_event(capsys: Any) -> None:
    _, said = check(capsys, [GOOD, b": ping\n"])
    assert "note  the stream ended without an event" in said
    assert said.endswith("No event came.")


def test_a_single_event(capsys: Any) -> None:
    def enough(_: ScriptedServer, seen: Observation | None) -> bool:
        return seen is not None and seen.events == 1

    status, said = check(capsys, [GOOD, event(1), ...], enough=enough)
    assert status == 0
    assert "ok  1 event came as it was sent" in said


def test_no_headers(capsys: Any) -> None:
    status, said = check(capsys, [...], enough=lambda server, _: bool(server.requests))
    assert status == 1
    assert "fail  no response came: ReadTimeout: the headers did not come within 8 s" in said


def test_it_looks_for_as_long_as_it_is_told(capsys: Any) -> None:
    began = time.monotonic()
    check(capsys, [...], "--seconds", "0.2")
    assert time.monotonic() - began < 8


def test_headers_came_also_where_bytes_come_faster_than_they_are_looked_at(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Observation.take

    def slowly(seen: Observation, at: float, body: bytes) -> None:
        time.sleep(0.02)
        take(seen, at, body)

    def enough(_: ScriptedServer, seen: Observation | None) -> bool:
        return seen is not None and len(seen.chunks) > 2

    monkeypatch.setattr(Observation, "take", slowly)
    script = [GOOD, *[event(1) * 500] * 2_000, ...]
    status, said = check(capsys, script, "--seconds", "0.5", enough=enough)
    assert status == 0, said
    assert "ok  status 200, text/event-stream, HTTP/1.1" in said
    assert said.endswith("Events arrive as they are sent.")


def test_nobody_there(capsys: Any) -> None:
    port = free_port()
    status = main(["check", f"http://127.0.0.1:{port}/"])
    give_back(port)
    assert status == 1
    assert "fail  no response came: ConnectError" in capsys.readouterr().out


def test_a_server_that_answers_in_json(capsys: Any) -> None:
    status, said = check(capsys, answer(200, "Content-Type: application/json", body=b"[1]"))
    assert status == 1
    assert "fail  application/json, not text/event-stream: b'[1]'" in said
    assert "response_class=EventSourceResponse" in said


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (401, "--header"),
        (405, "--post"),
        (404, "path"),
        (502, "proxy"),
        (500, "traceback"),
        (418, "gives up on any"),
    ],
)
def test_another_status(capsys: Any, code: int, advice: str) -> None:
    status, said = check(capsys, answer(code, body=b"no"))
    assert status == 1
    assert f"fail  status {code}, not 200: b'no'" in said
    assert advice in said


def test_keep_alives_with_a_blank_line(capsys: Any) -> None:
    script = [GOOD, event(1), *[step for _ in range(3) for step in (b": ping\n\n", Pause(0.3))]]
    status, said = check(capsys, script)
    assert status == 0
    assert "ok  keep-alives come every 0.3 s or so" in said
    assert "note  a blank line follows the keep-alives" in said
    bare = [GOOD, event(1), *[step for _ in range(3) for step in (b": ping\n", Pause(0.3))]]
    assert "blank line" not in check(capsys, bare)[1]


def test_http_1_0_and_a_missing_cache_control(capsys: Any) -> None:
    head = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    status, said = check(capsys, [head, event(1)])
    assert status == 0
    assert "note  HTTP/1.0: clients cannot tell the end of the stream from a cut" in said
    assert "note  no 'Cache-Control: no-cache': a cache may keep the stream" in said


def test_a_cut(capsys: Any) -> None:
    head = CACHED + b"Transfer-Encoding: chunked\r\n\r\n"
    status, said = check(capsys, [head, chunk(event(1)), Pause(0.8)])
    assert status == 0
    assert re.search(
        r"note  the connection was cut after \d\.\d s, and [01]\.\d s of silence: ", said
    )
    assert (
        "The generator raised (the server's log has its traceback), or a proxy's timeout for"
        in said
    )


def test_the_request_is_as_it_was_asked_for(capsys: Any) -> None:
    options = ["--header", "Authorization: Bearer x", "--header", "X-Two: 2", "--post", '{"a": 1}']
    with scripted([GOOD, event(1)]) as server:
        assert main(["check", server.url, *options]) == 0
        assert server.requests[0].startswith(b"POST ")
        assert server.requests[0].endswith(b'{"a":1}')
        names = "Authorization", "X-Two", "Accept", "Accept-Encoding"
        sent = [server.header(0, name) for name in names]
        assert sent[:3] == [b"Bearer x", b"2", b"text/event-stream"]
    options = ["--header", "accept: */*", "--header", "ACCEPT-ENCODING: identity"]
    with scripted([GOOD, event(1)]) as server:
        assert main(["check", server.url, *options]) == 0
        head = server.requests[0].lower()
        assert head.count(b"accept: ") == head.count(b"accept-encoding: ") == 1
        assert server.header(0, "Accept") == b"*/*"
        assert len(server.requests) == 1
    capsys.readouterr()


def test_what_a_server_sends_does_not_drive_the_terminal(capsys: Any) -> None:
    status, said = check(capsys, answer(404, body=b"\x1b[2Jgone"))
    assert status == 1
    assert "\x1b" not in said


def test_a_quiet_minute_without_keep_alives_is_noted() -> None:
    seen = Observation(200, {"content-type": "text/event-stream"}, "HTTP/1.1", 0.1)
    seen.take(1.0, event(1))
    notes = [each.text for each in findings(seen, 20.0) if each.level == "note"]
    assert "nothing came for 19 s, and no keep-alive" in notes


NGINX = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/client;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {upstream};
            {options}
        }}
    }}
}}
"""


@contextmanager
def behind_nginx(folder: Path, script: list[Any], options: str) -> Iterator[str]:
    port = free_port()
    with scripted(*[script] * 30) as server:
        upstream = server.url.removesuffix("/stream")
        configuration = NGINX.format(folder=folder, port=port, upstream=upstream, options=options)
        (folder / "nginx.conf").write_text(configuration)
        give_back(port)
        command = [program("nginx", "nginx"), "-p", str(folder), "-c", f"{folder}/nginx.conf"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as nginx:
            try:
                until(lambda: (folder / "nginx.pid").exists())
                yield f"http://127.0.0.1:{port}/"
            finally:
                nginx.terminate()


@pytest.mark.parametrize(
    "options",
    ["", "proxy_buffering off;", 'proxy_http_version 1.1; proxy_set_header Connection "";'],
    ids=["default", "unbuffered", "http-1.1"],
)
def test_nginx_is_named_with_what_cannot_be_seen(tmp_path: Path, capsys: Any, options: str) -> None:
    with behind_nginx(tmp_path, [GOOD, *TRICKLE], options) as url:
        status = main(["check", url, "--seconds", "8"])
    said = capsys.readouterr().out
    assert status == 0, said
    assert "note  nginx is on the way: with proxy_buffering on it may hold back the last" in said
    assert "Nothing to do if the application sends 'X-Accel-Buffering: no'" in said
    assert "proxy_ignore_headers" in said


def test_gzip_of_nginx_is_found(tmp_path: Path, capsys: Any) -> None:
    head = CACHED + b"Transfer-Encoding: chunked\r\n\r\n"
    events = [chunk(step) if isinstance(step, bytes) else step for step in TRICKLE]
    script = [head, *events, b"0\r\n\r\n"]
    options = (
        "proxy_http_version 1.1; gzip on; gzip_proxied any; gzip_types text/event-stream;"
        "proxy_ignore_headers X-Accel-Buffering;"
    )
    with behind_nginx(tmp_path, script, options) as url:
        status = main(["check", url, "--seconds", "8"])
    said = capsys.readouterr().out
    assert status == 1, said
    assert "ok  4 events came as they were sent" in said
    assert "fail  compressed with gzip, as browsers ask for it: all 4 events came together" in said


def test_a_timeout_of_nginx_is_no_fault_of_the_generator_alone(tmp_path: Path, capsys: Any) -> None:
    unbuffered = GOOD.removesuffix(b"\r\n") + b"X-Accel-Buffering: no\r\n\r\n"
    for sent in (event(1), b""):
        with behind_nginx(tmp_path, [unbuffered, sent, ...], "proxy_read_timeout 2s;") as url:
            assert main(["check", url, "--seconds", "8"]) == 0
        assert_cut(capsys.readouterr().out)


def assert_cut(said: str) -> None:
    # nginx waits for 2 s, but they begin before the last bytes are read here.
    assert re.search(
        r"note  the connection was cut after \d\.\d s, and [12]\.\d s of silence: ", said
    )
    assert "shorter than ping_interval" in said
