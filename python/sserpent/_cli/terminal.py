"""Text for a terminal: in colour where there is one, and without what could drive it."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import TextIO

COLOURS = {"dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def prepare_output() -> None:
    """Has standard output and standard error take every character, those also that their encoding
    lacks, and replaces one that the shell has closed (`>&-`)."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # It gets the descriptor that is free, which else the connection would get.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard(*streams: TextIO) -> None:
    """Discards what streams cannot take any more: Python would try again at its exit, and
    complain."""
    for stream in streams:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def coloured(text: str, colour: str, stream: TextIO) -> str:
    """Returns text in a colour if the stream is a terminal that shows it, and nobody has turned it
    off: https://no-color.org."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"


def without_password(url: str) -> str:
    """Returns a URL, or what was meant to be one, as it may be printed."""
    return re.sub(r"(//[^/?#:@]*:)[^/?#]*@", r"\1***@", url)


def visible(text: str) -> str:
    """Returns text in one line, with what is not printable as an escape: what a server sends could
    otherwise move the cursor, or worse."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )
