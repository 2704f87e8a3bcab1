"""Stands in a stream where a generator's driver does, for a source that pushes ready frames."""

from __future__ import annotations

from collections.abc import Callable

from .._shutdown import ServerStreams
from .sender import ENDED, Sender
from .source import Source


class PushedSource:
    """Has what a source pushes sent. There is no task: the source calls when it has something.

    Args:
        source: What is streamed.
        sender: Takes it from the source and sends it.
        cuts: Whether it is cut off where it is stopped. If not, what it says last tells where it
            stopped.
    """

    __slots__ = ("_cuts", "_on_end", "_sender", "_source", "_stopped", "cut", "flush")

    task = None
    begun = True

    def __init__(self, source: Source, sender: Sender, cuts: bool = False) -> None:
        self._source = source
        self._cuts = cuts
        #: It was not let come to its end.
        self.cut = False
        self._sender = sender
        self._on_end: Callable[[BaseException | None], None] | None = None
        self._stopped = False
        #: Called for each event.
        self.flush = sender.flush

    def start(self, streams: ServerStreams, on_end: Callable[[BaseException | None], None]) -> None:
        """Sends the headers, with what is there to be sent, unless the source holds them; nothing
        if it was stopped before.

        Args:
            streams: The streams of the server.
            on_end: Called at the end, with what failed.
        """
        self._on_end = on_end
        if self._stopped:
            self.cut = self._cuts
            self.finish()
            return
        self._source.start(self)
        if self._source.pending:
            self._sender.flush()
        elif self._sender.in_progress is None and not self._source.holds_headers:
            self._sender.open()

    def stop(self) -> None:
        """Stops the source; nothing more is pushed."""
        self._stopped = True
        self.cut = self.cut or (self._cuts and self._on_end is not None)
        self._source.stop(is_heard=self._sender.phase is not ENDED)
        self.finish()

    def finish(self) -> None:
        self._end(None)

    def fail(self, error: Exception) -> None:
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(error)

    def cancel(self) -> None:
        """Does nothing: there is no task to cancel."""

    def go_on(self) -> None:
        """Does nothing: the source pushes again by itself when a `send` has ended."""
