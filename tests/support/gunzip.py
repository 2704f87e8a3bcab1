"""What a client makes of a compressed body, piece by piece, and in which state it ends."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

GZIP = [(b"accept-encoding", b"gzip")]


class Gunzip:
    """A decoder as clients have it: it shows at once what can be read of each piece.

    Attributes:
        pieces: What could be read of each.
        whole: Whether the end of gzip has come, with the checksum and the length that are right.
    """

    def __init__(self) -> None:
        self._decoder: Any = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self.pieces: list[bytes] = []

    def feed(self, piece: bytes) -> bytes:
        plain: bytes = self._decoder.decompress(piece)  # raises if the checksum is wrong
        self.pieces.append(plain)
        return plain

    @property
    def whole(self) -> bool:
        assert not self._decoder.unused_data
        return bool(self._decoder.eof)

    @property
    def plain(self) -> bytes:
        return b"".join(self.pieces)


def gunzipped(pieces: Iterable[bytes]) -> Gunzip:
    decoder = Gunzip()
    for piece in pieces:
        decoder.feed(piece)
    return decoder
