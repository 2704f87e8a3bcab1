"""The state of a channel, for the clients that do not have it: one call for all who wait.

A call belongs to the hub of an event loop, not to a request. What is published while it runs is
kept for those who wait, and follows the state that they get.
"""

from __future__ import annotations

import contextvars
import copy
import json
from collections.abc import Callable
from functools import partial
from inspect import isawaitable
from typing import Any, Protocol

import anyio

from ..._core import ServerSentEvent
from ..._delivery.options import EVENT_CLASSES
from ..._runtime.log import logger
from ..._runtime.loops import (
    call_every,
    current_time,
    current_token,
    is_cancellation,
    is_outside,
    nothing,
    spawn,
)
from ..history.broker import BrokerUnavailable, Item
from ..history.encoding import Encoding
from ..history.position import HistoryKey, Position, parse_id
from ..history.ring import Entry
from .request import Snapshot
from .tail import Tail

#: The name of an event whose data is the state.
SNAPSHOT = "snapshot"
#: Seconds that a function may take.
CALL_TIMEOUT = 30.0
# Seconds for which a snapshot is given to others after its call has ended.
_SHARED_FOR = 1.0
# How many times a function is asked again whose id is older than what is kept.
_AGAIN = 3
# Seconds to look for an id in the broker that this process has not heard of.
_LOOKUP_TIMEOUT = 2.0


# The call in whose function this is, in its tasks too.
_calling: contextvars.ContextVar[SnapshotCall] = contextvars.ContextVar("sserpent_snapshot_call")


class SnapshotHub(Protocol):
    """A hub as the calls see it."""

    async def reach(self, tail: Tail, after: Position) -> str | None:
        """Extends a tail back to a position, and returns why it cannot."""
        ...

    def settle_later(self, tail: Tail) -> None:
        """Keeps what a tail has until all its subscribers have had the occasion to take it."""
        ...

    def forget_if_unused(self) -> None:
        """Ends the hub, if nobody needs it."""
        ...


class SnapshotSubscriber(Protocol):
    """A subscriber as the calls see it."""

    def on_snapshot(self, cursor: Any, entry: Entry) -> None:
        """Takes a snapshot, and goes on after it."""
        ...

    def on_snapshot_error(self, cursor: Any, error: Exception) -> bool:
        """Ends for want of a snapshot, and returns whether the error is to be logged."""
        ...


class _Asked:
    """The history, the function and its arguments: subscribers with the same ones share a call."""

    __slots__ = ("_hash", "parts")

    def __init__(self, key: HistoryKey, snapshot: Snapshot) -> None:
        self.parts = key, snapshot.arguments, snapshot.function
        try:
            self._hash = hash(self.parts)
        except TypeError:  # the function has no hash, and may still be equal to another
            self._hash = hash(self.parts[:2])

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Asked) and self.parts == other.parts


class SnapshotCalls:
    """The calls that run in one event loop, and what those have returned that have just ended."""

    # It does not keep its hub, which keeps it: nothing of a subscription waits for the garbage
    # collector.

    def __init__(self) -> None:
        self._running: dict[_Asked, SnapshotCall] = {}
        # When each has ended, by the event loop's clock.
        self._recent: dict[_Asked, tuple[float, Entry]] = {}
        self._end_timer: Callable[[], object] | None = None

    def recent(self, snapshot: Snapshot, tail: Tail) -> Entry | None:
        """Returns what a call has returned a moment ago, if its stream can go on after that."""
        ended_at, entry = self._recent.get(_Asked(tail.key, snapshot), (0.0, None))
        if entry is None or ended_at + _SHARED_FOR < current_time():
            return None
        return entry if tail.keeps(entry.position) else None

    def call(self, hub: SnapshotHub, snapshot: Snapshot, tail: Tail) -> SnapshotCall:
        """Returns the call that runs. It begins, if there is none."""
        asked = _Asked(tail.key, snapshot)
        call = self._running.get(asked)
        if call is None:
            on_end = partial(self._on_end, hub, asked)
            call = self._running[asked] = SnapshotCall(hub, tail, snapshot, on_end)
        return call

    def _on_end(self, hub: SnapshotHub, asked: _Asked, entry: Entry | None) -> None:
        del self._running[asked]
        if entry is not None:
            self._recent[asked] = current_time(), entry
            if self._end_timer is None:
                self._end_timer = call_every(_SHARED_FOR, partial(self._forget, hub))

    def _forget(self, hub: SnapshotHub) -> None:
        oldest = current_time() - _SHARED_FOR
        self._recent = {a: recent for a, recent in self._recent.items() if recent[0] > oldest}
        if not self._recent and self._end_timer is not None:
            self._end_timer()
            self._end_timer = None
            hub.forget_if_unused()

    @property
    def has_recent(self) -> bool:
        """Whether there is something to be shared."""
        return bool(self._recent)


class SnapshotCall:
    """One call of a function, for all who wait for it. The last who leaves cancels it."""

    def __init__(
        self,
        hub: SnapshotHub,
        tail: Tail,
        snapshot: Snapshot,
        on_end: Callable[[Entry | None], object],
    ) -> None:
        self._hub = hub
        self._tail = tail
        self._snapshot = snapshot
        self._on_end = on_end
        self._waiting: dict[Any, SnapshotSubscriber] = {}
        # The calls that the function waits for, by listening itself.
        self._awaited: list[SnapshotCall] = []
        self._has_ended = False
        self._token = current_token()
        # In a context of its own, not in that of the first client's request.
        context = contextvars.Context()
        self._cancel: Callable[[], object] = context.run(spawn, self._run)
        # A function that does not heed its cancellation, as one in a thread, is not waited for.
        self._end_timer: Callable[[], object] = context.run(
            call_every, CALL_TIMEOUT, self._time_out
        )

    def join(self, cursor: Any, subscriber: SnapshotSubscriber) -> None:
        """Tells a subscriber the outcome, when there is one."""
        self._waiting[cursor] = subscriber

    def await_from_within(self) -> None:
        """Notes that the function in which this is called waits for this call.

        Raises:
            RuntimeError: this call waits for that function.
        """
        caller = _calling.get(None)
        if caller is None or caller._has_ended:
            return
        if self._leads_to(caller):
            raise RuntimeError(
                f"'snapshot' of {_name(self._tail.key)} would wait for itself: the function listens"
                " with the same 'snapshot'. Listen without 'snapshot', or load the state elsewhere"
            )
        caller._awaited.append(self)

    def _leads_to(self, other: SnapshotCall) -> bool:
        seen, todo = set[SnapshotCall](), [self]
        while todo:
            call = todo.pop()
            if call is other:
                return True
            if call not in seen:
                seen.add(call)
                todo += call._awaited
        return False

    def leave(self, cursor: Any) -> None:
        """Forgets a subscriber that has left. The last one to leave cancels the call."""
        self._waiting.pop(cursor, None)
        if not self._waiting and not self._has_ended:
            cancel = self._cancel
            self._end(None)
            cancel()

    def _end(self, entry: Entry | None) -> None:
        self._has_ended = True
        self._end_timer()
        # They refer back to this.
        self._end_timer = self._cancel = nothing
        self._awaited.clear()
        self._on_end(entry)
        self._tail.let_go(self)
        self._hub.settle_later(self._tail)

    def _succeed(self, entry: Entry) -> None:
        self._end(entry)
        waiting, self._waiting = self._waiting, {}
        for cursor, subscriber in waiting.items():
            subscriber.on_snapshot(cursor, entry)

    def _fail(self, error: Exception) -> None:
        self._end(None)
        waiting, self._waiting = self._waiting, {}
        unraised = False
        for cursor, subscriber in waiting.items():
            # One that is raised more than once would gather the frames of all.
            unraised = subscriber.on_snapshot_error(cursor, _copy(error)) or unraised
        if unraised:
            logger.error(
                "'snapshot' of %s failed: clients are told to come back",
                _name(self._tail.key),
                exc_info=error,
            )

    def _time_out(self) -> None:
        cancel = self._cancel
        self._fail(
            TimeoutError(
                f"'snapshot' of {_name(self._tail.key)} did not return within {CALL_TIMEOUT:g} s"
            )
        )
        cancel()

    # The call

    async def _run(self) -> None:
        _calling.set(self)
        error: Exception | None = None
        entry = None
        try:
            entry = await self._entry()
        except Exception as failure:
            error = failure
        except BaseException as failure:
            # Nothing may leave this task: KeyboardInterrupt or SystemExit would end the event loop,
            # and on Trio anything would.
            is_end = isinstance(failure, GeneratorExit) and is_outside(self._token)
            if is_end or is_cancellation(failure):
                raise
            kind = type(failure).__name__
            error = RuntimeError(f"'snapshot' of {_name(self._tail.key)} raised {kind}")
            error.__cause__ = failure
        finally:
            if not self._has_ended:
                if entry is not None:
                    self._succeed(entry)
                else:
                    cancelled = f"'snapshot' of {_name(self._tail.key)} was cancelled from within"
                    self._fail(error or RuntimeError(cancelled))
            error = None  # its traceback refers to this frame

    async def _entry(self) -> Entry:
        """Returns the state, at a position after which everything is kept."""
        tail = self._tail
        for _ in range(1 + _AGAIN):
            before = tail.ring.head
            self._hold(before.offset)
            item, event_id = self._item(await self._value())
            position = before if event_id is None else await self._position(event_id, before)
            if tail.keeps(position):
                return Entry(position, item.body, 0.0, item.raw, None)
        raise RuntimeError(
            f"'snapshot' of {_name(tail.key)} is too old: {1 + _AGAIN} times, the events after it"
            " were no longer kept. Have the state changed before publish() is called, or with the"
            " id that it returns"
        )

    def _hold(self, offset: int) -> None:
        if not self._has_ended:  # a function may go on, though it is cancelled
            self._tail.hold(self, offset)

    async def _value(self) -> Any:
        function, arguments = self._snapshot
        value = function(*arguments)
        return await value if isawaitable(value) else value

    def _item(self, value: Any) -> tuple[Item, str | None]:
        """Returns the framed state, and the id of the newest event that it has, if it says so."""
        # The channel's type is that of what changes.
        encoding = Encoding(None, f"'snapshot' of {_name(self._tail.key)}")
        if not isinstance(value, EVENT_CLASSES):
            return encoding.item(value, SNAPSHOT), None
        event: Any = value
        without_id = ServerSentEvent(
            data=event.data,
            raw_data=event.raw_data,
            event=event.event,
            retry=event.retry,
            comment=event.comment,
        )
        return encoding.item(without_id), event.id

    async def _position(self, event_id: str, before: Position) -> Position:
        """Returns the position of the newest event that the state has.

        Args:
            event_id: What the function says.
            before: The newest before it was called.
        """
        position = parse_id(event_id)
        if position is None:
            raise ValueError(
                f"'id' of what 'snapshot' of {_name(self._tail.key)} returns must be one that"
                f" publish() has returned, not {event_id!r}"
            )
        self._hold(min(position.offset, before.offset))
        try:
            with anyio.fail_after(_LOOKUP_TIMEOUT):
                reason = await self._hub.reach(self._tail, position)
        except TimeoutError:
            raise BrokerUnavailable(
                "An event that a snapshot names could not be looked up in time"
            ) from None
        if reason is None:
            return position
        head = self._tail.ring.head
        if position.epoch != head.epoch:
            # The state has what the lost history had, and nothing of this one.
            beginning = Position(head.epoch, 0, 0)
            self._hold(0)
            await self._hub.reach(self._tail, beginning)
            return beginning
        # The history has lost its newest events, which the state has, and nothing that came since.
        return before if before.epoch == head.epoch else head


def decode_json(data: str, event: str) -> Any:
    """Returns the data of a snapshot."""
    return json.loads(data)


def _name(key: HistoryKey) -> str:
    return f"channel {key.channel!r}"


def _copy(error: Exception) -> Exception:
    try:
        copied = copy.copy(error)
    except Exception:
        return error
    return copied.with_traceback(error.__traceback__)
