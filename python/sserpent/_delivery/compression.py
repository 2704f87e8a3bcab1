"""gzip for one stream: each piece that is taken is flushed, and readable when it has arrived.

The window stays open from one piece to the next, so that a second event like the first one costs a
fifth of it. gzip alone (https://www.rfc-editor.org/rfc/rfc1952): httpx, aiohttp and Node fail where
zstd or brotli could do as much.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .source import Pending

#: https://www.rfc-editor.org/rfc/rfc1951#section-3.2.4: a stored block of no bytes. It is traffic
#: for whatever watches the connection, and nothing for the decoder.
EMPTY_BLOCK = b"\x00\x00\x00\xff\xff"

# 15 KiB for each stream, where the usual window takes 256 KiB.
_WINDOW_BITS = 10
# The level of zlib, and that of its memory. Where events are small, as chunks of an LLM are, the
# quick search finds as much of an event in the one before as the thorough one, in two thirds of
# the time.
_THOROUGH = zlib.Z_DEFAULT_COMPRESSION, 3
_QUICK = 3, 2
# Up to how many bytes a first piece is small.
_SMALL = 512
# Tells zlib to write gzip's header and trailer.
_GZIP = 16


class Compression(Protocol):
    """Stands before what is pending, and compresses what is taken.

    Attributes:
        wire_bytes: How many bytes it has made.
    """

    wire_bytes: int

    @property
    def pending(self) -> int:
        """As of what is compressed."""
        ...

    @property
    def at_line_start(self) -> bool:
        """As of what is compressed."""
        ...

    def take(self) -> bytes:
        """Takes what is pending and returns it compressed; nothing if nothing is pending."""
        ...

    def keep_alive(self) -> bytes:
        """Returns bytes in which a decoder finds nothing."""
        ...

    def say(self, plain: bytes) -> bytes:
        """Compresses what is sent besides the events."""
        ...

    def end(self, last: bytes) -> bytes:
        """Compresses the last bytes of a body, and returns them with the checksum and the length of
        all of it."""
        ...

    def leave_plain(self) -> None:
        """Compresses nothing: what is taken is passed on. Called before anything is taken."""
        ...


class Window:
    """Compresses one stream with a window of its own.

    Args:
        plain: What is compressed.
    """

    __slots__ = ("_deflate", "_is_plain", "_plain", "wire_bytes")

    def __init__(self, plain: Pending) -> None:
        self._plain = plain
        self._is_plain = False
        self._deflate: Any = None  # made for the first bytes: a stream may wait long for them
        self.wire_bytes = 0

    @property
    def pending(self) -> int:
        return self._plain.pending

    @property
    def at_line_start(self) -> bool:
        return self._plain.at_line_start

    def leave_plain(self) -> None:
        self._is_plain = True

    def take(self) -> bytes:
        plain = self._plain.take()
        if not plain or self._is_plain:
            return plain
        return self.say(plain)

    def say(self, plain: bytes) -> bytes:
        deflate = self._deflate or self._open(len(plain))
        said: bytes = deflate.compress(plain) + deflate.flush(zlib.Z_SYNC_FLUSH)
        self.wire_bytes += len(said)
        return said

    def keep_alive(self) -> bytes:
        # The first bytes are gzip's header, whatever follows them.
        block = EMPTY_BLOCK if self._deflate is not None else self._open(0).flush(zlib.Z_SYNC_FLUSH)
        self.wire_bytes += len(block)
        return block

    def end(self, last: bytes) -> bytes:
        deflate = self._deflate or self._open(len(last))
        ended: bytes = deflate.compress(last) + deflate.flush()
        self.wire_bytes += len(ended)
        return ended

    def _open(self, size: int) -> Any:
        """Makes the window for a first piece of so many bytes."""
        level, memory_level = _QUICK if size <= _SMALL else _THOROUGH
        self._deflate = zlib.compressobj(level, zlib.DEFLATED, _GZIP + _WINDOW_BITS, memory_level)
        return self._deflate
