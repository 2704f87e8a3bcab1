"""gzip for one client of a channel, from what is compressed once for all."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from ..._delivery.compression import EMPTY_BLOCK
from ..history.ring import Entry
from .chain import OUTSIDE, Chain, Link, alone, deflated
from .checksum import crc32_of_run
from .cursor import Cursor
from .subscriber import Subscriber
from .taken import Taken

if TYPE_CHECKING:
    from ..._delivery.source import Pending

# https://www.rfc-editor.org/rfc/rfc1952#section-2.3: deflate, no flags, no time, no system.
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
# A last block, of nothing.
_LAST_BLOCK = b"\x03\x00"


class SharedCompression:
    """Compresses for one subscriber: a `Compression`.

    Args:
        plain: What is compressed: the subscriber, or what counts it.
        subscriber: Says what was taken.

    Attributes:
        wire_bytes: How many bytes it has made.
    """

    __slots__ = ("_begun", "_chain", "_crc", "_cursor", "_is_plain", "_max_pending", "_noted",
                 "_offset", "_plain", "_since", "_size", "_stand", "_subscriber",
                 "wire_bytes")  # fmt: skip

    def __init__(self, plain: Pending, subscriber: Subscriber) -> None:
        assert subscriber.cursor is not None
        self._plain = plain
        # Where nobody counts what is taken.
        self._subscriber = subscriber if plain is subscriber else None
        self._max_pending = subscriber.max_pending
        self._cursor: Cursor = subscriber.cursor
        self._is_plain = self._begun = False
        # The bytes that were taken, where those are not the next entries alone.
        self._noted: list[bytes | Taken] | None = None
        # The sum and the number of bytes up to `_since`, and where the client stands after that: it
        # has got the entries between the two. None before the chain's beginning.
        self._crc = self._size = 0
        self._since: Link | None = None
        self._stand = OUTSIDE
        self._offset = self._cursor.position.offset
        self._chain: Chain = _chain_of(self._cursor)
        self._chain.clients += 1
        self.wire_bytes = 0
        subscriber.compression = self

    @property
    def pending(self) -> int:
        return self._plain.pending

    @property
    def at_line_start(self) -> bool:
        return self._plain.at_line_start

    def leave_plain(self) -> None:
        self._is_plain = True

    def note(self, taken: list[bytes | Taken]) -> None:
        self._noted = taken

    def close(self) -> None:
        chain, tail = self._chain, self._cursor.tail
        chain.clients -= 1
        if not chain.clients and tail.chain is chain:
            tail.chain = None

    # Sending

    def take(self) -> bytes:
        before, size, compressed, after = self._chain.newest
        subscriber = self._subscriber
        if (
            before is self._stand
            and subscriber is not None
            and subscriber.plain is not None
            and size == self._max_pending
            and after.position is self._cursor.tail.ring.head
        ):
            # As `Subscriber.take`, without a call for each client.
            self._cursor.position = after.position
        else:
            plain = self._plain.take()
            if not plain or self._is_plain:
                return plain
            is_other = before is not self._stand or after.position is not self._cursor.position
            if is_other or self._noted is not None:
                return self._sent(self._compressed(plain))
        self._stand = after
        self.wire_bytes += len(compressed)
        return compressed

    def keep_alive(self) -> bytes:
        return self._sent(EMPTY_BLOCK)

    def say(self, plain: bytes) -> bytes:
        compressed = self._own(plain)
        self._step_in()
        return self._sent(compressed)

    def end(self, last: bytes) -> bytes:
        compressed = self._compressed(last) if last else b""
        self._step_out()
        trailer = self._crc.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little")
        return self._sent(compressed + _LAST_BLOCK + trailer)

    def _sent(self, compressed: bytes) -> bytes:
        if not self._begun:
            self._begun = True
            compressed = _HEADER + compressed
        self.wire_bytes += len(compressed)
        return compressed

    # Compressing

    def _compressed(self, plain: bytes) -> bytes:
        """Compresses what was just taken."""
        noted, self._noted = self._noted, None
        if noted is None:
            before = self._stand
            compressed = self._run(self._next_entries())
            if before.link is not None:
                self._chain.newest = before, self._max_pending, compressed, self._stand
        else:
            compressed = self._compressed_parts(noted, plain)
        self._offset = self._cursor.position.offset
        if self._stand.link is None:
            self._step_in()
        if self._stand.segment is None:
            self._chain.want(self._offset)
        return compressed

    @property
    def _stands_at(self) -> int:
        link = self._stand.link
        return self._offset if link is None else link.offset

    def _next_entries(self) -> list[Entry]:
        after = self._stands_at
        return self._cursor.tail.ring.after(after)[: self._cursor.position.offset - after]

    def _compressed_parts(self, parts: list[bytes | Taken], plain: bytes) -> bytes:
        """Compresses blocks of the client's own, snapshots and entries.

        Args:
            parts: What was taken.
            plain: All of it.
        """
        taken = [part.entry for part in parts if isinstance(part, Taken) and not part.is_snapshot]
        if taken and taken[-1].offset - taken[0].offset >= len(taken):
            return self._own(plain)  # some are left out, for this client alone
        pieces: list[bytes] = []
        run: list[Entry] = []
        for part in parts:
            if isinstance(part, Taken) and not part.is_snapshot:
                run.append(part.entry)
                continue
            pieces += self._run_of(run)
            run = []
            pieces.append(self._state(part.entry) if isinstance(part, Taken) else self._own(part))
        pieces += self._run_of(run)
        return b"".join(pieces)

    def _run_of(self, entries: list[Entry]) -> list[bytes]:
        if not entries:
            return []
        if entries[0].offset != self._stands_at + 1:
            self._step_out()
        return [self._run(entries)]

    def _run(self, entries: list[Entry]) -> bytes:
        """Compresses entries that follow the last one."""
        chain, last = self._chain, entries[-1].offset
        if self._stand.link is not None and self._stand.link.offset < chain.beginning.offset:
            self._step_out()
        compressed, segment = chain.run(entries, self._stand.segment)
        link = self._stand.link or self._begin_run(entries)
        if link is not None:
            link = chain.link(last)
        self._stand = chain.stand(link, segment, entries[-1].position)
        return compressed

    def _begin_run(self, entries: list[Entry]) -> Link | None:
        beginning = self._chain.beginning
        for entry in entries:
            if entry.offset > beginning.offset:
                break
            self._add(entry.frame)
        if entries[-1].offset >= beginning.offset:
            start = max(entries[0].offset - 1, beginning.offset)
            self._since = self._chain.link(start)
        return self._since

    def _own(self, plain: bytes) -> bytes:
        """Compresses what no other client gets at this place."""
        self._step_out()
        self._add(plain)
        return deflated(plain)

    def _state(self, snapshot: Entry) -> bytes:
        """Compresses a snapshot, once for all who get it."""
        self._step_out()
        self._add(snapshot.frame)
        return alone(snapshot)

    def _step_out(self) -> None:
        """Leaves the segment: its entries refer to what this client is not going to have there."""
        since, link = self._since, self._stand.link
        if since is not None and link is not None:
            size = link.size - since.size
            self._crc = crc32_of_run(self._crc, since.crc, link.crc, size)
            self._size += size
            self._offset = link.offset
        self._since = None
        self._stand = OUTSIDE
        chain = _chain_of(self._cursor)
        if chain is not self._chain:  # the history has begun anew
            self.close()
            self._chain = chain
            chain.clients += 1

    def _step_in(self) -> None:
        """Stands where all do who have come as far and are in no segment: what one of them is
        going to take, the others take as it is."""
        ring, position = self._cursor.tail.ring, self._cursor.position
        first = max(self._chain.beginning.offset, ring.floor.offset)
        if position.offset == self._offset and first <= self._offset <= ring.head.offset:
            self._since = link = self._chain.link(self._offset)
            self._stand = self._chain.stand(link, None, position)

    def _add(self, plain: bytes) -> None:
        self._crc = zlib.crc32(plain, self._crc)
        self._size += len(plain)


def _chain_of(cursor: Cursor) -> Chain:
    tail = cursor.tail
    if tail.chain is None:
        tail.chain = Chain(tail.ring)
    return tail.chain
