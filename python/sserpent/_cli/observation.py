"""Records a stream as it is seen from outside: the bytes that came, and when."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from ..client import EventStreamParser

_BOM = b"\xef\xbb\xbf"
# Of a line no more is kept than says which field it is.
_NAME = 12
# "retry" counts at once, also without an event.
_OF_EVENTS = b"data", b"event", b"id"
_FIELDS = *_OF_EVENTS, b"retry", b""

#: Chunks that are further apart did not come together, in seconds.
APART = 0.05


class Chunk(NamedTuple):
    """Bytes that came together.

    Attributes:
        at: When, in seconds since the request.
        size: How many.
        events: How many events they complete.
        in_event: Whether they end in the middle of an event.
        in_line: Whether they end in the middle of a line of it.
    """

    at: float
    size: int
    events: int
    in_event: bool
    in_line: bool


class Unfinished(NamedTuple):
    """The event whose end has not come.

    Attributes:
        since: When it began, in seconds since the request.
        size: How many bytes of it came.
        lines: How many whole lines.
        in_line: Whether its last line has not ended.
    """

    since: float
    size: int
    lines: int
    in_line: bool


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
        undecoded: Whether it is compressed in a way that the HTTP client cannot undo.
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
        self.undecoded = False
        self.unreadable: str | None = None
        self.body = b""
        self._strange_lines = 0
        self._is_first_line = True
        self._parser = EventStreamParser()
        # The beginning of the line whose end has not come.
        self._line = b""
        self._after_cr = False
        self._after_comment = False
        # Of the event whose end has not come.
        self._since = 0.0
        self._size = 0
        self._lines = 0

    @property
    def encoding(self) -> str:
        """How the response is compressed; "identity" if it is not."""
        return self.headers.get("content-encoding", "").strip().lower() or "identity"

    @property
    def has_known_end(self) -> bool:
        """Whether the end of the body is told from a cut: it is chunked, of known length, or a
        stream of HTTP/2."""
        is_chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
        later = not self.http_version.startswith("HTTP/1")
        return later or is_chunked or "content-length" in self.headers

    @property
    def strange_lines(self) -> int:
        """How many lines are neither a comment nor a field that clients know."""
        # A line that has just begun may become one.
        is_told = len(self._line) == _NAME or b":" in self._line
        return self._strange_lines + (is_told and _name(self._line) not in _FIELDS)

    @property
    def unfinished(self) -> Unfinished | None:
        """The event whose end has not come; None if there is none."""
        in_line = self._in_line
        if not in_line and not self._lines:
            return None
        return Unfinished(self._since, self._size, self._lines, in_line)

    def take(self, at: float, body: bytes) -> None:
        """Takes the next bytes of the body."""
        if len(self.body) < 200:
            self.body += body[:200]
        self._take_lines(at, body)
        events = len(self._parser.feed(body))
        in_line = self._in_line
        in_event = in_line or self._lines > 0
        self.chunks.append(Chunk(at, len(body), events, in_event, in_line))

    def _take_lines(self, at: float, body: bytes) -> None:
        text = body.removeprefix(b"\n") if self._after_cr else body
        self._after_cr = body.endswith(b"\r") if body else self._after_cr
        *lines, rest = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._count(at, len(line) + 1)
            self._take_line(at, self._line + line[:_NAME])
            self._line = b""
        self._count(at, len(rest))
        self._line = (self._line + rest[:_NAME])[:_NAME]

    def _count(self, at: float, size: int) -> None:
        if not self._size:
            self._since = at
        self._size += size

    def _take_line(self, at: float, line: bytes) -> None:
        """Takes the beginning of a line that has ended."""
        if self._is_first_line:
            line = line.removeprefix(_BOM)
            self._is_first_line = False
        is_comment = line.startswith(b":")
        if not line:
            self.blank_comments += self._after_comment and not self._lines
            self._lines = 0
        elif is_comment:
            self.comments.append(at)
        elif _name(line) in _OF_EVENTS:
            self._lines += 1
        elif _name(line) not in _FIELDS:
            self._strange_lines += 1
        if not self._lines:
            self._size = 0
        self._after_comment = is_comment

    @property
    def _in_line(self) -> bool:
        return bool(_name(self._line))

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
                lumps.append(Lump(chunk.at, chunk.at - last, 0, 0, False, False))
            lumps[-1] = lumps[-1].with_chunk(chunk)
            last = chunk.at
        return lumps

    def longest_silence(self, until: float) -> float:
        """Returns for how many seconds nothing came, at the longest."""
        times = [self.headers_at, *(chunk.at for chunk in self.chunks), self.ended_at or until]
        return max(later - earlier for earlier, later in pairwise(times))


def _name(line: bytes) -> bytes:
    """Returns the name of the field of a line, empty for a comment."""
    return line.removeprefix(_BOM).partition(b":")[0]


class Lump(NamedTuple):
    """Chunks that came together.

    Attributes:
        at: When it began.
        silence: For how many seconds nothing came before it.
        size: How many bytes.
        events: How many events.
        in_event: Whether it ends in the middle of an event.
        in_line: Whether it ends in the middle of a line of it.
    """

    at: float
    silence: float
    size: int
    events: int
    in_event: bool
    in_line: bool

    def with_chunk(self, chunk: Chunk) -> Lump:
        """Returns the lump with one more chunk at its end."""
        return self._replace(
            size=self.size + chunk.size,
            events=self.events + chunk.events,
            in_event=chunk.in_event,
            in_line=chunk.in_line,
        )
