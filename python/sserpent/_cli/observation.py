"""Records a stream as it is seen from outside: the bytes that came, and when."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from ..client import EventStreamParser

#: Chunks that are further apart did not come together, in seconds.
APART = 0.05


class Chunk(NamedTuple):
    """Bytes that came together.

    Attributes:
        at: When, in seconds since the request.
        size: How many.
        events: How many events they complete.
        in_event: Whether they end in the middle of an event.
    """

    at: float
    size: int
    events: int
    in_event: bool


class Observation:
    """A response, and its body as it came.

    Attributes:
        status: The status of the response.
        headers: Its headers, the names in lower case.
        http_version: As in "HTTP/1.1".
        headers_at: When the headers came, in seconds since the request.
        asked_for: The `Accept-Encoding` of the request.
        chunks: The body.
        comments: When comments came.
        blank_comments: How many comments had a blank line behind them that ends no event.
        ended_at: When the body ended; None if it goes on.
        cut: How it was cut; None if it was not.
        unreadable: Why it cannot be read on; None if it can.
        body: The first bytes.
    """

    def __init__(
        self,
        status: int,
        headers: dict[str, str],
        http_version: str,
        headers_at: float,
        asked_for: str = "identity",
    ) -> None:
        self.status = status
        self.headers = headers
        self.http_version = http_version
        self.headers_at = headers_at
        self.asked_for = asked_for
        self.chunks: list[Chunk] = []
        self.comments: list[float] = []
        self.blank_comments = 0
        self.ended_at: float | None = None
        self.cut: str | None = None
        self.unreadable: str | None = None
        self.body = b""
        self._parser = EventStreamParser()
        self._line = b""
        self._in_event = False
        self._after_comment = False

    @property
    def encoding(self) -> str:
        """How the response is compressed; "identity" if it is not."""
        return self.headers.get("content-encoding", "").strip().lower() or "identity"

    def take(self, at: float, body: bytes) -> None:
        """Takes the next bytes of the body."""
        if len(self.body) < 200:
            self.body += body[:200]
        *lines, self._line = (self._line + body).replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            self._take_line(at, line)
        events = len(self._parser.feed(body))
        in_event = self._in_event or bool(self._line)
        self.chunks.append(Chunk(at, len(body), events, in_event))

    def _take_line(self, at: float, line: bytes) -> None:
        if line.startswith(b":"):
            self.comments.append(at)
        elif not line and self._after_comment and not self._in_event:
            self.blank_comments += 1
        self._after_comment = line.startswith(b":")
        self._in_event = bool(line) and (self._in_event or not self._after_comment)

    @property
    def events(self) -> int:
        """How many events came."""
        return sum(chunk.events for chunk in self.chunks)

    @property
    def came_at_once(self) -> bool:
        """Whether all of a stream of several events came together with its headers: nothing tells
        then whether it was held back."""
        return self.events > 1 and self.ended_at is not None and len(self.lumps(APART)) == 1

    def lumps(self, silence: float) -> list[Lump]:
        """Returns the chunks that came together, with more than `silence` seconds between them."""
        lumps: list[Lump] = []
        last = self.headers_at
        for chunk in self.chunks:
            if not lumps or chunk.at - last > silence:
                lumps.append(Lump(chunk.at, chunk.at - last, 0, 0, False))
            lumps[-1] = lumps[-1].with_chunk(chunk)
            last = chunk.at
        return lumps

    def longest_silence(self, until: float) -> float:
        """Returns for how many seconds nothing came, at the longest."""
        times = [self.headers_at, *(chunk.at for chunk in self.chunks), self.ended_at or until]
        return max(later - earlier for earlier, later in pairwise(times))


class Lump(NamedTuple):
    """Chunks that came together.

    Attributes:
        at: When it began.
        silence: For how many seconds nothing came before it.
        size: How many bytes.
        events: How many events.
        in_event: Whether it ends in the middle of an event.
    """

    at: float
    silence: float
    size: int
    events: int
    in_event: bool

    def with_chunk(self, chunk: Chunk) -> Lump:
        """Returns the lump with one more chunk at its end."""
        return self._replace(
            size=self.size + chunk.size,
            events=self.events + chunk.events,
            in_event=chunk.in_event,
        )
