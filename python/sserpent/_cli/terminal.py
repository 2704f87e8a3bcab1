"""Text for a terminal: in colour where there is one, and without what could drive it."""

from __future__ import annotations

import os
from typing import TextIO

COLOURS = {"dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def coloured(text: str, colour: str, stream: TextIO) -> str:
    """Returns text in a colour, where the stream is a terminal that shows it:
    https://no-color.org says who does not want any."""
    if os.environ.get("NO_COLOR") or not stream.isatty():
        return text
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"


def visible(text: str) -> str:
    """Returns text in one line, with what is not printable as an escape: what a server sends could
    otherwise move the cursor, or worse."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )
