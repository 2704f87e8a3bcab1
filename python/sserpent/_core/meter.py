"""Counts what a stream takes of its events, for metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .buffer import Buffer


class Meter:
    """Counts the events and bytes that are taken from a buffer. One task takes; any thread may read
    the counts.

    Args:
        pending: A buffer, or whatever else has `take` and `pending`.
        on_first_event: Called without arguments when the first event is taken.
    """

    __slots__ = ("_counted", "_on_first_event", "_pending")

    def __init__(self, pending: Any, on_first_event: Callable[[], object]) -> None:
        self._pending = pending
        self._on_first_event = on_first_event
        self._counted = (0, 0, 0)

    def take(self) -> bytes:
        """Takes the pending bytes from the buffer, counts them, and returns them."""
        taken: bytes
        if isinstance(self._pending, Buffer):
            taken, found = self._pending._take_counted()
        else:
            taken = self._pending.take()
            # Each block of an event stream ends with a blank line, and nothing within one has one.
            found = taken.count(b"\n\n")
        if taken:
            takes, events, size = self._counted
            self._counted = (takes + 1, events + found, size + len(taken))
            if found and not events:
                self._on_first_event()
        return taken

    @property
    def at_line_start(self) -> Any:
        """As `at_line_start` of what it counts says."""
        return self._pending.at_line_start

    @property
    def pending(self) -> Any:
        """How much is pending, as `pending` of what it counts says."""
        return self._pending.pending

    @property
    def counted(self) -> tuple[int, int, int]:
        """How many times something was taken, how many events, and how many bytes."""
        return self._counted
