"""`sserpent tail`: what it prints where, and the status that it ends with."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from scripted_server import CHUNKED, STREAM, answer, chunk, nothing_to_come, scripted
from sserpent._cli.arguments import main

pytestmark = pytest.mark.once

COMMAND = [sys.executable, "-m", "sserpent"]


def tail(capsys: Any, scripts: Sequence[Sequence[Any]], *options: str) -> tuple[int, str, str]:
    """The status, and what is printed, without times."""
    with scripted(*scripts) as server:
        status = main(["tail", server.url, *options])
    printed = capsys.readouterr()
    said = re.sub(r"in \d\.\d s", "in N s", printed.err.replace(server.url, "URL"))
    return status, re.sub(r"(?m)^\d\d:\d\d:\d\d\.\d{3}", "TIME", printed.out), said


def test_events_go_to_standard_output_and_connections_to_standard_error(
    capsys: Any, caplog: Any
) -> None:
    scripts = [
        [CHUNKED, chunk(b"retry: 1\nid: 7\nevent: token\ndata: Hel\ndata: lo\n\n")],
        [STREAM, b"data: b\n\n"],
        answer(503, body=b"busy"),
        nothing_to_come(),
    ]
    status, out, err = tail(capsys, scripts)
    assert status == 0
    assert out == "TIME  7  token  Hel\\nlo\nTIME  7  message  b\n"
    first, again, second, ended, busy, last = err.splitlines()
    assert first == "connected"
    assert again.startswith("reconnects in N s: RemoteProtocolError: ")
    assert second == "connected after the event '7'"
    assert ended == "reconnects in N s: the stream ended"
    assert busy.startswith("reconnects in N s: NotAnEventStream: URL is no event stream: ")
    assert "status 503 with no content type: b'busy'" in busy
    assert last == "the server says that nothing more comes"
    # It is said once: without a handler, Python prints warnings of the log too.
    assert [record for record in caplog.records if record.name == "sserpent"] == []


def test_a_run_that_has_ended_is_not_asked_for_again(capsys: Any) -> None:
    run_end = b'id: 2\nevent: run-end\ndata: {"reason": "done"}\n\n'
    with scripted([STREAM, b"id: 1\ndata: a\n\n" + run_end], nothing_to_come()) as server:
        assert main(["tail", server.url]) == 0
        assert len(server.requests) == 1
    said = capsys.readouterr().err
    assert said == "connected\nthe run has ended\n"


def test_a_run_that_is_cut_at_its_end_is_asked_for_again(capsys: Any) -> None:
    run_end = chunk(b"retry: 1\nid: 2\nevent: run-end\ndata: {}\n\n")
    status, _, err = tail(capsys, [[CHUNKED, run_end], nothing_to_come()])
    assert status == 0
    first, again, last = err.splitlines()
    assert (first, last) == ("connected", "the run has ended")
    assert again.startswith("reconnects in N s: RemoteProtocolError")


def test_a_stream_that_goes_on_behind_a_run_is_asked_for_again(capsys: Any) -> None:
    events = b"retry: 1\nevent: run-end\ndata: {}\n\ndata: a\n\n"
    status, _, err = tail(capsys, [[STREAM, events], nothing_to_come()])
    assert status == 0
    assert err.splitlines()[-1] == "the server says that nothing more comes"


def test_json_lines(capsys: Any) -> None:
    scripts = [[STREAM, "retry: 1\nid: ä\nevent: e\ndata: {}\ndata: \x1b\n\n".encode()]]
    with scripted(*scripts, nothing_to_come()) as server:
        assert main(["tail", server.url, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert datetime.fromisoformat(shown.pop("time")).tzinfo is not None
    assert shown == {"id": "ä", "event": "e", "data": "{}\n\x1b"}


def test_a_post_ends_with_its_stream(capsys: Any) -> None:
    with scripted([STREAM, b"id: 1\ndata: a\n\n"]) as server:
        options = ["--post", '{"prompt": "Hi"}', "--header", "X-Key: k", "--last-event-id", ""]
        assert main(["tail", server.url, *options]) == 0
        assert server.requests[0].startswith(b"POST ")
        assert server.requests[0].endswith(b'{"prompt":"Hi"}')
        assert server.header(0, "X-Key") == b"k"
    assert capsys.readouterr().err.splitlines()[-1] == "the stream has ended"


def test_the_last_event_id_is_sent(capsys: Any) -> None:
    with scripted(nothing_to_come()) as server:
        assert main(["tail", server.url, "--last-event-id", "5"]) == 0
        assert server.header(0, "Last-Event-ID") == b"5"
    capsys.readouterr()


def test_what_is_no_event_stream_ends_with_1(capsys: Any) -> None:
    status, out, err = tail(capsys, [answer(404, body=b"no \x1b[2J")])
    assert (status, out) == (1, "")
    assert err == (
        "URL is no event stream: status 404 with no content type: b'no \\\\x1b[2J'\n"
    ).replace("\\\\", "\\")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["tail"],
        ["tail", "example.com"],
        ["tail", "http://x", "--header", "nothing"],
        ["tail", "http://x", "--post", "{"],
        ["tail", "http://x", "--last-event-id", "a\nb"],
        ["tail", "http://x", "--last-event-id", "a "],
        ["tail", "http://x", "--last-event-id", "\udcff"],
        ["tail", "http://x", "--nothing"],
        ["check", "http://x", "--seconds", "0"],
        ["check", "http://x", "--seconds", "soon"],
    ],
)
def test_wrong_usage_is_2(capsys: Any, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: sserpent" in capsys.readouterr().err


def test_sigint_ends_it_with_130() -> None:
    with scripted([STREAM, b"data: a\n\n", ...]) as server:
        process = subprocess.Popen(
            [*COMMAND, "tail", server.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        # Flushed, as events come.
        assert process.stdout.readline().endswith("  -  message  a\n")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 130
        assert said == "connected\n"


def test_a_reader_that_has_enough_ends_it_quietly() -> None:
    # More lines than a pipe holds.
    with scripted([STREAM, b"retry: 1\n" + b"data: a\n\n" * 20_000], *[[STREAM]] * 3) as server:
        process = subprocess.Popen(
            [*COMMAND, "tail", server.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == b"connected\n"
        process.stderr.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize("variable", ["", "NO_COLOR=1", "TERM=dumb"])
def test_a_terminal_gets_colours_unless_nobody_wants_them(variable: str) -> None:
    name, _, value = variable.partition("=")
    controller, terminal = pty.openpty()
    with scripted([STREAM, b"retry: 1\ndata: a\n\n"], nothing_to_come()) as server:
        process = subprocess.Popen(
            [*COMMAND, "tail", server.url],
            stdout=terminal,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "NO_COLOR": "", "TERM": "xterm", **({name: value} if name else {})},
        )
        os.close(terminal)
        shown = b""
        while b"  a" not in shown:
            shown += os.read(controller, 10_000)
        assert process.wait(30) == 0
    os.close(controller)
    assert (b"\x1b[36mmessage\x1b[0m" in shown) is not bool(variable)
    assert (b"\x1b" in shown) is not bool(variable)
