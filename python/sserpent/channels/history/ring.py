"""The entries of a history, each framed once, in a ring that knows its limits."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ..._core import EventStreamParser, ServerSentEvent
from .control_events import RUN_END_LINE
from .position import NOWHERE, Position

#: How many bytes of events that not everyone has had the occasion to take are kept, even if
#: `history_bytes` is less.
BURST = 2**20


class Undecodable(ValueError):
    """The data of an event is not of the type that is declared for it."""


class Retention(NamedTuple):
    """How much of a history is kept.

    Attributes:
        history: How many events.
        history_ttl: For how many seconds each.
        history_bytes: How many bytes of framed events.
    """

    history: int
    history_ttl: float
    history_bytes: int


#: Nothing of a run is trimmed.
UNLIMITED = Retention(sys.maxsize, math.inf, sys.maxsize)


class Entry:
    """One event of a history.

    Args:
        position: Where it stands.
        body: The framed event without an id, with the blank line that ends it.
        time: When it was published, in seconds of its broker's clock.
        raw: Whether its data is a text of the user's, not JSON of ours.
        conflate: Of the pending events with the same, a slow subscriber gets the newest alone.

    Attributes:
        alone: The frame compressed by itself, once somebody has asked for that.
    """

    __slots__ = ("_fields", "alone", "conflate", "frame", "offset", "position", "raw", "time")

    def __init__(
        self, position: Position, body: bytes, time: float, raw: bool, conflate: str | None
    ) -> None:
        epoch, offset, tag = position
        self.position: Position = position
        self.offset: int = offset
        self.frame = b"id: %b-%d-%d\n%b" % (epoch.encode(), offset, tag, body)
        self.time = time
        self.raw = raw
        self.conflate = conflate
        self.alone: bytes | None = None
        self._fields: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        """The ID that clients are sent."""
        return str(self.position)

    @property
    def body(self) -> bytes:
        """The framed event without its id."""
        return self.frame.partition(b"\n")[2]

    @property
    def is_run_end(self) -> bool:
        """Whether this is the last event of a run."""
        return RUN_END_LINE in self.frame

    def event(self, decode: Callable[[str, str], Any], id: str | None = None) -> ServerSentEvent:
        """Returns the event as it was published, with its id, but for a comment.

        Args:
            decode: Makes the data of an event from its JSON and the event's type. Where it raises
                `Undecodable`, the event has the JSON as its `raw_data`.
            id: The id, if not its own.
        """
        return ServerSentEvent(**self._read(decode), id=id or self.id)

    def is_readable(self, decode: Callable[[str, str], Any]) -> bool:
        """Returns whether the data is what was published, not a text because it is not of the type
        that is declared now."""
        return self.raw or "raw_data" not in self._read(decode)

    def _read(self, decode: Callable[[str, str], Any]) -> dict[str, Any]:
        fields = self._fields
        if fields is None:
            fields = self._fields = _fields(self, decode)
        return fields


class EphemeralEntry(Entry):
    """An event that is in no history, and has no id."""

    __slots__ = ()

    def __init__(self, body: bytes, raw: bool, conflate: str | None) -> None:
        super().__init__(NOWHERE, body, 0.0, raw, conflate)
        self.frame = body

    @property
    def body(self) -> bytes:
        return self.frame

    def event(self, decode: Callable[[str, str], Any], id: str | None = None) -> ServerSentEvent:
        return ServerSentEvent(**self._read(decode))


def _fields(entry: Entry, decode: Callable[[str, str], Any]) -> dict[str, Any]:
    parser = EventStreamParser(len(entry.frame))
    messages = parser.feed(entry.frame)
    fields: dict[str, Any] = {"retry": parser.reconnection_time}
    for message in messages:  # one, or none if it has no data
        # A data line never begins so: this tells an event named "message" from one without a name.
        if b"\nevent: " in entry.frame or entry.frame.startswith(b"event: "):
            fields["event"] = message.type
        if entry.raw:
            fields["raw_data"] = message.data
        else:
            try:
                fields["data"] = decode(message.data, message.type)
            except Undecodable:
                fields["raw_data"] = message.data
    return fields


class Ring:
    """The newest entries of a history, without a hole between them.

    Attributes:
        floor: The position before the first entry that is kept.
        head: The position of the newest event, kept or not.
    """

    __slots__ = ("_entries", "_gone", "_limits", "_size", "floor", "head")

    def __init__(self, limits: Retention, head: Position) -> None:
        self._limits = limits
        self._entries: list[Any] = []
        self._gone = 0  # how many of the list's first are trimmed already
        self._size = 0
        self.floor: Position = head
        self.head: Position = head

    def __len__(self) -> int:
        return len(self._entries) - self._gone

    def append(self, entry: Entry) -> None:
        """Adds the newest entry. If it does not follow the head, older ones are let go of."""
        newest = self.head.offset
        if entry.offset != newest + 1 or not newest:
            self._entries.clear()
            self._gone = self._size = 0
            self.floor = Position(entry.position.epoch, entry.offset - 1, 0)
        self._entries.append(entry)
        self._size += len(entry.frame)
        self.head = entry.position

    def prepend(self, floor: Position, entries: Sequence[Entry]) -> None:
        """Adds the entries between a new floor and the present one."""
        self._entries[: self._gone] = entries
        self._gone = 0
        self._size += sum(len(entry.frame) for entry in entries)
        self.floor = floor

    def after(self, offset: int) -> list[Entry]:
        """Returns the entries that are kept with a greater offset, in order."""
        return self._entries[max(self._gone, len(self._entries) - (self.head.offset - offset)) :]

    def read(self, first: int, before: int) -> tuple[Position, list[Entry]]:
        """Returns entries as `Broker.read` does."""
        entries = self.after(first - 1)
        floor = self.floor
        if entries and entries[0].offset > floor.offset + 1:
            previous = self.at(entries[0].offset - 1)
            assert previous is not None
            floor = previous.position
        return floor, [entry for entry in entries if entry.offset < before]

    def at(self, offset: int) -> Entry | None:
        """Returns the entry with an offset, if it is kept."""
        if not self.floor.offset < offset <= self.head.offset:
            return None
        entry: Entry = self._entries[len(self._entries) - 1 - (self.head.offset - offset)]
        return entry

    def trim(self, now: float, offered: int | None = None, settled: int | None = None) -> None:
        """Lets go of what is beyond the limits.

        Args:
            now: The time by the broker's clock.
            offered: Entries with a greater offset go only for the sake of `history_bytes`, and the
                newest not even then.
            settled: Those with a greater offset go only if they have more than `BURST` bytes.
        """
        if self._limits is UNLIMITED:
            return
        entries = self._entries
        history, history_ttl, history_bytes = self._limits
        oldest = now - history_ttl
        gone = self._gone
        while gone < len(entries):
            entry: Entry = entries[gone]
            if self._size <= history_bytes:
                if len(entries) - gone <= history and entry.time >= oldest:
                    break
                if offered is not None and entry.offset > offered:
                    break
            else:
                is_newest = offered is not None and offered < entry.offset == self.head.offset
                is_new = settled is not None and settled < entry.offset
                if is_newest or (is_new and self._size <= BURST):
                    break
            entries[gone] = None
            gone += 1
            self._size -= len(entry.frame)
            self.floor = entry.position
        if gone > 32 and gone * 2 > len(entries):
            del entries[:gone]
            gone = 0
        self._gone = gone


def joined(entries: Iterable[Entry]) -> bytes:
    """Returns the frames of entries as one chunk."""
    return b"".join([entry.frame for entry in entries])
