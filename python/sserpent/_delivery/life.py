"""One stream's life: its states, the events that change them, and the actions that follow.

This module is pure. It knows no event loop, and its times are numbers that it is given.
`on_asyncio` and `on_trio` report events to it and do the actions that it returns. How each of them
waits, steps and cancels is its own.

A stream lives in one of three states, and ends in one of those of `Ending`:

    STREAMING ──generator has come to its end──▶ FINISHING ──the end of the body is out──▶ COMPLETE
        │                                            │  │
        │                                            │  └──client gone, end on its way──▶ PARTING
        └──────────any reason to end─────────────────┴──▶ CLIENT_LEFT, STALLED, SHUTDOWN, ...

- STREAMING: the generator runs, and nothing has ended the stream.
- FINISHING: the generator has come to its end by itself. Its last events and the end of the body
  are being sent.
- PARTING: the client has gone while the end of the body was on its way. Some servers say so as soon
  as they have the end, before its `send` returns, so the `send` is asked: it gets `LAST_SEND`.
- An `Ending` is the reason of the end. **The first reason counts**: no event leads out of it. The
  stream may still have a generator in its cleanup, or bytes to send, and is over when neither is
  left.

`ON_EVENT` has, for each state and event, the next state and what to do. Three rules make most of
it:

1. A reason that comes while the generator runs tells it to end (STOP) and gives it
   `cleanup_timeout` (BOUND).
2. A reason that delivers (`Ending.delivers`) leaves the sending alone: what was yielded goes out,
   for as long as the client takes it. Any other gives the sending up (GIVE_UP).
3. The body ends as a whole only if the generator has come to its end, `max_duration` has ended it,
   or its last event says that it has failed. So FINISH follows nothing else.

`Life` walks the table and keeps the times that belong to it; `deadlines` says which is due first.
Another consequence of an event is an entry in the table, and one of a reason an attribute of
`Ending`, not a condition elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto, unique

from .deadlines import LAST_SEND, Due, Moment, Times, ends_at
from .progress import Progress


@unique
class Ending(Enum):
    """The reason of a stream's end, and what follows from it.

    Attributes:
        delivers: Whether events that were yielded before are still sent.
        connection: What becomes of the connection. "end": the body is ended, so that the client
            knows that it has everything. "raise": the exception goes to the server, which cuts
            the connection and logs it. "close": it is cut without a word in the log. "abort": it
            is dropped with what the client has not read. "leave": there is nothing to do.
        tells: Whether `on_disconnect` is called.
        farewell: Whether the client is told last when to come back.
        idles: Whether headers that are held, and keep-alives, still go out when they are due.
    """

    #: The generator has ended by itself, and all of it is sent.
    COMPLETE = True, "end", False, False
    #: `receive` said so, or a `send` raised OSError, or anything on a closed connection.
    CLIENT_LEFT = False, "leave", True, False
    #: The client has not read for `send_timeout`.
    STALLED = False, "abort", True, False
    #: It has lasted for `max_duration`.
    MAX_DURATION = True, "end", False, True
    #: The server shuts down, and the generator was still running.
    SHUTDOWN = True, "close", False, False
    #: The generator or a `send` has raised.
    FAILED = True, "raise", False, False, False
    #: The server, or a middleware, has cancelled the request.
    CANCELLED = False, "leave", False, False

    # Of `enum` it is a Python function, and each step of a life looks up three.
    __hash__ = object.__hash__

    def __init__(
        self, delivers: bool, connection: str, tells: bool, farewell: bool, idles: bool = True
    ) -> None:
        self.delivers = delivers
        self.connection = connection
        self.tells = tells
        self.farewell = farewell
        self.idles = idles


class Alive(Enum):
    """A state in which a stream has no reason to end."""

    __hash__ = object.__hash__

    STREAMING = auto()
    FINISHING = auto()
    PARTING = auto()

    def __init__(self, _: object) -> None:
        self.idles = True  # as of `Ending`


State = Alive | Ending


class Event(Enum):
    """A report of a part of a stream."""

    __hash__ = object.__hash__

    #: The stream opens while its server shuts down, or is not to begin: nothing of it will be cut
    #: off, so it ends as a whole, without its generator.
    OPENED_TO_END = auto()
    #: The generator has come to its end.
    GENERATOR_ENDED = auto()
    #: It has ended without an error because it was told to, before it came to its end.
    GENERATOR_CUT = auto()
    #: It has raised, its cleanup included.
    GENERATOR_FAILED = auto()
    #: It has failed, and the client is told with the last event, after which the body ends.
    FAILURE_TOLD = auto()
    #: It has come to its end, and the last event cannot be made.
    CLOSING_FAILED = auto()
    #: It was told to end, in a stream of which no client may take a part for the whole.
    CUT_OFF = auto()
    #: An item, or a keep-alive, cannot be encoded. The generator is closed where it is.
    ITEM_REFUSED = auto()
    #: `receive` has said that the client is gone, or a `send` has.
    CLIENT_GONE = auto()
    #: `receive` has, while the end of the body is on its way.
    CLIENT_GONE_AT_END = auto()
    #: `receive` has raised something else.
    RECEIVE_FAILED = auto()
    #: The end of the body is out.
    SENT = auto()
    #: A `send` has raised.
    SEND_FAILED = auto()
    #: Somebody else has cancelled the request.
    REQUEST_CANCELLED = auto()


class Action(Enum):
    """A thing to do, at once and in order. Each may be asked for when it is done already."""

    __hash__ = object.__hash__

    #: The generator is told to end.
    STOP = auto()
    #: What still runs has `cleanup_timeout` from now, unless it had before.
    BOUND = auto()
    #: The end of the body follows the last event.
    FINISH = auto()
    #: The `send` of the end has `LAST_SEND`, counted from when it began to wait.
    BOUND_LAST_SEND = auto()
    #: The headers go out if they are held: an `EventSource` reconnects after a 200 that breaks off,
    #: and gives up on anything else.
    OPEN = auto()
    #: Nothing more is sent, and a `send` that waits is cancelled.
    GIVE_UP = auto()
    #: The connection is dropped, unless all of the body is out.
    DROP = auto()
    #: It is dropped if a `send` waits: whoever has cancelled may wait for the client to read.
    DROP_UNREAD = auto()
    #: What has not ended by now is left alone: the generator's cleanup, a `send`.
    ABANDON = auto()
    #: The log says that the client has not read.
    WARN = auto()
    #: The log has the error, which is not raised.
    LOG = auto()


Step = tuple[State, Sequence[Action]]
# Time brings some of the events.
_Column = Event | Due

_A = Action
_OVER = [_A.DROP, _A.ABANDON]
# A `send` that is given up may ignore that, and a generator that is told to end may go on.
_LEAVES = [_A.GIVE_UP, _A.BOUND]
_STALLS = [_A.WARN, _A.DROP, _A.GIVE_UP, _A.BOUND]
_IS_CANCELLED = [_A.DROP_UNREAD, _A.GIVE_UP, _A.BOUND]
_ENDS_GENERATOR = [_A.BOUND, _A.STOP]

_STREAMING: dict[_Column, Step] = {
    Event.OPENED_TO_END: (Alive.FINISHING, [*_ENDS_GENERATOR, _A.FINISH]),
    Event.GENERATOR_ENDED: (Alive.FINISHING, [_A.FINISH]),
    Event.GENERATOR_CUT: (Ending.FAILED, []),  # by nobody of ours: it must not look complete
    Event.GENERATOR_FAILED: (Ending.FAILED, []),
    Event.FAILURE_TOLD: (Ending.FAILED, [_A.FINISH]),
    Event.CLOSING_FAILED: (Ending.FAILED, []),
    Event.CUT_OFF: (Ending.FAILED, []),
    Event.ITEM_REFUSED: (Ending.FAILED, _ENDS_GENERATOR),
    Event.CLIENT_GONE: (Ending.CLIENT_LEFT, [*_LEAVES, _A.STOP]),
    Event.CLIENT_GONE_AT_END: (Ending.CLIENT_LEFT, [*_LEAVES, _A.STOP]),
    Event.RECEIVE_FAILED: (Ending.FAILED, _ENDS_GENERATOR),
    Event.SENT: (Ending.COMPLETE, _ENDS_GENERATOR),
    Event.SEND_FAILED: (Ending.FAILED, [_A.GIVE_UP, _A.BOUND, _A.STOP]),
    Event.REQUEST_CANCELLED: (Ending.CANCELLED, [*_IS_CANCELLED, _A.STOP]),
    Due.STALLED: (Ending.STALLED, [*_STALLS, _A.STOP]),
    Due.MAX_DURATION: (Ending.MAX_DURATION, _ENDS_GENERATOR),
    Due.GRACE_OVER: (Ending.SHUTDOWN, _ENDS_GENERATOR),
    Due.CLEANUP_OVER: (Ending.SHUTDOWN, _OVER),
}

# The generator has ended, or is closed without having begun. What is left is the sending.
_FINISHING: dict[_Column, Step] = {
    Event.OPENED_TO_END: (Alive.FINISHING, []),
    Event.GENERATOR_ENDED: (Alive.FINISHING, []),
    Event.GENERATOR_CUT: (Alive.FINISHING, []),
    Event.GENERATOR_FAILED: (Ending.FAILED, []),
    Event.FAILURE_TOLD: (Ending.FAILED, []),
    Event.CLOSING_FAILED: (Ending.FAILED, []),
    Event.CUT_OFF: (Alive.FINISHING, []),
    Event.ITEM_REFUSED: (Ending.FAILED, []),
    Event.CLIENT_GONE: (Ending.CLIENT_LEFT, _LEAVES),
    Event.CLIENT_GONE_AT_END: (Alive.PARTING, [_A.BOUND_LAST_SEND]),
    # A client that does not read would not be seen to leave.
    Event.RECEIVE_FAILED: (Ending.FAILED, [_A.BOUND]),
    Event.SENT: (Ending.COMPLETE, []),
    Event.SEND_FAILED: (Ending.FAILED, [_A.GIVE_UP]),
    Event.REQUEST_CANCELLED: (Ending.CANCELLED, _IS_CANCELLED),
    Due.STALLED: (Ending.STALLED, _STALLS),
    Due.MAX_DURATION: (Alive.FINISHING, []),
    Due.GRACE_OVER: (Ending.SHUTDOWN, [_A.BOUND]),
    Due.CLEANUP_OVER: (Ending.SHUTDOWN, _OVER),
}

_PARTING: dict[_Column, Step] = {
    **_FINISHING,
    Event.OPENED_TO_END: (Alive.PARTING, []),
    Event.GENERATOR_ENDED: (Alive.PARTING, []),
    Event.GENERATOR_CUT: (Alive.PARTING, []),
    Event.CUT_OFF: (Alive.PARTING, []),
    Event.CLIENT_GONE_AT_END: (Alive.PARTING, []),
    Due.MAX_DURATION: (Alive.PARTING, []),
    Due.CLEANUP_OVER: (Ending.CLIENT_LEFT, [*_OVER, _A.GIVE_UP]),
}

# The reason stays, whatever comes.
_ENDED: dict[_Column, Sequence[Action]] = {
    Event.OPENED_TO_END: [],
    Event.GENERATOR_ENDED: [],
    Event.GENERATOR_CUT: [],
    Event.GENERATOR_FAILED: [],
    Event.FAILURE_TOLD: [],
    Event.CLOSING_FAILED: [],
    Event.CUT_OFF: [],
    Event.ITEM_REFUSED: [],
    Event.CLIENT_GONE: _LEAVES,
    Event.CLIENT_GONE_AT_END: _LEAVES,
    Event.RECEIVE_FAILED: [_A.BOUND],
    Event.SENT: [],
    Event.SEND_FAILED: [_A.GIVE_UP, _A.LOG],
    Event.REQUEST_CANCELLED: _IS_CANCELLED,
    Due.STALLED: _STALLS,
    Due.MAX_DURATION: [],
    Due.GRACE_OVER: [_A.BOUND],
    Due.CLEANUP_OVER: _OVER,
}

# What follows the end of a generator that was told to end.
_ENDED_FOR: dict[Ending, dict[_Column, Sequence[Action]]] = {
    Ending.SHUTDOWN: {
        Event.GENERATOR_ENDED: [_A.FINISH],
        Event.GENERATOR_CUT: [_A.OPEN],
        Event.GENERATOR_FAILED: [_A.OPEN],
    },
    Ending.MAX_DURATION: {
        Event.GENERATOR_ENDED: [_A.FINISH],
        Event.GENERATOR_CUT: [_A.FINISH],
    },
    Ending.FAILED: {Event.FAILURE_TOLD: [_A.FINISH]},
}

#: For each state and event the next state, and what to do.
ON_EVENT: Mapping[State, Mapping[_Column, Step]] = {
    Alive.STREAMING: _STREAMING,
    Alive.FINISHING: _FINISHING,
    Alive.PARTING: _PARTING,
    **{
        ending: {
            event: (ending, actions)
            for event, actions in (_ENDED | _ENDED_FOR.get(ending, {})).items()
        }
        for ending in Ending
    },
}


# Their errors are told, although the stream has another reason to end.
_OF_GENERATOR = Event.GENERATOR_FAILED, Event.FAILURE_TOLD, Event.CUT_OFF

# The attribute of a `Life` that is such a time. Its time has come, so there is none any more.
_TIMES: dict[_Column, str] = {
    Due.MAX_DURATION: "ends_at",
    Due.GRACE_OVER: "grace_until",
    Due.CLEANUP_OVER: "cleanup_until",
}

# The next state, the reason of the end, the actions, which of the times is over, which cleanup is
# bounded (BOUND or BOUND_LAST_SEND), and whether the body is to end and the sending is given up.
_Change = tuple[State, Ending | None, Sequence[Action], str | None, Action | None, bool, bool]


def _change(event: _Column, state: State, actions: Sequence[Action]) -> _Change:
    return (
        state,
        state if isinstance(state, Ending) else None,
        actions,
        _TIMES.get(event),
        next((each for each in (_A.BOUND, _A.BOUND_LAST_SEND) if each in actions), None),
        _A.FINISH in actions,
        _A.GIVE_UP in actions,
    )


# The table as `Life` walks it: what follows from an entry is worked out once.
_CHANGES: Mapping[State, Mapping[_Column, _Change]] = {
    state: {event: _change(event, *step) for event, step in row.items()}
    for state, row in ON_EVENT.items()
}

# Until Python 3.12 a function of `enum`'s looks members up.
_BOUND = Action.BOUND


class Life:
    """One stream's state, and the times that belong to it.

    Args:
        times: The options that are times.
        now: The event loop's time, in seconds, as all times here.

    Attributes:
        state: The state.
        ending: The reason of the end, None while there is none.
        error: Is raised in the end: why the stream FAILED, or what failed in a cleanup after that.
        finishing: Whether the end of the body follows the last event.
        given_up: Whether nothing more is sent. A `send` that goes on is bounded by the cleanup's
            time then.
        ends_at: When `max_duration` is over, or `expires_at`.
        grace_until: When `shutdown_grace` is over, once the server shuts down.
        cleanup_until: When `cleanup_timeout` is over, once something was told to end.
    """

    __slots__ = (
        "_times",
        "cleanup_until",
        "ending",
        "ends_at",
        "error",
        "finishing",
        "given_up",
        "grace_until",
        "state",
    )

    def __init__(self, times: Times, now: float) -> None:
        self._times = times
        self.state: State = Alive.STREAMING
        self.ending: Ending | None = None
        self.error: BaseException | None = None
        self.finishing = self.given_up = False
        self.ends_at = ends_at(times, now)
        self.grace_until: float | None = None
        self.cleanup_until: float | None = None

    def process_event(
        self, event: _Column, now: float, error: BaseException | None = None
    ) -> Sequence[Action]:
        """Goes on to the next state, and returns what is to be done.

        Args:
            event: What has happened.
            now: The time. For CLIENT_GONE_AT_END, since when the `send` in progress waits.
            error: What was raised, if the event says that something was.
        """
        before = self.state
        self.state, self.ending, actions, over, bounds, finishes, gives_up = _CHANGES[before][event]
        if error is not None and (before is not self.state or event in _OF_GENERATOR):
            self.error = after(self.error, error)
        if over is not None:
            setattr(self, over, None)
        if bounds is _BOUND:
            self.begin_cleanup(now)
        elif bounds is not None:
            self.cleanup_until = now + LAST_SEND
        if finishes:
            self.finishing = True
        if gives_up:
            self.given_up = True
        return actions

    def is_over_by(self, now: float) -> bool:
        """Returns whether its time is over: `expires_at` may be when it opens."""
        return self.ends_at is not None and self.ends_at <= now

    def begin_cleanup(self, now: float) -> None:
        """Gives what is still there `cleanup_timeout` from now, unless it has that already."""
        if self.cleanup_until is None:
            self.cleanup_until = now + self._times.cleanup_timeout

    def begin_shutdown(self, now: float) -> bool:
        """Notes that the server shuts down, also again with another grace. Returns whether the
        generator has one; if not, it is over now."""
        grace = self._times.shutdown_grace
        self.grace_until = now + grace if grace else None
        return self.grace_until is not None

    def moment(
        self, held: bool, can_ping: bool, progress: Progress | None, sent_at: float
    ) -> Moment:
        """Returns the state of the stream as far as time matters.

        Args:
            held: Whether the headers are held.
            can_ping: Whether a keep-alive may be sent.
            progress: Of the `send` in progress.
            sent_at: When the last ended.
        """
        idles = self.state.idles
        return Moment(
            held and idles,
            can_ping and idles,
            None if self.given_up else progress,
            sent_at,
            self.ends_at,
            self.grace_until,
            self.cleanup_until,
        )


def after(first: BaseException | None, error: BaseException) -> BaseException:
    """Returns what is raised where a cleanup fails after something else has: the error of the
    cleanup, with the first one as its cause, so that both are told."""
    if first is None:
        return error
    # `raise error from error` makes a circle, which the first error opens.
    last, seen = error, {id(error)}
    while last is not first and (cause := last.__cause__) is not None and id(cause) not in seen:
        last = cause
        seen.add(id(last))
    if last is not first:
        last.__cause__ = first
    return error
