"""The buffer between a stream's generator and its connection."""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any

from .conversion import FastAPIServerSentEvent
from .declared import DeclaredEvents
from .event import ServerSentEvent, from_fastapi
from .frame import frame
from .json import ItemSchema, item_json
from .rules import ItemRules


class Buffer:
    """The buffer between a stream's generator and its connection; safe to use from any thread.

    Args:
        item_schema: What the route declares: the type of its items, which events are never checked
            against, or its events.
        max_pending: How many bytes may be pending before it is time to hand them over.
        max_age: How many seconds may pass after the oldest pending event, or after `restart_age`,
            until it is time.
        framed: Whether items that are text or bytes are parts of the stream as they are.
        rules: What a protocol asks of the items.
        count: How many events there were before.
    """

    __slots__ = (
        "_chunks",
        "_count",
        "_declared",
        "_due_at",
        "_first",
        "_framed",
        "_has_left_out",
        "_item_schema",
        "_last",
        "_last_event",
        "_lock",
        "_max_age",
        "_max_pending",
        "_rules",
        "_size",
    )

    def __init__(
        self,
        item_schema: ItemSchema | DeclaredEvents | None = None,
        *,
        max_pending: int = 65_536,
        max_age: float = 0.002,
        framed: bool = False,
        rules: ItemRules | None = None,
        count: int = 0,
    ) -> None:
        self._declared = item_schema if isinstance(item_schema, DeclaredEvents) else None
        self._item_schema = item_schema if isinstance(item_schema, ItemSchema) else None
        self._max_pending = max_pending
        self._max_age = max_age
        self._framed = framed
        self._rules = rules
        # The first and the last event with data, and how many events there were. Kept for rules
        # alone.
        self._first = b""
        self._last_event = b""
        self._count = count
        # Whether an event was left out after the last one with data.
        self._has_left_out = False
        # The last bytes that were taken, as far as they may be those of a blank line.
        self._last = b""
        self._chunks: list[bytes] = []
        self._size = 0
        self._due_at: float | None = monotonic() + self._max_age
        self._lock = threading.Lock()

    def push(self, item: object) -> bool:
        """Appends one framed event; if that fails, the pending bytes stay as they were.

        Args:
            item: An event, ours or FastAPI's, or a value for the `data` field; or what is framed
                already.

        Returns:
            Whether it is time to hand the pending bytes over. There may be none, of items that
            become nothing: then it is time for others to have a turn.

        Raises:
            ValueError: a field of an event breaks a rule, or text has lone surrogates.
            Exception: whatever the item's schema or FastAPI's encoder raise.
        """
        if self._rules is not None:
            return self._push_by(self._rules, item)
        if self._framed and isinstance(item, _READY):
            framed = _ready(item)
        elif self._declared is not None:
            framed = self._declared._framed(item)
        elif isinstance(item, ServerSentEvent):
            framed = ServerSentEvent.encode(item)  # pyright: ignore[reportUnknownArgumentType]
        elif FastAPIServerSentEvent in type(item).__mro__:
            framed = from_fastapi(item).encode()
        elif self._item_schema is not None:
            framed = b"data: %b\n\n" % self._item_schema._json_of(item)
        else:
            framed = b"data: %b\n\n" % item_json(item)
        return self._append(framed)

    def append(self, event: bytes) -> None:
        """Appends one event that is framed already."""
        self._append(event)

    def kept(self) -> tuple[bytes, bytes, int, bool]:
        """Returns the first event with data, if the rules keep it, and the last one, as they were
        framed, how many events were pushed, and whether one was left out after the last with data;
        nothing and 0 without rules."""
        return self._first, self._last_event, self._count, self._has_left_out

    def _push_by(self, rules: ItemRules, item: Any) -> bool:
        """Appends an item as the rules of a protocol have it."""
        is_ready = self._framed and isinstance(item, _READY)
        if rules._convert is not None and not is_ready:
            item = rules._convert(item, self._count)
            if item is None:
                return self._append(b"")
        has_left_out = False
        if is_ready:
            framed, has_left_out = rules._without(_ready(item))
            has_data = True
        else:
            fields = self._fields_by(rules, item)
            if fields is None:
                self._has_left_out = True
                return self._append(b"")
            framed, has_data = frame(*fields), fields[0] is not None
        self._count += _blank_lines(framed) if is_ready else 1
        if has_data and framed:
            self._last_event = framed
            self._has_left_out = False
            if rules._keeps_first and not self._first:
                self._first = framed
        if has_left_out:
            self._has_left_out = True
        return self._append(framed)

    def _fields_by(self, rules: ItemRules, item: Any) -> Any:
        """Returns the fields of the event that an item is or becomes, None if it is left out."""
        event, declared_name = _as_event(item), None
        if event is not None:
            if rules._is_left_out(event):
                return None
            if self._declared is not None:
                return self._declared._fields(event)
            return ServerSentEvent._written(event)
        if self._declared is not None:
            json, declared_name, *_ = self._declared._fields(item)
            json, name = rules._named(json, item, self._count)
        elif self._item_schema is not None:
            json, name = rules._named(self._item_schema._json_of(item), item, self._count)
        else:
            json, name = rules._json_of(item, self._count)
        return json, declared_name if name is None else name, None, None, None

    def _append(self, framed: bytes) -> bool:
        with self._lock:
            if framed:
                self._chunks.append(framed)
                self._size += len(framed)
            now = monotonic()
            if self._due_at is None:
                self._due_at = now + self._max_age
            return self._size >= self._max_pending or now >= self._due_at

    def take(self) -> bytes:
        """Returns the pending bytes, whole events in the order of their pushes, and keeps none."""
        return self._take_all()[0]

    def _take_counted(self) -> tuple[bytes, int]:
        """Takes as `take` does, and counts the events."""
        taken, before, items = self._take_all()
        if not self._framed:
            return taken, items
        return taken, _blank_lines(before + taken) - _blank_lines(before)

    def _take_all(self) -> tuple[bytes, bytes, int]:
        """Returns what is pending, the last bytes that were taken before, and how many items these
        are."""
        with self._lock:
            chunks, self._chunks = self._chunks, []
            self._size = 0
            self._due_at = None
            taken, before = b"".join(chunks), self._last
            if self._framed:
                self._last = (before + taken[-3:])[-3:]
        return taken, before, len(chunks)

    @property
    def at_line_start(self) -> bool:
        """Whether a line of the stream begins after all that has been taken. A CR alone may be the
        first half of a line's end."""
        return not self._last or self._last.endswith(b"\n")

    @property
    def at_event_start(self) -> bool:
        """Whether an event of the stream begins after all that was pushed. Only what was framed
        already may end within one."""
        if not self._framed:
            return True
        with self._lock:
            end = (self._last + b"".join(self._chunks)[-3:])[-3:]
        return not end or end in _NEWLINES or end.endswith((b"\n\n", b"\r\r", b"\n\r\n"))

    def restart_age(self) -> None:
        """Says that the generator goes on after a turn of the event loop: if it takes longer than
        `max_age` to its next event, that event is due at once."""
        self._due_at = monotonic() + self._max_age

    @property
    def pending(self) -> int:
        """How many bytes are pending."""
        return self._size


def _as_event(item: Any) -> ServerSentEvent[Any, Any] | None:
    if isinstance(item, ServerSentEvent):
        return item  # pyright: ignore[reportUnknownVariableType]
    return from_fastapi(item) if FastAPIServerSentEvent in type(item).__mro__ else None


_NEWLINES = b"\n", b"\r", b"\r\n"
_READY = str, bytes, bytearray, memoryview


def _ready(item: Any) -> bytes:
    """Returns frames that are ready, as bytes."""
    if not isinstance(item, str):
        return b"".join((item,)) if isinstance(item, bytes) else bytes(item)
    try:
        return str.encode(item)
    except UnicodeEncodeError:
        raise ValueError("text must be valid Unicode, without lone surrogates") from None


def _blank_lines(stream: bytes) -> int:
    """Counts events: each block of an event stream ends with a blank line."""
    return stream.count(b"\n\n") + stream.count(b"\n\r\n") + stream.count(b"\r\r")
