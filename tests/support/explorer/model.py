"""What must come of a small world.

A stream ends for one reason, the first that comes (`reasons`). The rest follows from that: what the
client has, what leaves the call, who is told, what the log says, and that it ends as soon as its
parts have ended, or their time is over.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any, NamedTuple

from sserpent._delivery.deadlines import LAST_SEND

from .scripts import World
from .stage import Note, Odd, Story

_OF_THE_SCRIPTS = (LookupError, Odd)
# What keeps a stream from sending more, whatever its reason.
_CUTS = ("gone", "cancel", "scope")
_EVENT = 'data: "{}"\n\n'
_PING = b": ping\n"
# Seconds within which two times are the same.
_SAME = 1e-6


class Reason(NamedTuple):
    """Why a stream may end.

    Attributes:
        at: When.
        kind: "complete", "left", "stalled", "max", "shutdown", "late", "failed" or "cancelled".
            "late", because its server shuts down already, is no reason by itself: nothing runs.
        error: What is raised for it.
        index: After which note; None for what the stream itself has to notice, by its timer or in
            one of its next turns.
    """

    at: float
    kind: str
    error: Any = None
    index: int | None = None


def complaints(story: Story) -> list[str]:
    """Returns what is wrong with what came of a world: nothing, if it is right for any of the
    reasons that came at the same moment."""
    if story.ended_at is None:
        return [*story.faults, "it never returned"]
    every = list(_reasons(story))
    first = _first(every)
    if story.library == "trio":  # a cancellation is noticed where something waits, if at all
        first += _first([each for each in every if each.kind != "cancelled"])
    found = [list(_Check(story, reason, every).all()) for reason in first]
    found = found or [[*story.faults, "it ended without a reason"]]
    return min(found, key=len)


def _reasons(story: Story) -> Iterator[Reason]:
    """Returns all that could end the stream, in the order in which it came."""
    world, notes = story.world, story.notes
    ends: Note | None = None  # the `send` of the end of the body
    accepted = False
    sent_since = 0.0
    timeout = world.option("send_timeout")
    closed = None
    for index, (at, what, of) in enumerate(notes):
        if what == "sends":
            sent_since, accepted = at, False
            ends = notes[index] if not of.get("more_body", True) else ends
        elif what == "accepts":
            accepted = True
        elif what == "send ends":
            if timeout is not None and at >= sent_since + timeout - _SAME:
                yield Reason(sent_since + timeout, "stalled")
            if ends is not None and accepted and notes[index - 1].what != "send raises":
                yield Reason(at, "complete", None, index)
        elif what == "send raises":
            if isinstance(of, BrokenPipeError):
                yield Reason(at, "left", None, index)
            elif isinstance(of, (KeyError, TimeoutError)):
                yield Reason(at, "failed", of, index)
        elif what == "send is cancelled by its server":
            yield Reason(at, "left")
        elif what == "gone":
            late = LAST_SEND if ends is not None else 0
            yield Reason(at + late, "left", None, None if late or _shares(world) else index)
        elif what == "receive raises":
            yield Reason(at, "failed", of, None if _shares(world) else index)
        elif what == "closed":
            closed = at if closed is None else closed
            if isinstance(of, _OF_THE_SCRIPTS):
                yield Reason(at, "failed", of)
            elif of is not None and story.first("raises"):  # it has cancelled itself
                yield Reason(at, "failed", RuntimeError())
        elif what == "shutdown":
            grace = world.option("shutdown_grace")
            later = grace or story.library == "trio"
            yield Reason(at + grace, "shutdown", None, None if later else index)
        elif what == "shuts down before":
            yield Reason(at, "late", None, index)
            yield Reason(at + world.option("cleanup_timeout"), "shutdown")
        elif what == "cancel" or (what == "scope" and not _heard_the_last(notes[:index])):
            yield Reason(at, "cancelled")
    lasts = world.option("max_duration")
    if lasts is not None and (closed is None or closed >= lasts - _SAME):
        yield Reason(lasts, "max")


def _heard_the_last(notes: list[Note]) -> bool:
    """Returns whether the stream waits for its own end alone, where no scope reaches it."""
    return any(each.what in ("gone", "receive raises") for each in notes)


def _shares(world: World) -> bool:
    return "reads" in world.generator or "part" in world.receive


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        error = error.__cause__ or error.__context__
        if error is not None:
            yield error


def _first(every: list[Reason]) -> list[Reason]:
    """Returns those that may have been the first."""
    at = min((each.at for each in every if each.kind != "late"), default=inf)
    same = [each for each in every if each.at <= at + _SAME and each.kind != "late"]
    told = [each for each in same if each.index is not None]
    return told[:1] + [each for each in same if each.index is None]


class _Check:
    """Holds a story against one reason."""

    def __init__(self, story: Story, reason: Reason, every: list[Reason]) -> None:
        assert story.ended_at is not None
        self.story = story
        self.world = story.world
        self.reason = reason
        self.is_sync = story.world.kind == "sync"
        self.ended_at = story.ended_at
        self.cleanup_timeout = story.world.option("cleanup_timeout")
        self.every = [each for each in every if each.at <= self.ended_at + _SAME]
        self.closed = story.first("closed")
        closes = story.first("closes", "aborts")
        #: After which note the stream has closed its connection itself.
        self.closes = len(story.notes) if closes is None else story.notes.index(closes)
        #: The generator's cleanup took longer than it may, or just as long.
        over_at = min((each.at for each in self.every if each.kind != "complete"), default=inf)
        over_at += self.cleanup_timeout
        closed_at = self.closed.at if self.closed else inf
        #: If it took just as long, the log says what became of it.
        self.overran = bool(story.first("starts")) and (
            closed_at > over_at + _SAME
            or (
                closed_at > over_at - _SAME and any("cleanup_timeout" in each for each in story.log)
            )
        )
        #: Whether the generator was in its `finally`, or through it, when it was told to end; None
        #: if that may have been at the same moment, or it had not begun.
        self.by_itself = self._is_by_itself()

    def _is_by_itself(self) -> bool | None:
        if not self.story.first("starts"):
            return None
        cleans = self.story.first("cleans up")
        if cleans is None or self.overran or self.story.first("ends") is None:
            return False
        if self.reason.index is not None and not self.is_sync:
            return self.story.notes.index(cleans) < self.reason.index
        if abs(cleans.at - self.reason.at) < _SAME or self.is_sync:
            return None
        return cleans.at < self.reason.at

    def all(self) -> Iterator[str]:
        for each in (
            self.time,
            self.cleanup,
            self.wire,
            self.promptness,
            self.error,
            self.telling,
            self.log,
        ):
            for complaint in each():
                yield f"{self.reason.kind} at {self.reason.at:g}: {complaint}"
        yield from self.story.faults
        for left in self.story.left:
            if not self.may_be_left(left):
                yield f"left: {left}"

    # Time

    def time(self) -> Iterator[str]:
        whats = "send ends", "told ends", "closes", "gone", "receive raises"
        parts = [each.at for each in self.story.all(*whats)]
        if self.closed is not None:
            parts.append(self.closed.at)
        parts = [each for each in parts if each <= self.ended_at + _SAME]
        done_at = max(self.reason.at, *parts, 0)
        limit = self.reason.at + self.cleanup_timeout
        deaf = self.world.server == "known" and "replays" in self.world.receive
        if self.overran or deaf or self.world.told == "forever":
            done_at = max(done_at, limit)
        if self.ended_at > done_at + _SAME:
            yield f"it ended at {self.ended_at:g}, all was done at {done_at:g}"
        limit = self.limit()
        if self.ended_at > limit + _SAME:
            yield f"it ended at {self.ended_at:g}, later than {limit:g}"

    def limit(self) -> float:
        bounded = [each.at + self.cleanup_timeout for each in self.every if self.is_bounded(each)]
        limit = min(bounded, default=inf)
        told = self.story.first("told")
        if told is not None and self.story.library == "trio":  # after a `send` in progress
            limit = max(limit, told.at + self.cleanup_timeout)
        if self.closed is not None and self.may_take_its_time():
            limit = max(limit, self.closed.at)
        if "deaf" in self.world.send and self.story.library == "trio":
            limit = max([limit, *(each.at for each in self.story.all("send ends"))])
        return limit

    def is_bounded(self, reason: Reason) -> bool:
        """Returns whether the client and the generator have `cleanup_timeout` after it."""
        if reason.kind == "failed" and not isinstance(reason.error, ValueError):
            # What was yielded before is sent, for as long as it takes or the client is there.
            return self.closed is None or self.closed.at > reason.at
        return reason.kind != "complete"

    def may_take_its_time(self) -> bool:
        """Returns whether the cleanup shields itself, which Trio waits for."""
        return self.story.library == "trio" and bool({"second", "deaf"} & set(self.world.cleanup))

    def cleanup(self) -> Iterator[str]:
        starts, closed = len(self.story.all("starts")), len(self.story.all("closed"))
        if starts and self.story.first("shuts down before"):
            yield "the generator was started, though its server shuts down"
        if starts > 1 or closed != starts:
            yield f"the generator was started {starts} times and closed {closed} times"
        if self.overran and self.story.library == "asyncio":
            stopped = [each.at for each in self.every if each.kind != "complete"]
            over = min(stopped, default=inf) + self.cleanup_timeout
            if self.ended_at < over - _SAME:
                yield f"its cleanup had time until {over:g}, and it ended at {self.ended_at:g}"

    # What the client has

    def wire(self) -> Iterator[str]:
        kinds = [message["type"] for _, message in self.story.accepted]
        if (
            kinds[:1] not in ([], ["http.response.start"])
            or kinds.count(kinds[0] if kinds else 0) > 1
        ):
            yield f"the messages are {kinds}"
        bodies = [m for _, m in self.story.accepted if m["type"] == "http.response.body"]
        whole = [m for m in bodies if not m.get("more_body", False)]
        if whole and whole != bodies[-1:]:
            yield "something follows the end"
        body = b"".join(m["body"] for m in bodies if m["body"] != _PING).decode()
        body, _, farewell = body.partition(": goodbye")
        if farewell and self.reason.kind != "max":
            yield "a farewell"
        every = self.story.all("yields")
        yielded = "".join(_EVENT.format(each.of) for each in every)
        # A thread that was stopped drops what it has yielded since.
        due = [each for each in every if not self.is_sync or each.at < self.reason.at - _SAME]
        if not yielded.startswith(body):
            yield f"it sent {body!r} of {yielded!r}"
        elif len(body) < sum(len(_EVENT.format(each.of)) for each in due) and (
            whole or not self.obstacles()
        ):
            yield f"events were lost: {body!r} of {yielded!r}"
        if self.must_be_whole() and not whole:
            yield "it has no end"
        if self.must_be_cut() and whole:
            yield "it is not whole, and looks so"

    def obstacles(self) -> list[Reason]:
        """Returns what kept events from being sent."""
        limit = [Reason(self.limit(), "over")] if self.ended_at >= self.limit() - _SAME else []
        left = [
            Reason(each.at, "left")
            for each in self.story.notes[: self.closes]
            if each.what in _CUTS
        ]
        return (
            limit
            + left
            + [
                each
                for each in self.every
                if each.kind in ("left", "stalled", "cancelled")
                or (each.kind == "failed" and isinstance(each.error, (KeyError, TimeoutError)))
            ]
        )

    def must_be_whole(self) -> bool:
        if self.obstacles():
            return False
        if self.reason.kind == "shutdown":
            return self.by_itself is True and not self.cleanup_errors()
        return self.reason.kind == "max" and not self.cleanup_errors() and not self.overran

    def must_be_cut(self) -> bool:
        if self.reason.kind == "shutdown":
            return self.by_itself is False
        # It may be whole already when `receive` fails.
        return self.reason.kind == "failed" and not isinstance(self.reason.error, ValueError)

    def cleanup_errors(self) -> list[BaseException]:
        """Returns what the generator raised when it had been told to end."""
        closed = self.closed
        if closed is None or not isinstance(closed.of, _OF_THE_SCRIPTS):
            return []
        return [] if closed.of is self.reason.error else [closed.of]

    def promptness(self) -> Iterator[str]:
        at = {str(each.of): each.at for each in self.story.all("yields")}
        free_at = 0.0
        is_open = False
        for note in self.story.notes:
            if note.what == "send ends":
                free_at = note.at
            elif note.what == "sends":
                if not is_open:
                    yield from self.headers(note.at)
                is_open = True
                body = note.of.get("body", b"")
                if body == _PING:
                    if note.at < free_at + (self.world.option("ping_interval") or inf) - _SAME:
                        yield f"a ping at {note.at:g}, after {free_at:g}"
                elif body:
                    first = body.decode().split('"')[1] if b'"' in body else ""
                    if note.at > max(at.get(first, note.at), free_at) + _SAME:
                        yield f"event {first} was sent at {note.at:g}"

    def headers(self, sent_at: float) -> Iterator[str]:
        delay = self.world.option("open_delay")
        if delay is not None and sent_at > delay + _SAME and self.reason.at > delay:
            yield f"headers at {sent_at:g}"

    # What the application and the server have

    def error(self) -> Iterator[str]:
        error, expected = self.story.error, self.raised()
        errors = self.errors()
        first = errors[-2] if len(errors) > 1 else None
        if error is not None and error is expected and first and first not in _causes(error):
            yield f"{first!r} is not a cause of {error!r}"
        if expected is None:
            if error is not None:
                yield f"it raised {error!r}"
        elif error is not expected and not (
            type(expected) in (RuntimeError,) and type(error) is RuntimeError
        ):
            cancelled = type(expected).__name__ == "CancelledError"
            if not (cancelled and type(error).__name__ in ("CancelledError", "Cancelled")):
                yield f"it raised {error!r}, not {expected!r}"

    def raised(self) -> BaseException | None:
        if self.is_cancelled():
            from asyncio import CancelledError

            return CancelledError()
        errors = self.errors()
        return errors[-1] if errors else None

    def errors(self) -> list[BaseException]:
        """Returns what has failed: the last is raised, after those before it."""
        failed = [self.reason.error] if self.reason.kind == "failed" else []
        # Nobody asks a thread that was stopped: its errors are logged.
        asked = not (self.overran or self.is_sync)
        return failed + (self.cleanup_errors() if asked else [])

    def unraised(self) -> int:
        """Returns how many errors are logged."""
        late = 0 if self.errors()[-1:] == self.cleanup_errors()[-1:] else len(self.cleanup_errors())
        return late + bool(self.is_cancelled() and self.errors())

    def is_cancelled(self) -> bool:
        raised = type(self.story.error).__name__ in ("CancelledError", "Cancelled")
        if raised and self.story.all("scope", "cancel"):
            return True
        # A scope raises where the stream waits, if it has to: on Trio, that is the only way.
        strict = [each for each in self.story.all("cancel") if self.story.library == "asyncio"]
        return any(each.at < self.ended_at - _SAME for each in strict)

    def telling(self) -> Iterator[str]:
        told = len(self.story.all("told"))
        expected = int(self.reason.kind in ("left", "stalled"))
        if told != expected:
            yield f"on_disconnect was called {told} times, not {expected}"

    def log(self) -> Iterator[str]:
        log = list(self.story.log)
        for expected, text in self.lines():
            found = [each for each in log if text in each]
            if len(found) not in expected:
                yield f"the log has {len(found)} times {text!r}"
            log = [each for each in log if text not in each]
        yield from (f"the log has {each[:300]!r}" for each in log)

    def lines(self) -> Iterator[tuple[tuple[int, ...], str]]:
        """Returns what the log has, and how often it may."""
        stalled = [each for each in self.every if each.kind == "stalled"]
        told = bool(self.story.all("told"))
        failed = [
            each
            for each in self.every
            if each.kind == "failed"
            and isinstance(each.error, (KeyError, TimeoutError))
            and each.error is not self.reason.error
        ]
        yield (1,) if self.reason.kind == "stalled" else (0, 1) if stalled else (0,), "send_timeout"
        overran = (0, 1) if self.may_take_its_time() else (1,)
        yield overran if self.overran else (0,), "cleanup_timeout"
        yield (1,) if told and self.world.told == "raises" else (0,), "on_disconnect"
        yield tuple(range(len(failed) + 1)), "A send"
        unraised = self.unraised()
        yield (unraised,) if not self.is_sync else tuple(range(unraised + 1)), "The cleanup of"

    def may_be_left(self, what: str) -> bool:
        if what.startswith(("the generator is open", "a task", "a timer: _set_result")):
            return self.overran
        # In a shutdown a timer drops the connection of a client that does not read the rest.
        return "abort" in what and bool(self.story.first("shutdown", "shuts down before"))
