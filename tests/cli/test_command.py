"""The command of sserpent: its output may end, lack characters or be closed. No traceback answers
what is typed, or what a server sends."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
from importlib.abc import MetaPathFinder
from typing import Any

import httpx2
import pytest

from scripted_server import HEAD, STREAM, answer, nothing_to_come, scripted
from sserpent._cli.arguments import main
from sserpent._cli.no_response import no_response

pytestmark = pytest.mark.once

COMMAND = f"{shlex.quote(sys.executable)} -m sserpent"
EVENTS = [STREAM, b"retry: 1\n", "data: 日本 😀 é\n\n".encode()]

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")


def shell(command: str, **environment: str) -> tuple[int, str, str]:
    """The status of a command, and what it printed on standard output and error."""
    command = command.replace("sserpent", COMMAND, 1)
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, timeout=60, env={**buffered(), **environment}
    )
    return done.returncode, done.stdout.decode("latin-1"), done.stderr.decode("latin-1")


def unread(command: str, stderr: int = subprocess.PIPE) -> tuple[int, str]:
    """The status of a command whose output has no reader from the beginning, and what it printed on
    standard error."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "sserpent", *command.split()],
        stdout=writer,
        stderr=stderr,
        timeout=60,
        env=buffered(),
    )
    os.close(writer)
    return done.returncode, (done.stderr or b"").decode()


def buffered() -> dict[str, str]:
    """The environment without what has Python flush by itself, which hides what is not flushed."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}


# A reader that has left


@posix
@pytest.mark.parametrize("lines", [0, 1, 2])
def test_the_status_of_check_counts_for_a_reader_that_has_enough(lines: int) -> None:
    script = answer(200, "Content-Type: application/json", body=b"[1]")
    with scripted(script) as server:
        read = f"head -{lines}" if lines else "true"
        ended = shell(f"sserpent check {server.url} | {read}; echo ${{PIPESTATUS[0]}} >&2")
    assert ended[2] == "1\n"
    assert len(ended[1].splitlines()) == lines


@pytest.mark.parametrize("command", ["--help", "tail --help", "tail URL --json", "check URL"])
def test_a_reader_that_has_left_is_no_error(command: str) -> None:
    with scripted(EVENTS, nothing_to_come()) as server:
        status, said = unread(command.replace("URL", server.url))
    assert status == 0
    assert said in ("", "connected\n")


def test_a_reader_of_what_is_said_of_connections_may_leave_too() -> None:
    with scripted(EVENTS, nothing_to_come()) as server:
        assert unread(f"tail {server.url}", stderr=subprocess.STDOUT)[0] == 0


# An output that lacks characters, or is closed


@posix
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii", "latin-1:strict"])
def test_a_character_that_the_output_lacks_is_escaped(encoding: str) -> None:
    with scripted(EVENTS, nothing_to_come()) as server:
        status, printed, said = shell(f"sserpent tail {server.url}", PYTHONIOENCODING=encoding)
    assert status == 0, said
    shown = "\\xe9" if encoding == "ascii" else "\xe9"
    assert printed.endswith(f"  -  message  \\u65e5\\u672c \\U0001f600 {shown}\n")


@posix
def test_an_id_that_standard_error_lacks_is_escaped() -> None:
    with scripted([STREAM, "retry: 1\nid: 日\ndata: a\n\n".encode()], [STREAM]) as server:
        ended = shell(
            f"timeout 20 sserpent tail {server.url} 2>&1", PYTHONIOENCODING="ascii:strict"
        )
    assert "connected after the event '\\u65e5'" in ended[1]


@posix
def test_a_closed_output_is_none() -> None:
    with scripted(EVENTS, nothing_to_come()) as server:
        status, _, said = shell(f"sserpent tail {server.url} >&-")
    assert (status, said.splitlines()[0]) == (0, "connected")
    with scripted(EVENTS, nothing_to_come()) as server:
        status, printed, _ = shell(f"sserpent tail {server.url} --json 2>&-")
    assert status == 0
    # What is said of connections is not among the events.
    assert [json.loads(line)["event"] for line in printed.splitlines()] == ["message"]
    with scripted(EVENTS) as server:
        assert shell(f"sserpent check {server.url} >&- 2>&- <&-")[0] == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("command", ["tail", "check"])
def test_a_full_disk_is_told(command: str) -> None:
    with scripted(EVENTS, nothing_to_come()) as server:
        status, _, said = shell(f"sserpent {command} {server.url} > /dev/full")
    assert status == 1
    assert said.splitlines()[-1] == "sserpent: OSError: [Errno 28] No space left on device"


# SIGINT


@pytest.mark.parametrize("module", ["sserpent._cli.tail", "sserpent._cli.check"])
def test_sigint_while_the_client_is_loaded_ends_it_with_130(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    class Interrupted(MetaPathFinder):
        def find_spec(self, name: str, *_: Any) -> None:
            if name == module:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    assert main([module.rpartition(".")[2], "http://127.0.0.1:9/"]) == 130


# What is typed


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["http://127.0.0.1:99999/"], "Port out of range"),
        (["http://127.0.0.1:-1/"], "is no URL"),
        (["http://127.0.0.1:http/"], "is no URL"),
        (["http://127.0.0.1:0/"], "no server has the port 0"),
        (["http://[::1/"], "is no URL"),
        (["http://"], "the name of a host"),
        (["http://:80/"], "the name of a host"),
        (["http:/x"], "the name of a host"),
        (["ftp://x"], "must be http:// or https://"),
        (["http://x", "--header", "Content-Length: 5"], "'Content-Length' follows from the body"),
        (["http://x", "--header", "transfer-encoding: chunked"], "follows from the body"),
        (["http://x", "--header", "X: a\nY: b"], "without control characters"),
        (["http://x", "--header", "X: a\0"], "without control characters"),
        (["http://x", "--header", "X y: a"], "must be a name, a colon and a value"),
        (["http://x", "--header", "é: a"], "must be a name, a colon and a value"),
        (["http://x", "--header", ": a"], "must be a name, a colon and a value"),
        (["http://x", "--post", "NaN"], "'NaN' is no JSON"),
        (["http://x", "--post", '["\\ud800"]'], "is no JSON"),
        (["http://x", "--post", "[" * 100_000], "is no JSON"),
        (["http://x", "--post", "null"], "is no body"),
        (["http://me:secret@:80/"], "'http://me:***@:80/' must be http://"),
        (["http://me:se@cret@host:-1/"], "'http://me:***@host:-1/' is no URL"),
    ],
)
@pytest.mark.parametrize("command", ["tail", "check"])
def test_what_cannot_be_sent_is_refused(
    capsys: Any, command: str, arguments: list[str], why: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, *arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert why in said
    assert "cret" not in said
    assert len(said) < 2_000


@pytest.mark.parametrize("command", ["tail", "check"])
@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("Bearer é", "Bearer é".encode()),
        ("a\tb: c", b"a\tb: c"),
        ("", b""),
        # As it is typed on a command line that is not in UTF-8.
        ("\udce9", b"\xe9"),
    ],
)
def test_a_header_is_sent_as_it_is_typed(
    capsys: Any, command: str, typed: str, sent: bytes
) -> None:
    with scripted([STREAM, b"retry: 1\ndata: a\n\n"], nothing_to_come()) as server:
        assert main([command, server.url, "--header", f"X-Name:  {typed} "]) == 0
        assert server.header(0, "X-Name") == sent
    capsys.readouterr()


def test_a_url_in_capitals_is_one(capsys: Any) -> None:
    with scripted(nothing_to_come()) as server:
        assert main(["tail", server.url.replace("http", "HTTP")]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("seconds", ["100000", "nan", "-1", "soon"])
def test_seconds_are_named_with_both_bounds(capsys: Any, seconds: str) -> None:
    with pytest.raises(SystemExit):
        main(["check", "http://x", f"--seconds={seconds}"])
    assert f"'{seconds}' must be a number of seconds, more than 0 and less than 86400" in (
        capsys.readouterr().err
    )


def test_a_password_is_sent_and_not_printed(capsys: Any) -> None:
    head = HEAD + b"Connection: close\r\n\r\n"
    with scripted([head, b"data: a\n\n"], answer(401), answer(401), []) as server:
        url = server.url.replace("//", "//me:secret@")
        assert main(["check", url]) == 0
        assert server.header(0, "Authorization") == b"Basic bWU6c2VjcmV0"
        assert main(["tail", url]) == 1
        assert main(["tail", url, "--post", "{}"]) == 1
    printed = "".join(capsys.readouterr())
    assert printed.startswith(server.url.replace("//", "//me:***@"))
    assert "secret" not in printed


# What comes


def test_a_redirect_to_nowhere_is_told(capsys: Any) -> None:
    redirect = answer(302, "Location: http://127.0.0.1:99999/")
    with scripted(redirect) as server:
        assert main(["check", server.url]) == 1
    said = capsys.readouterr().out
    assert re.search(r"fail  no response came: OverflowError: .*0-65535", said)
    assert "look at the URL, at a redirect's too" in said


@pytest.mark.parametrize(
    ("cause", "error", "advice"),
    [
        (ssl.SSLCertVerificationError("self-signed"), httpx2.ConnectError("x"), "does not trust"),
        (ssl.SSLError("wrong version number"), httpx2.ConnectError("x"), "speak TLS"),
        (socket.gaierror(-2, "not known"), httpx2.ConnectError("x"), "the name of the host"),
        (ConnectionRefusedError(), httpx2.ConnectError("x"), "Is the server running"),
        (None, httpx2.ReadTimeout("x"), "the endpoint waits"),
        (None, httpx2.RemoteProtocolError("x"), "does not answer in HTTP"),
        (None, httpx2.TooManyRedirects("x"), "in a circle"),
        (None, httpx2.ProxyError("x"), "HTTPS_PROXY"),
        (None, httpx2.InvalidURL("x"), "The request cannot be sent"),
        (None, ImportError("socksio"), "at the environment (HTTPS_PROXY"),
        (None, FileNotFoundError("x"), "SSL_CERT_FILE"),
        (None, UnicodeEncodeError("ascii", "é", 0, 1, "x"), "The request cannot be sent"),
    ],
)
def test_the_advice_is_about_what_went_wrong(
    cause: Exception | None, error: Exception, advice: str
) -> None:
    error.__cause__ = cause
    found = no_response(error)
    assert found.level == "fail"
    assert found.text.startswith(f"no response came: {type(error).__name__}: ")
    assert advice in found.advice


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "ada:secret@127.0.0.1:9"])
def test_the_proxy_of_the_environment_is_named(capsys: Any, monkeypatch: Any, proxy: str) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy)
    assert main(["check", "http://example.invalid/"]) == 1
    said = capsys.readouterr().out
    shown = proxy.replace("ada:secret", "http://ada:***")
    assert f"goes to the proxy {shown}, which the environment names" in said
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert main(["check", "http://127.0.0.1:9/"]) == 1
    assert "proxy" not in capsys.readouterr().out
