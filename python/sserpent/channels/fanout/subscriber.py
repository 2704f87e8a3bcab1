"""One client of one or several channels: where it stands in each, and what it is sent next."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from ..._core import ServerSentEvent
from ..._delivery import observer
from ..._delivery.wire import come_back_later, goodbye
from ..._runtime.loops import nothing
from ..history import control_events as control_events
from ..history.broker import BrokerError, ChannelsClosed
from ..history.control_events import RUN_END_LINE
from ..history.position import NOWHERE, Position, join_ids, parse_id, parse_ids
from ..history.ring import Entry
from .cursor import Cursor
from .filtering import shows
from .hub import Flush, Hub
from .request import Request
from .tail import Tail, upto
from .taken import Taken, TakenEntries, event_of, framed, is_snapshot_of

if TYPE_CHECKING:
    from ..._delivery.source import Sink


class Subscriber:
    """Follows the streams of a request, and takes what is new of them.

    A delivery uses it as the source of ready frames that it is (`_delivery.source.Source`). All of
    it is called in the event loop of its hub.

    Args:
        hub: Of the event loop.
        request: What to follow, and from where.
        max_pending: How many bytes to take at once, if that is more than one event.

    Attributes:
        owner: The user whose stream it is; None for nobody.
        plain: The only cursor, while there is nothing to take but entries as they are.
        max_pending: How many bytes are taken at once, if that is more than one event.
        queued: Whether the hub is going to call `flush`.
        disconnected: Whether it has been told to end, because its owner is disconnected.
        holds_headers: Whether the headers wait for a first snapshot.
        lost_snapshot: Why it has ended, if that was for want of a snapshot.
        compression: What compresses for it, from what is compressed once for all.
    """

    #: Whole events are taken.
    at_line_start = True

    __slots__ = (
        "_cursors",
        "_ephemeral",
        "_failure",
        "_filter",
        "_goodbye",
        "_has_hidden",
        "_hub",
        "_knows_no_id",
        "_owes_position",
        "_own",
        "_request",
        "_sink",
        "_stopped",
        "compression",
        "disconnected",
        "flush",
        "holds_headers",
        "lost_snapshot",
        "max_pending",
        "owner",
        "plain",
        "queued",
    )

    def __init__(
        self, hub: Hub, request: Request, max_pending: int = 65_536, owner: str | None = None
    ) -> None:
        self._hub = hub
        self._request = request
        self._filter = request.filter
        self.max_pending = max_pending
        self._cursors: list[Cursor] = []
        self.plain: Cursor | None = None
        # Taken before the next entry: bytes, or an event of the channel's own.
        self._own: Sequence[bytes | ServerSentEvent | Taken] = ()
        # Events of no history, which it takes next.
        self._ephemeral: Sequence[Taken] = ()
        self._sink: Sink | None = None
        self._stopped = False  # it takes what is pending, and no more
        self._goodbye = b""
        self._failure: Exception | None = None
        self._has_hidden = False  # the filter has hidden the newest entry
        self._knows_no_id = False  # the client has none to come back with, and no event with one
        self._owes_position = False  # it is told one, unless an event follows
        self.owner = owner
        self.queued = False
        self.disconnected = False
        self.holds_headers = False
        self.lost_snapshot: Exception | None = None
        self.compression: TakenEntries | None = None
        #: Sends pending frames, unless a `send` is in progress. Called by the hub, for each event.
        self.flush: Flush = nothing

    # Beginning and end

    async def open(self) -> None:
        """Follows the streams from where the request says.

        Raises:
            BrokerUnavailable: the broker could not be reached.
            RuntimeError: a function for snapshots would wait for itself.
        """
        self._hub.add_subscriber(self)
        positions, resets = self._asked_for()
        knows_no_position = bool(resets)
        for selection in self._request.selections:
            tail = await self._hub.acquire(selection.key, selection.limits)
            cursor = Cursor(selection, tail, self._request.several)
            self._cursors.append(cursor)
            after = positions.get(cursor.label)
            reason = None if after is None else await cursor.resume(self._hub, after)
            if after is not None and reason is None:
                continue
            if selection.snapshot is not None:
                cursor.position = NOWHERE
                if reason is not None:
                    self._count_reset(reason)
                continue
            if reason is not None:
                resets.append(reason)
            knows_no_position = True
            await cursor.start(self._hub, self._request.start)
        for reason in resets:
            self._announce_reset(reason)
        self._knows_no_id = knows_no_position and not resets
        # A client that gets all that is kept gets all of it again without an id.
        self._owes_position = self._knows_no_id and self._request.start != "earliest"
        for cursor in self._cursors:
            self._join(cursor)
        for cursor in self._cursors:
            if cursor.call is not None:
                self.holds_headers = True

    def _join(self, cursor: Cursor) -> None:
        """Makes a cursor follow new events, or wait for a snapshot."""
        tail = cursor.tail
        tail.add_subscriber(self)
        if cursor.position is NOWHERE:
            self._ask_for_snapshot(cursor)
        else:
            reason = tail.why_not(cursor.position)
            if reason is not None:  # it has begun anew while another stream was asked for
                self.reset(tail, reason)
            self._catch_up(cursor, "trimmed")
        if cursor.call is not None:
            cursor.call.await_from_within()

    def _asked_for(self) -> tuple[dict[str, Position], list[str]]:
        """Returns the position that the client names for each stream, by the cursor's label, and
        why what it names is none."""
        after = self._request.after
        if not after:
            return {}, []
        if self._request.several:
            positions = parse_ids(after, len(self._request.selections))
        else:
            position = parse_id(after)
            positions = None if position is None else {"": position}
        if positions is not None:
            return positions, []
        if all(each.snapshot is not None for each in self._request.selections):
            self._count_reset("unknown")
            return {}, []
        return {}, ["unknown"]

    def start(self, sink: Sink) -> None:
        """Tells the sink from now on whenever there is something to send."""
        self._sink = sink
        if self._stopped:
            self._conclude()
        else:
            self.flush = sink.flush

    def stop(self, is_heard: bool = True) -> None:
        """Takes no more than one chunk, with a goodbye if the client is there."""
        if not self._stopped:
            self._stopped = True
            self.plain = None
            self._goodbye = goodbye() if is_heard else b""

    def end(self) -> None:
        """Ends the stream with what is pending, and a goodbye."""
        self.stop()
        self._conclude()

    def _conclude(self) -> None:
        """Tells the sink that nothing comes after the pending events, or that the stream has
        failed. The hub does it in a turn of its own, because the sink may be taking events now."""
        if self._sink is not None:
            failure, sink = self._failure, self._sink
            self.flush = sink.finish if failure is None else partial(sink.fail, failure)
            self._hub.enqueue(self)

    def close(self) -> None:
        """Follows nothing any more."""
        self._sink = self._failure = self.lost_snapshot = None
        self._stopped, self._goodbye = True, b""
        self.flush = nothing
        if self.compression is not None:
            self.compression.close()
            self.compression = None
        self._leave()
        self._hub.remove_subscriber(self)

    def _leave(self) -> None:
        for cursor in self._cursors:
            cursor.tail.remove_subscriber(self)
            if cursor.call is not None:
                cursor.call.leave(cursor)
            self._hub.release(cursor.tail)
        self._cursors.clear()

    # Called by the hub

    def reset(self, tail: Tail, reason: str) -> None:
        """Says that a stream does not continue what came before."""
        for cursor in self._cursors:
            if cursor.tail is not tail:
                continue
            cursor.filtered.clear()
            if cursor.selection.snapshot is not None:
                self._count_reset(reason)
                if cursor.call is None:
                    self._ask_for_snapshot(cursor)
            else:
                cursor.position = tail.ring.head
                cursor.live_from = cursor.position.offset
                self._announce_reset(reason)

    def _announce_reset(self, reason: str) -> None:
        self._announce(control_events.reset(reason, self.id))
        self._count_reset(reason)

    def _count_reset(self, reason: str) -> None:
        if observer.current is not None:
            for channel in {each.key.channel for each in self._request.selections}:
                observer.current.reset(channel, reason)

    def _announce(self, block: bytes | ServerSentEvent | Taken) -> None:
        self.plain = None
        self._own = [*self._own, block]
        self._hub.enqueue(self)

    def send_position(self) -> None:
        """Sends the client its position, if the filter has hidden the newest events."""
        if self._has_hidden and not self._stopped:
            self._has_hidden = False
            if any(cursor.position is not NOWHERE for cursor in self._cursors):
                self._announce(control_events.position_block(self.id))

    # Events of no history

    def expect_ephemeral(self) -> None:
        self.plain = None

    @property
    def has_filter(self) -> bool:
        """Whether events may be hidden from it."""
        return self._filter is not None

    def awaits_ephemeral(self, tail: Tail) -> bool:
        return any(
            cursor.ephemeral != tail.newest_ephemeral
            for cursor in self._cursors
            if cursor.tail is tail and cursor.call is None
        )

    def _has_ephemeral(self) -> bool:
        """Finds the events of no history that can be sent now, and returns whether there are any.
        A client that is slow is not asked, until it has become quick."""
        for cursor in self._cursors:
            newest = cursor.tail.newest_ephemeral
            if cursor.call is None and cursor.ephemeral != newest:
                shown = self._shown_ephemeral(cursor)
                if shown:
                    self._ephemeral = [*self._ephemeral, *shown]
                cursor.ephemeral = newest
        return bool(self._ephemeral)

    def _shown_ephemeral(self, cursor: Cursor) -> list[Taken]:
        """Returns the events of no history that it is shown; of each `conflate` the newest, if it
        was slow."""
        entries = cursor.tail.ephemeral_after(cursor.ephemeral)
        if cursor.ephemeral >= cursor.tail.settled_ephemeral:
            return [Taken(each, cursor, None) for each in entries if self._ask_filter(cursor, each)]
        shown: list[Taken] = []
        newer: set[str] = set()
        for entry in reversed(entries):
            if entry.conflate not in newer and self._ask_filter(cursor, entry):
                shown.append(Taken(entry, cursor, None))
                if entry.conflate is not None:
                    newer.add(entry.conflate)
        shown.reverse()
        return shown

    # Snapshots

    def _ask_for_snapshot(self, cursor: Cursor) -> None:
        """Asks for a snapshot, for which a cursor waits, and after which it goes on."""
        snapshot = cursor.selection.snapshot
        assert snapshot is not None
        self.plain = None
        own = [each for each in self._own if not is_snapshot_of(cursor, each)]
        if len(own) < len(self._own):
            # One that the client has not taken is of no use any more, and neither is its position.
            self._own = own
            cursor.position = NOWHERE
        recent = self._hub.snapshots.recent(snapshot, cursor.tail)
        if recent is not None:
            self.on_snapshot(cursor, recent)
        else:
            cursor.call = self._hub.snapshots.call(self._hub, snapshot, cursor.tail)
            cursor.call.join(cursor, self)

    def on_snapshot(self, cursor: Cursor, entry: Entry) -> None:
        """Puts a snapshot before the events that are newer, and goes on after it."""
        cursor.call = None
        cursor.position = entry.position
        cursor.live_from = cursor.tail.ring.head.offset
        cursor.ephemeral = cursor.tail.newest_ephemeral
        self.holds_headers = False
        self._announce(Taken(entry, cursor, self._several_id, is_snapshot=True))

    def on_snapshot_error(self, cursor: Cursor, error: Exception) -> bool:
        """Ends the stream for want of a snapshot: the client comes back into the same.

        Returns:
            Whether the error is to be logged, since nobody raises it.
        """
        if self._stopped:
            return False
        self.lost_snapshot = error
        if not self.holds_headers:
            self.end()
            return True
        comes_back = bool(self._request.after) and not isinstance(error, HTTPException)
        is_away = isinstance(error, (BrokerError, ChannelsClosed))
        self._stopped = True
        if comes_back or is_away:
            self._leave()
            self._own = ()
            self._goodbye = come_back_later()
        else:
            self._failure = error
        self._conclude()
        return comes_back and not is_away

    # Taking

    @property
    def id(self) -> str:
        """The id with which a client can come back to where this stands."""
        if not self._request.several:
            return str(self._cursors[0].position)
        known = [cursor for cursor in self._cursors if cursor.position is not NOWHERE]
        return join_ids({cursor.label: str(cursor.position) for cursor in known})

    @property
    def _several_id(self) -> str | None:
        return self.id if self._request.several else None

    @property
    def pending(self) -> bool:
        """Whether there is anything to take."""
        if self._goodbye:
            return True
        if self.holds_headers or self._stopped:
            return False
        if self._own or self._owes_position:
            return True
        for cursor in self._cursors:
            if cursor.is_behind and self._has_shown(cursor):
                return True
        return self._has_ephemeral()

    @property
    def cursor(self) -> Cursor | None:
        """The place in its history, or in one of them; None when it has ended."""
        return self._cursors[0] if self._cursors else None

    def pending_bytes(self) -> int:
        """Returns how many bytes of events are not taken yet. May be called in any thread."""
        entries: list[Entry | None] = []
        for cursor in list(self._cursors):
            entries += cursor.tail.ring.after(cursor.position.offset)
        return sum(len(each.frame) for each in entries if each is not None)

    def take(self) -> bytes:
        """Returns what is pending, whole events, up to `max_pending` bytes."""
        cursor = self.plain
        if cursor is not None:
            tail = cursor.tail
            after, size, taken, end = tail.newest_chunk
            if after is not cursor.position or (size is not None and size != self.max_pending):
                if not cursor.is_behind:
                    return b""
                if cursor.is_passed or cursor.is_conflated:
                    return self._take_frames()
                taken, end = tail.chunk(cursor.position, self.max_pending)
            cursor.position = end
            head = tail.ring.head
            if end is not head and end.offset != head.offset:
                self._hub.enqueue_again(self, tail)
            elif cursor.selection.ends and RUN_END_LINE in taken:
                self._end_of_run()
            return taken
        return self._take_frames()

    def _take_frames(self) -> bytes:
        taken = self._take()
        goodbye, self._goodbye = self._goodbye, b""
        if goodbye:
            taken.append(goodbye)
        frames = [framed(each) for each in taken]
        if self.compression is not None and taken:
            self.compression.note(
                [
                    each if isinstance(each, Taken) and not each.is_ephemeral else frame
                    for each, frame in zip(taken, frames, strict=True)
                ]
            )
        return b"".join(frames)

    def take_without_goodbye(self) -> bytes:
        """Takes as `take` does, for a reader of the body, which has no goodbye."""
        frames = [framed(each) for each in self._take()]
        self._goodbye = b""
        return b"".join(frames)

    def take_events(self) -> list[ServerSentEvent]:
        """Returns what is pending, as events."""
        taken = self._take()
        self._goodbye = b""
        return [event for each in taken if (event := event_of(each)) is not None]

    def _take(self) -> list[Any]:
        if not self._cursors or (self._stopped and (self._sink is None or not self._goodbye)):
            return []  # it has ended, or had to before it began
        for cursor in self._cursors:
            self._catch_up(cursor, "overflow")
        taken: list[Any] = [*self._own]
        self._own = ()
        self._take_entries(taken)
        if self._owes_position and not taken:
            self._has_hidden = False
            taken.append(control_events.position_block(self.id))
        self._owes_position = False
        if taken:
            self._knows_no_id = False
        if self._has_hidden:
            self._hub.schedule_position(self)
        if not self._stopped:
            # After the rest, which all has an id: these have none.
            if self._has_ephemeral():
                taken += self._ephemeral
                self._ephemeral = ()
            self._prepare_next()
        return taken

    def _take_entries(self, taken: list[Any]) -> None:
        size = self.max_pending
        for cursor in self._cursors:
            size -= self._take_of(cursor, size, taken)
        if self._request.several:
            self._cursors.append(self._cursors.pop(0))  # another is the first, next time

    def _prepare_next(self) -> None:
        for cursor in self._cursors:
            if cursor.is_behind:
                self._hub.enqueue_again(self, cursor.tail)
        if not (self._request.several or self._request.filter):
            self.plain = self._cursors[0]

    @property
    def is_alike(self) -> bool:
        """Whether it gets the entries of a channel as they are, as others do."""
        request = self._request
        return not (request.several or request.filter or request.selections[0].ends)

    def _take_of(self, cursor: Cursor, size: int, taken: list[Any]) -> int:
        """Takes entries of a stream, and returns how many bytes they have."""
        if size <= 0 or not cursor.is_behind or cursor.is_passed:
            return 0
        entries = cursor.tail.ring.after(cursor.position.offset)
        if cursor.is_conflated:
            entries = self._conflated(cursor, entries)
        entries = upto(entries, size)
        for entry in entries:
            shown = self._shows(cursor, entry)
            if shown is None:
                break
            cursor.position = entry.position
            self._has_hidden = not shown
            if shown:
                taken.append(Taken(entry, cursor, self._several_id))
        cursor.forget()
        if cursor.selection.ends and entries[-1].is_run_end:
            self._end_of_run()
        return sum(len(entry.frame) for entry in entries)

    def _end_of_run(self) -> None:
        self._stopped = True
        self.plain = None
        self._conclude()

    def _conflated(self, cursor: Cursor, entries: list[Entry]) -> list[Entry]:
        """Returns entries without those that a newer one with the same `conflate` stands for."""
        kept: list[Entry] = []
        newer: set[str] = set()
        for entry in reversed(entries):
            if entry.conflate is not None and entry.offset > cursor.live_from:
                if entry.conflate in newer:
                    continue
                if self._shows(cursor, entry):
                    newer.add(entry.conflate)
            kept.append(entry)
        kept.reverse()
        return kept

    def _catch_up(self, cursor: Cursor, reason: str) -> None:
        """Announces what is missing if the ring has passed a cursor, and goes on after that."""
        if not cursor.is_passed:
            return
        ring, overflow = cursor.tail.ring, cursor.selection.overflow
        to = ring.floor
        if reason == "overflow":
            if overflow == "disconnect":
                # Events are gone already. Without an id this client would never learn of them.
                self._owes_position = self._knows_no_id
                self.end()
                return
            if overflow == "latest":
                to = cursor.tail.position_at(ring.head.offset - 1) or to
        if cursor.selection.snapshot is not None:
            self._count_gap(cursor, reason, ring.floor.offset - cursor.position.offset)
            self._ask_for_snapshot(cursor)
            return
        label = f"{cursor.label}." if self._request.several else ""
        ids = f"{label}{cursor.position}", f"{label}{to}"
        missed = to.offset - cursor.position.offset
        cursor.position = to
        self._announce(control_events.gap(reason, missed, *ids, self.id))
        self._count_gap(cursor, reason, missed)

    def _count_gap(self, cursor: Cursor, reason: str, missed: int) -> None:
        if observer.current is not None:
            observer.current.gap(cursor.selection.key.channel, reason, missed)

    # The filter

    def _has_shown(self, cursor: Cursor) -> bool:
        """Goes past what the filter hides, and returns whether anything is left to take."""
        if self._filter is None or cursor.is_passed:
            return True
        for entry in cursor.tail.ring.after(cursor.position.offset):
            shown = self._shows(cursor, entry)
            if shown is None:
                return False
            if shown:
                return True
            cursor.position = entry.position
            self._has_hidden = True
        cursor.forget()
        self._hub.schedule_position(self)
        return False

    def _shows(self, cursor: Cursor, entry: Entry) -> bool | None:
        """As `_ask_filter`, which is asked once for each entry."""
        if self._filter is None:
            return True
        shown = cursor.filtered.get(entry.offset)
        if shown is None:
            shown = self._ask_filter(cursor, entry)
            if shown is not None:
                cursor.filtered[entry.offset] = shown
        return shown

    def _ask_filter(self, cursor: Cursor, entry: Entry) -> bool | None:
        """Returns whether the filter shows an entry, or None where it has failed: the stream ends
        before that entry."""
        if self._filter is None:
            return True
        if self._failure is not None:
            return None
        try:
            return shows(self._filter, cursor.selection, entry)
        except Exception as error:
            self._failure = error
            self._conclude()
            return None
