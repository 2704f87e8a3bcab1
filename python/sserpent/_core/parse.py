"""The wire format, read: the bytes of a stream in, cut anywhere, its events out.

Wire rules: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
Every byte is looked at a fixed number of times, whatever the chunks, and an event takes no more
memory than its reader allows.
"""

from __future__ import annotations

import builtins
from typing import Any, TypeVar, final, overload

from .text import checked_text

T = TypeVar("T")

MAX_RECONNECTION_TIME = 2**31 - 1
"""The longest reconnection time, in milliseconds: what fits the timers of clients."""

# "One leading U+FEFF BYTE ORDER MARK character must be ignored if any are present."
_BOM = b"\xef\xbb\xbf"

# CPython finds a number among bytes in a tenth of the time that it takes for bytes of one.
_LF, _CR, _NUL = b"\n\r\0"

# Larger data are not copied for their event, which gets the buffer that they were collected in.
_MAX_COPIED = 65_536


class EventTooLarge(ValueError):
    """An event of the stream is larger than `max_event_size`."""

    __module__ = "sserpent.client"


@final
class MessageEvent:
    """One event as a client receives it; immutable, comparable, hashable, picklable.

    Args:
        data: The data, as text or as UTF-8 bytes.
        type: The event type; `message` if left out.
        last_event_id: The ID to resume from; empty if left out.

    Raises:
        ValueError: a value is not text; the message names it.
    """

    __slots__ = ("_data", "_data_bytes", "_last_event_id", "_type")
    __module__ = "sserpent.client"

    # A bytearray, which nobody else has, until somebody asks for the bytes of large data.
    _data_bytes: bytes | bytearray
    _type: str
    _last_event_id: str
    _data: str | None

    def __init_subclass__(cls) -> None:
        refuse_subclass(MessageEvent)

    def __new__(
        cls,
        data: str | bytes = "",
        *,
        type: str | None = None,
        last_event_id: str | None = None,
    ) -> MessageEvent:
        if not isinstance(data, bytes):
            data = (checked_text("data", data) or "").encode()
        event_type = checked_text("type", type)
        return _event(
            bytes(data),
            "message" if event_type is None else event_type,
            checked_text("last_event_id", last_event_id) or "",
        )

    @property
    def type(self) -> str:
        """The event type, `message` unless the stream names another."""
        return self._type

    @property
    def data(self) -> str:
        """The lines of the `data` field, joined with LF. Bytes that are not UTF-8 become U+FFFD."""
        data = self._data
        if data is None:
            data = self._data = self._data_bytes.decode("utf-8", "replace")
        return data

    @property
    def data_bytes(self) -> bytes:
        """The bytes of the data, with nothing replaced."""
        data_bytes = self._data_bytes
        if not isinstance(data_bytes, bytes):
            data_bytes = self._data_bytes = bytes(data_bytes)
        return data_bytes

    @property
    def last_event_id(self) -> str:
        """The ID to resume from: of this event, or of the last event before it that had one."""
        return self._last_event_id

    def json(self) -> Any:
        """Returns the data parsed as JSON, like `json.loads(event.data)`.

        Raises:
            ValueError: the data is not JSON, or nested too deeply.
        """
        from .decoding import event_json

        return event_json(self)

    @overload
    def decode(self, item: builtins.type[T], /) -> T: ...
    @overload
    def decode(self, item: Any, /) -> Any: ...
    def decode(self, item: Any, /) -> Any:
        """Returns the data, parsed as JSON and validated by pydantic.

        Args:
            item: A model or any other type that pydantic validates.

        Raises:
            pydantic.ValidationError: the data is not JSON, or does not fit the type; the error's
                attribute `event` is this event.
        """
        from .decoding import decode_event

        return decode_event(self, item)

    def __repr__(self) -> str:
        return (
            f"MessageEvent({self.data!r}, type={self._type!r},"
            f" last_event_id={self._last_event_id!r})"
        )

    def _key(self) -> tuple[bytes, str, str]:
        return self.data_bytes, self._type, self._last_event_id

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MessageEvent):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __getnewargs_ex__(self) -> tuple[tuple[bytes], dict[str, str]]:
        return (self.data_bytes,), {"type": self._type, "last_event_id": self._last_event_id}

    def __getstate__(self) -> None:
        # The arguments of __new__ are all there is.
        return None

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Protocols below 2 know nothing of `__getnewargs_ex__`.
        return object.__reduce_ex__(self, max(protocol, 2))


def refuse_subclass(base: type) -> None:
    """Raises what Python raises for a class that is not made to be a base class."""
    name = f"{base.__module__}.{base.__qualname__}"
    raise TypeError(f"type '{name}' is not an acceptable base type")


_new = object.__new__


def _event(data_bytes: bytes | bytearray, type: str, last_event_id: str) -> MessageEvent:
    event = _new(MessageEvent)
    event._data = None
    event._data_bytes = data_bytes
    event._type = type
    event._last_event_id = last_event_id
    return event


@final
class EventStreamParser:
    """Reads the events of one stream from its bytes, however they are cut into chunks.

    Not for several threads at a time.

    Args:
        max_event_size: How many bytes an event may take: those of the line being read and of the
            data before it, with a line break for each of its lines. At least 1.
        last_event_id: The ID that the stream goes on after, if it is resumed; one line, no NUL.

    Raises:
        ValueError: an argument breaks one of these rules; the message names it.
    """

    __slots__ = (
        "_after_cr",
        "_bom",
        "_data",
        "_failed",
        "_id",
        "_in_data",
        "_last_event_id",
        "_line",
        "_max_event_size",
        "_reconnection_time",
        "_type",
    )
    __module__ = "sserpent.client"

    def __init_subclass__(cls) -> None:
        refuse_subclass(EventStreamParser)

    def __init__(self, max_event_size: int = 16_777_216, last_event_id: str | None = None) -> None:
        self._max_event_size = _size(max_event_size)
        self._last_event_id = _id(last_event_id)
        self._reconnection_time: int | None = None
        # How many bytes of a BOM have been read, and nothing else; None behind the beginning.
        self._bom: int | None = 0
        # The last byte was a CR, which has ended its line: an LF that follows belongs to it.
        self._after_cr = False
        # The bytes of the line whose end has not come yet.
        self._line = bytearray()
        # The values of the `data` lines, each with an LF behind it.
        self._data = bytearray()
        # How many bytes stood before the value of the `data` line whose end has not come yet. What
        # has come of the value is in `_data` already; 0 if there is no such line.
        self._in_data = 0
        self._type = ""
        # "The last event ID buffer", which becomes the last event ID at the blank line.
        self._id = self._last_event_id
        self._failed = False

    def feed(self, chunk: bytes | bytearray | memoryview, /) -> list[MessageEvent]:
        """Reads the next bytes of the stream, and keeps no reference to them.

        Returns:
            The events that are complete now. What is still incomplete when the stream ends is no
            event.

        Raises:
            EventTooLarge: the next event is larger than `max_event_size`. If there are events
                before it in the chunk, they are returned first, and the next call raises, also one
                without bytes. Then every call raises.
        """
        if self._failed:
            raise self._too_large()
        if type(chunk) is not bytes:
            chunk = _bytes(chunk)
        if self._bom is not None:
            chunk = self._skip_bom(chunk)
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if _CR in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        events: list[MessageEvent] = []
        if _LF not in chunk:
            return events if self._keep(chunk) else self._fail(events)
        # Each block ends with a blank line. The first may have begun in a chunk before.
        *blocks, rest = chunk.split(b"\n\n")
        max_event_size, last_event_id = self._max_event_size, self._last_event_id
        is_between = self._is_between_events()
        for block in blocks:
            # Most events are data and nothing else, whole in their chunk. What counts of their size
            # is never more than the block.
            if is_between and block.startswith(b"data: ") and len(block) <= max_event_size:
                value = block[6:]
                is_data = True
                if _LF in value:
                    lines = value.count(b"\n")
                    value = value.replace(b"\ndata: ", b"\n")
                    is_data = len(block) - len(value) == 6 * (lines + 1)
                if is_data:
                    # As `_event` does, without the call.
                    event = _new(MessageEvent)
                    event._data = None
                    event._data_bytes = value
                    event._type = "message"
                    event._last_event_id = last_event_id
                    events.append(event)
                    continue
            if not self._read_lines(block + b"\n\n", events):
                return self._fail(events)
            last_event_id = self._last_event_id
            is_between = self._is_between_events()
        if rest and not self._read_lines(rest, events):
            return self._fail(events)
        return events

    @property
    def last_event_id(self) -> str:
        """The ID to resume from: that of the last complete event with an ID, also of one without
        data."""
        return self._last_event_id

    @property
    def reconnection_time(self) -> int | None:
        """The time to wait before reconnecting, in milliseconds, if the stream has sent one; at
        most 2**31 - 1."""
        return self._reconnection_time

    def _skip_bom(self, chunk: bytes) -> bytes:
        """Returns the chunk without what belongs to a BOM at the beginning of the stream."""
        assert self._bom is not None
        read, missing = self._bom, _BOM[self._bom :]
        if chunk.startswith(missing):
            self._bom = None
            return chunk[len(missing) :]
        if missing.startswith(chunk):
            self._bom += len(chunk)
            return b""
        self._bom = None
        self._line += _BOM[:read]
        return chunk

    def _is_between_events(self) -> bool:
        """Returns whether nothing of an event has been read yet."""
        read = self._line or self._data or self._in_data or self._type
        return not read and self._id is self._last_event_id

    def _read_lines(self, lines: bytes, events: list[MessageEvent]) -> bool:
        """Reads line by line; whether each is small enough."""
        *ended, rest = lines.split(b"\n")
        for line in ended:
            if not self._has_room(line):
                return False
            if self._in_data:
                self._in_data = 0
                self._data += line
                self._data += b"\n"
                continue
            if self._line:
                self._line += line
                line = bytes(self._line)
                self._line.clear()
            if line:
                self._read_line(line)
            else:
                self._end_event(events)
        return self._keep(rest)

    def _keep(self, rest: bytes) -> bool:
        """Keeps what may go on in the next chunk; whether it is small enough."""
        if not self._has_room(rest):
            return False
        if self._in_data:
            self._data += rest
            return True
        self._line += rest
        # A long value is kept once, where it will be taken from.
        if len(self._line) > 5 and self._line.startswith(b"data:"):
            self._in_data = 6 if self._line.startswith(b" ", 5) else 5
            self._data += self._line[self._in_data :]
            self._line.clear()
        return True

    def _has_room(self, more: bytes) -> bool:
        """Returns whether the line being read may have `more` at its end; asked before anything is
        kept. What a line may be thus does not depend on the chunks that it comes in."""
        kept = len(self._data) + self._in_data + len(self._line)
        return kept + len(more) <= self._max_event_size

    def _read_line(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data += value
            self._data += b"\n"
        elif name == b"event":
            self._type = value.decode("utf-8", "replace")
        # "If the field value does not contain U+0000 NULL".
        elif name == b"id" and _NUL not in value:
            self._id = value.decode("utf-8", "replace")
        # "If the field value consists of only ASCII digits", which is what bytes.isdigit() asks.
        elif name == b"retry" and value.isdigit():
            self._reconnection_time = _milliseconds(value)
        # Anything else is ignored: comments, whose name is empty, among them.

    def _end_event(self, events: list[MessageEvent]) -> None:
        """Ends an event at a blank line: its ID counts from now on, and without data it is none."""
        self._last_event_id = self._id
        if self._data:
            del self._data[-1]
            events.append(_event(self._take_data(), self._type or "message", self._id))
        self._type = ""

    def _take_data(self) -> bytes | bytearray:
        data = self._data
        if len(data) > _MAX_COPIED:
            self._data = bytearray()
            return data
        taken = bytes(data)
        data.clear()
        return taken

    def _fail(self, events: list[MessageEvent]) -> list[MessageEvent]:
        self._failed = True
        self._line.clear()
        self._data.clear()
        if not events:
            raise self._too_large()
        return events

    def _too_large(self) -> EventTooLarge:
        return EventTooLarge(
            f"an event of the stream is larger than 'max_event_size', {self._max_event_size} bytes"
        )


def _bytes(chunk: object) -> bytes:
    if isinstance(chunk, (bytes, bytearray, memoryview)):
        return bytes(chunk)  # pyright: ignore[reportUnknownArgumentType]
    raise TypeError(f"'chunk' must be bytes, bytearray or memoryview, not {type(chunk).__name__}")


def _milliseconds(digits: bytes) -> int:
    digits = digits.lstrip(b"0") or b"0"
    # int() takes long over many digits, and refuses thousands.
    return MAX_RECONNECTION_TIME if len(digits) > 10 else min(int(digits), MAX_RECONNECTION_TIME)


def _size(value: int) -> int:
    if type(value) is not int or value < 1:
        shown = repr(value) if type(value) is int else type(value).__name__
        raise ValueError(f"'max_event_size' must be a positive integer of bytes, not {shown}")
    return value


def _id(value: str | None) -> str:
    value = checked_text("last_event_id", value) or ""
    if "\0" in value or "\n" in value or "\r" in value:
        raise ValueError("SSE 'last_event_id' must be a single line without null characters")
    return value
