"""Reads the command line, and ends with the exit status."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from ..client.reconnecting import sendable_id
from .terminal import discard, prepare_output, visible, without_password

# As a shell has it for a command that SIGINT has ended.
_INTERRUPTED = 130
# https://www.rfc-editor.org/rfc/rfc9110#section-5.1: a token, and a value in one line.
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command, and returns its exit status.

    Args:
        arguments: Those of the command line; `sys.argv` unless given.
    """
    try:
        prepare_output()
        try:
            return _run(arguments)
        finally:
            # Not left to the exit of Python, which complains of a reader that has left.
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader has what it wanted, as `head` does.
        discard(sys.stdout, sys.stderr)
        return 0
    except Exception as error:
        discard(sys.stdout)
        print(visible(f"sserpent: {type(error).__name__}: {error}"), file=sys.stderr)
        return 1


def _run(arguments: Sequence[str] | None) -> int:
    given = _parser().parse_args(arguments)
    if find_spec("httpx2") is None:
        print('The command needs httpx2: pip install "sserpent[cli]"', file=sys.stderr)
        return 1
    # Not before the arguments are right: they load an HTTP client.
    if given.command == "tail":
        from .tail import tail as run
    else:
        from .check import check as run
    return run(given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sserpent", description="Looks at Server-Sent Events from the command line."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    tail = commands.add_parser(
        "tail",
        help="print the events of a stream as they come",
        description="Prints the events of a stream as they come, a line each, and reconnects. The"
        " exit status is 0 at the end of the events (a 204, or the end of a POST or of a run), and"
        " 1 if the response is no event stream.",
    )
    _add_request(tail)
    tail.add_argument(
        "--last-event-id", default="", type=_event_id, metavar="ID", help="the ID to resume after"
    )
    tail.add_argument("--json", action="store_true", help="print each event as a JSON object")
    check = commands.add_parser(
        "check",
        help="say why a stream does not stream",
        description="Looks at a stream and says what keeps its events from arriving, and what to"
        " change. The exit status is 1 if anything does.",
    )
    _add_request(check)
    check.add_argument(
        "--seconds",
        type=_seconds,
        default=20.0,
        help="how long to look at most (default: 20)",
    )
    return parser


def _add_request(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", type=_url, help="the URL of the stream")
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        type=_header,
        metavar="'NAME: VALUE'",
        dest="headers",
        help="a header of the request; can be repeated",
    )
    parser.add_argument("--post", type=_json, metavar="JSON", help="send a POST with this body")


def _url(text: str) -> str:
    shown = repr(without_password(text))
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{shown} is no URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.hostname:
        raise argparse.ArgumentTypeError(
            f"{shown} must be http:// or https:// and the name of a host"
        )
    if port == 0:
        raise argparse.ArgumentTypeError(f"{shown} is no URL: no server has the port 0")
    return text


def _header(text: str) -> tuple[str, bytes]:
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip(" \t")
    if not _HEADER.fullmatch(f"{name}{colon}{value}"):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a name, a colon and a value, without control characters"
        )
    if name.lower() in ("content-length", "transfer-encoding"):
        raise argparse.ArgumentTypeError(f"{name!r} follows from the body: leave it out")
    # The bytes that were typed, whatever they mean to the server.
    return name, os.fsencode(value)


def _event_id(text: str) -> str:
    try:
        sendable = not text or sendable_id(text) is not None
    except UnicodeEncodeError:
        sendable = False
    if not sendable:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be UTF-8, without control characters, and with no blank at its ends"
        )
    return text


def _json(text: str) -> Any:
    try:
        value = json.loads(text)
        # Python reads NaN and lone surrogates, which JSON does not have.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text[:200]!r} is no JSON: {error}") from None
    if value is None:
        raise argparse.ArgumentTypeError("'null' is no body: send an object, as '{}'")
    return value


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 86_400:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a number of seconds, more than 0 and less than 86400"
        )
    return seconds
