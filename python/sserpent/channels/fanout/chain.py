"""The compressed events of one history, made once for all clients of an event loop.

A distance in compressed data counts back in what one client has got. So a client can share what
was compressed for others only from a place on that needs nothing from before, and as long as it
gets nothing else in between. Entries are compressed in segments, each of which begins with an empty
window: a client joins where a segment begins, and gets entries that are compressed by themselves
until then. Both are kept as long as the entry.
"""

from __future__ import annotations

import zlib
from typing import Any

from ..history.position import NOWHERE, Position
from ..history.ring import Entry, Ring

# The entries of a segment: after the first number a segment ends if a client waits to join.
_SHORTEST, _LONGEST = 16, 64
# How many segments of a history may be unfinished: a new one, and those of clients that replay.
_MAX_OPEN = 3
# From how many clients on the window is worth 256 KiB.
_MANY = 16
_SMALLEST, _LARGEST = 10, 15  # of windows, in bits
# Below so many bytes compression gains nothing.
_TINY = 64
_MAX_RUNS = 64
#: The end of a segment, or of a text by itself.
_SYNC = zlib.Z_SYNC_FLUSH
# Of zlib: with 3 for the smallest window and 8 for the largest, 15 and 256 KiB.
_MEMORY_LEVEL = -7


def deflater(bits: int) -> Any:
    """Returns what compresses with a window of so many bits, without a header and a checksum."""
    level = zlib.Z_DEFAULT_COMPRESSION
    return zlib.compressobj(level, zlib.DEFLATED, -bits, bits + _MEMORY_LEVEL)


def deflated(plain: bytes) -> bytes:
    """Returns a text compressed by itself: it can stand behind anything, and before anything that
    does not refer to what came before it."""
    size = len(plain)
    if size >= _TINY:
        compressing = deflater(max(_SMALLEST, min(size.bit_length(), _LARGEST)))
        compressed: bytes = compressing.compress(plain) + compressing.flush(_SYNC)
        if len(compressed) < size:
            return compressed
    # https://www.rfc-editor.org/rfc/rfc1951#section-3.2.4: as it is, in blocks of 64 KiB.
    parts = [plain[start : start + 0xFFFF] for start in range(0, size, 0xFFFF)]
    return b"".join([b"\0%b%b%b" % (_two(len(p)), _two(len(p) ^ 0xFFFF), p) for p in parts])


def alone(entry: Entry) -> bytes:
    """Returns an entry compressed by itself, once for all who need it."""
    if entry.alone is None:
        entry.alone = deflated(entry.frame)
    return entry.alone


def _two(number: int) -> bytes:
    return number.to_bytes(2, "little")


class Segment:
    """Entries that are compressed one after the other.

    Attributes:
        start: The offset before its first entry.
        end: The offset of its last entry so far.
    """

    __slots__ = ("_deflater", "end", "start")

    def __init__(self, start: int, bits: int) -> None:
        self.start = self.end = start
        self._deflater: Any = deflater(bits)

    @property
    def length(self) -> int:
        """How many bytes of the plain stream it has."""
        return self.end - self.start

    def append(self, frame: bytes) -> bytes:
        """Returns the next entry, compressed."""
        self.end += 1
        compressed: bytes = self._deflater.compress(frame) + self._deflater.flush(_SYNC)
        return compressed

    def close(self) -> None:
        """Lets go of the window: there are no more entries."""
        self._deflater = None


class Link:
    """One entry in the chain.

    Attributes:
        offset: Of the entry.
        crc: The running sum up to and with the entry; of no use before the chain's beginning.
        size: How many bytes that is of.
        segment: That which has compressed the entry; None if none has.
        compressed: What that has made.
    """

    __slots__ = ("compressed", "crc", "offset", "segment", "size")

    def __init__(self, offset: int, crc: int = 0, size: int = 0) -> None:
        self.offset = offset
        self.crc = crc
        self.size = size
        self.segment: Segment | None = None
        self.compressed = b""


class Stand:
    """The place of a client in the chain. Clients that have got the same share one.

    Attributes:
        link: The last entry that it has got; None before the chain's beginning.
        segment: That which it is in; None while it gets pieces that are compressed by themselves.
        position: After what it has got.
    """

    __slots__ = ("link", "position", "segment")

    def __init__(
        self, link: Link | None, segment: Segment | None, position: Position = NOWHERE
    ) -> None:
        self.link = link
        self.segment = segment
        self.position = position


#: The stand of a client that the chain knows nothing of.
OUTSIDE = Stand(None, None)

# Where a client stood, how many bytes it takes at once, the next entries compressed, and where it
# stands after them.
Taken = tuple["Stand | None", int, bytes, Stand]


class Chain:
    """The compressed entries of a ring.

    Args:
        ring: Has the entries.

    Attributes:
        beginning: Where its running sum begins.
        clients: How many clients share it.
        newest: What a client has taken last: nearly all others take the same.
    """

    __slots__ = ("_ending", "_links", "_newest_link", "_newest_stand", "_ring", "_runs",
                 "_trimmed", "_wanted", "beginning", "clients", "newest")  # fmt: skip

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self.clients = 0
        self._links: dict[int, Link] = {}
        # Segments that may have more entries, by their end, the oldest first.
        self._ending: dict[int, Segment] = {}
        # After which offset a client waits for a segment to begin.
        self._wanted = -1
        self._runs: dict[Any, tuple[bytes, Segment | None]] = {}
        self._trimmed = ring.floor.offset
        self._begin(ring.head.offset)

    def _begin(self, offset: int) -> None:
        self.beginning = self._newest_link = self._links[offset] = Link(offset)
        self._newest_stand = OUTSIDE
        self.newest: Taken = None, 0, b"", OUTSIDE

    # The running sum

    def link(self, offset: int) -> Link:
        """Returns the link of an entry, or of the place before the first one.

        Args:
            offset: Of an entry that is kept, not before the chain's beginning.
        """
        if offset > self._newest_link.offset:
            self._extend(offset)
        return self._links[offset]

    def _extend(self, offset: int) -> None:
        self._trim()
        if self._newest_link.offset < self._ring.floor.offset:
            # No client stands there any more.
            self._begin(self._ring.floor.offset)
        newest = self._newest_link
        crc, size = newest.crc, newest.size
        for entry in self._ring.after(newest.offset):
            if entry.offset > offset:
                break
            crc = zlib.crc32(entry.frame, crc)
            size += len(entry.frame)
            newest = self._links[entry.offset] = Link(entry.offset, crc, size)
        self._newest_link = newest

    def _trim(self) -> None:
        """Forgets what the ring has forgotten."""
        self._runs.clear()
        floor = self._ring.floor.offset  # where a client may stand
        if floor - self._trimmed > len(self._links):
            self._links = {each: link for each, link in self._links.items() if each >= floor}
        else:
            for offset in range(self._trimmed, floor):
                self._links.pop(offset, None)
        self._trimmed = floor
        if floor > self.beginning.offset:
            # A broker may keep what the ring has forgotten, and the ring get it back.
            self.beginning = self._links.get(floor, self.beginning)
        for end in [each for each in self._ending if each < floor]:
            self._ending.pop(end).close()

    # Compressing

    def run(self, entries: list[Entry], segment: Segment | None) -> tuple[bytes, Segment | None]:
        """Returns entries that follow each other, compressed for a client, and the segment that the
        client is in after them.

        Args:
            entries: What the client takes.
            segment: That which it is in, if it is in one.
        """
        key = entries[0].offset, entries[-1].offset, segment
        run = self._runs.get(key)
        if run is None:
            if len(self._runs) >= _MAX_RUNS:
                self._runs.clear()
            pieces: list[bytes] = []
            for entry in entries:
                piece, segment = self._piece(entry, segment)
                pieces.append(piece)
            run = self._runs[key] = b"".join(pieces), segment
        return run

    def stand(self, link: Link | None, segment: Segment | None, position: Position) -> Stand:
        """Returns where a client stands, which is where another one does in most cases."""
        newest = self._newest_stand
        if newest.link is link and newest.segment is segment and newest.position is position:
            return newest
        self._newest_stand = stand = Stand(link, segment, position)
        return stand

    def want(self, offset: int) -> None:
        """Says that a client waits after an entry for a segment to begin."""
        self._wanted = offset

    def _piece(self, entry: Entry, segment: Segment | None) -> tuple[bytes, Segment | None]:
        link = self._link_to_compress(entry.offset)
        before = entry.offset - 1
        if link.segment is None:
            into = self._segment_after(before, segment)
            if into is not None:
                self._ending.pop(before, None)
                link.compressed = into.append(entry.frame)
                link.segment = into
                self._ending[into.end] = into
        found = link.segment
        if found is not None and (found is segment or found.start == before):
            return link.compressed, found
        return alone(entry), None

    def _link_to_compress(self, offset: int) -> Link:
        if offset > self.beginning.offset:
            return self.link(offset)
        link = self._links.get(offset)
        if link is None:
            link = self._links[offset] = Link(offset)
            self._trimmed = min(self._trimmed, offset)
        return link

    def _segment_after(self, offset: int, segment: Segment | None) -> Segment | None:
        """Returns the segment for an entry that is in none, or None where others are to go on with
        theirs."""
        ending = self._ending.get(offset)
        if ending is not None:
            length = ending.length
            if ending is segment:
                # A client has come since this segment began, and waits for the next one.
                wanted = self._wanted > ending.start and length >= _SHORTEST
                if length < _LONGEST and not wanted:
                    return segment
            elif length < _SHORTEST:
                return None
            ending.close()
            del self._ending[offset]
        elif len(self._ending) >= _MAX_OPEN:
            oldest = next(iter(self._ending))
            self._ending.pop(oldest).close()
        return Segment(offset, _LARGEST if self.clients >= _MANY else _SMALLEST)
