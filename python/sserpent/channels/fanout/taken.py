"""The entries that a subscriber has taken, and how they become frames and events."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ..._core import ServerSentEvent
from ..history.ring import Entry, EphemeralEntry
from .cursor import Cursor
from .snapshots import decode_json


class Taken(NamedTuple):
    """An entry that was taken.

    Attributes:
        id: That of a stream of several channels, in the place of the entry's own.
        is_snapshot: Whether it is the state, not an event of the history.
    """

    entry: Entry
    cursor: Cursor
    id: str | None
    is_snapshot: bool = False

    @property
    def is_ephemeral(self) -> bool:
        """Whether it is an event of no history."""
        return isinstance(self.entry, EphemeralEntry)


class TakenEntries(Protocol):
    """Knows the entries that were taken: a compression that is shared."""

    def note(self, taken: list[bytes | Taken]) -> None:
        """Notes what `take` is about to return, unless that is the next entries alone."""
        ...

    def close(self) -> None:
        """Shares nothing any more."""
        ...


def is_snapshot_of(cursor: Cursor, taken: object) -> bool:
    """Returns whether it is a snapshot: nothing else of a cursor waits to be taken."""
    return isinstance(taken, Taken) and taken.cursor is cursor


def framed(taken: bytes | ServerSentEvent | Taken) -> bytes:
    """Returns it as it is sent."""
    if isinstance(taken, bytes):
        return taken
    if isinstance(taken, ServerSentEvent):
        return taken.encode()
    if taken.id is None:
        return taken.entry.frame
    return b"id: %b\n%b" % (taken.id.encode(), taken.entry.body)


def event_of(taken: bytes | ServerSentEvent | Taken) -> ServerSentEvent | None:
    """Returns it as an event; None for a block that is none."""
    if isinstance(taken, bytes):
        return None
    if isinstance(taken, ServerSentEvent):
        return taken
    # A snapshot is not of the channel's type.
    decode = decode_json if taken.is_snapshot else taken.cursor.selection.decode
    return taken.entry.event(decode, taken.id)
