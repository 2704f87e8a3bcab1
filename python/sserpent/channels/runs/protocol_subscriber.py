"""One follower of a run whose class has the protocol of a client."""

from __future__ import annotations

from typing import Any

from ..._fastapi.protocol_response import ProtocolResponse
from ..._fastapi.stream_end import StreamEnd, data_of
from ..fanout.cursor import Cursor
from ..fanout.hub import Hub
from ..fanout.request import Request
from ..fanout.subscriber import Subscriber
from ..history.control_events import RUN_END_LINE
from ..history.ring import Entry
from .ends import read_end


class RunFailed(Exception):
    """The run that is followed has not ended as it should. The client is told; nobody else is."""


class FollowerCut(Exception):
    """The follower ends before its run does."""


class ProtocolSubscriber(Subscriber):
    """Follows a run for a response in the protocol of a client. It leaves out the events that
    channels and runs add (`gap`, `reset`, `run-end`): the response tells how the run has ended.

    Args:
        response_class: Of the run.

    Attributes:
        is_cut: Whether it has ended before the run, or begins at no place of it.
        has_end_mark: Whether the last that the generator has yielded is the mark at the end of a
            protocol's streams. Known at the end.
    """

    __slots__ = ("_class", "_closing", "_first", "_run_end", "has_end_mark", "is_cut")

    def __init__(
        self,
        hub: Hub,
        request: Request,
        max_pending: int,
        owner: str | None,
        response_class: type[ProtocolResponse],
    ) -> None:
        super().__init__(hub, request, max_pending, owner)
        self._class = response_class
        # The first event, once it is known; kept for `StreamEnd.first` alone.
        self._first: bytes | None = None
        self._closing = b""  # what is sent after the last event
        self._run_end: Entry | None = None
        self.is_cut = self.has_end_mark = False

    # Beginning

    async def open(self) -> None:
        await super().open()
        if self._class.keeps_first and self._cursors[0].position.offset:
            self._first = await self._read_first(self._cursors[0])

    async def _read_first(self, cursor: Cursor) -> bytes | None:
        """Returns the first event of the run, for a client that has had it before."""
        entry = cursor.tail.ring.at(1)
        if entry is None:
            selection = cursor.selection
            _, entries = await self._hub.broker.read(selection.key, selection.limits, 1, 2)
            entry = next(iter(entries), None)
        return None if entry is None else entry.body

    # The end

    def stop(self, is_heard: bool = True) -> None:
        self._stopped = True

    def end(self) -> None:
        if not self._stopped:
            self._cut()

    def _announce_reset(self, reason: str) -> None:
        self._count_reset(reason)
        self._cut()

    def _catch_up(self, cursor: Cursor, reason: str) -> None:
        if cursor.is_passed:
            self._cut()

    def _cut(self) -> None:
        self.is_cut = self._stopped = True
        self._failure = FollowerCut()
        self._conclude()

    def _end_with(self, run_end: Entry) -> None:
        self._run_end = run_end
        self._cursors[0].position = run_end.position
        self._stopped = True
        said = read_end(run_end.body)
        self.has_end_mark = "has_end_mark" in said
        if said["end"] in ("error", "lost"):
            self._failure = RunFailed()
        self._conclude()

    def stream_end(self) -> StreamEnd:
        """Returns how the run has ended, for `closing_event`; "lost" if it has not."""
        position = self._cursors[0].position
        count = position.offset - (self._run_end is not None)
        first = None if self._first is None else data_of(self._first)
        last = self._last(count)
        if self._run_end is None:
            return StreamEnd("lost", first=first, last=last, count=count)
        said = read_end(self._run_end.body)
        return StreamEnd(said["end"], said["reason"], said.get("status"), first, last, count)

    def _last(self, count: int) -> Any:
        """Returns the data of the newest event that has any."""
        for offset in range(count, 0, -1):
            entry = self._cursors[0].tail.ring.at(offset)
            if entry is None:
                break
            if b"\ndata" in entry.frame:
                return data_of(entry.body)
        return None

    def append(self, frames: list[bytes]) -> None:
        """Adds the last events of the stream. If events have ids, the last has that of the run's
        end: a client that comes back with it has everything."""
        if self._class.event_ids and self._run_end is not None and frames:
            frames = [*frames[:-1], b"id: %b\n%b" % (self._run_end.id.encode(), frames[-1])]
        self._closing += b"".join(frames)

    # Taking

    @property
    def pending(self) -> bool:
        if self._closing:
            return True
        if self._stopped or not self._cursors or not self._cursors[0].is_behind:
            return False
        cursor = self._cursors[0]
        entry = cursor.tail.ring.at(cursor.position.offset + 1)
        if entry is not None and entry.is_run_end:
            self._end_with(entry)
            return False
        return True

    def take(self) -> bytes:
        cursor = self.plain
        if cursor is None or self._stopped:
            return self._take_frames()
        after, size, frame, end = cursor.tail.newest_chunk
        is_next = after is cursor.position and size is None
        if not is_next or end.offset == 1 or RUN_END_LINE in frame:
            return self._take_frames()
        cursor.position = end
        return frame if self._class.event_ids else frame.partition(b"\n")[2]

    def _take_frames(self) -> bytes:
        taken = self._take()
        closing, self._closing = self._closing, b""
        if self._class.event_ids:
            return b"".join([*[each.entry.frame for each in taken], closing])
        return b"".join([*[each.entry.body for each in taken], closing])

    def take_without_goodbye(self) -> bytes:
        return self._take_frames()

    def _take_of(self, cursor: Cursor, size: int, taken: list[Any]) -> int:
        taken_bytes = super()._take_of(cursor, size, taken)
        if taken and self._class.keeps_first and taken[0].entry.offset == 1:
            self._first = taken[0].entry.body
        if taken and taken[-1].entry.is_run_end:
            self._end_with(taken.pop().entry)
        return taken_bytes
