"""Reads the command line, and ends with the exit status."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

# As a shell has it for a command that SIGINT has ended.
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command, and returns its exit status.

    Args:
        arguments: Those of the command line; `sys.argv` unless given.
    """
    given = _parser().parse_args(arguments)
    if find_spec("httpx2") is None:
        print('The command needs httpx2: pip install "sserpent[cli]"', file=sys.stderr)
        return 1
    # Not before the arguments are right: they load an HTTP client.
    if given.command == "tail":
        from .tail import tail as run
    else:
        from .check import check as run
    try:
        return run(given)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Its reader has what it wanted, as `head` does. Python would complain of the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sserpent", description="Looks at Server-Sent Events from the command line."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    tail = commands.add_parser(
        "tail",
        help="print the events of a stream as they come",
        description="Prints the events of a stream as they come, a line each, and reconnects. Ends"
        " with 0 where the server says that nothing more comes (204, or the end of a POST or"
        " of a run) and with 1 where the response is no event stream.",
    )
    _add_request(tail)
    tail.add_argument("--last-event-id", default="", help="the ID to go on after")
    tail.add_argument("--json", action="store_true", help="print each event as a JSON object")
    check = commands.add_parser(
        "check",
        help="say why a stream does not stream",
        description="Looks at a stream and says what keeps its events from arriving, and what to"
        " change. Ends with 1 if something does.",
    )
    _add_request(check)
    check.add_argument(
        "--seconds",
        type=_seconds,
        default=20.0,
        help="how long to look, 20 unless given; to the end of the stream if that comes first",
    )
    return parser


def _add_request(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", type=_url, help="of the stream")
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        type=_header,
        metavar="'NAME: VALUE'",
        dest="headers",
        help="a header of the request; may be given more than once",
    )
    parser.add_argument("--post", type=_json, metavar="JSON", help="send a POST with this body")


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} must begin with http:// or https://")
    return text


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} must be a name, a colon and a value")
    return name.strip(), value.strip()


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error}") from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds, more than 0")
    return seconds
