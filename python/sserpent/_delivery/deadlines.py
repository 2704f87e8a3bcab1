"""When something is due in a stream's life: pure functions of its state and of the time.

Both engines ask them, so that a stream keeps the same times on asyncio and on Trio.
"""

from __future__ import annotations

import random
import time
from datetime import datetime
from enum import Enum, auto
from typing import NamedTuple, Protocol

from .progress import LOOKS, Progress

#: Seconds that the last `send` may wait for the same thing when `receive` says that the client is
#: gone. Some servers say so as soon as they have the end of the body, before that `send` returns:
#: it has gone on a moment ago then. One that has waited for longer will not go on.
LAST_SEND = 1.0


class Due(Enum):
    """Something to be done at a time."""

    __hash__ = object.__hash__

    OPEN = auto()  # the headers wait no longer for a first event: `open_delay`
    PING = auto()  # a keep-alive: `ping_interval`
    LOOK = auto()  # a send waits: does the client read on?
    STALLED = auto()  # the client has not read for `send_timeout`
    MAX_DURATION = auto()  # the stream has lasted for `max_duration`, or until `expires_at`
    GRACE_OVER = auto()  # the server shuts down, and the generator has had `shutdown_grace`
    CLEANUP_OVER = auto()  # what was told to end has had `cleanup_timeout`


class Times(Protocol):
    """The options that are times, in seconds; `EventSourceResponse` documents them."""

    ping_interval: float | None
    open_delay: float | None
    send_timeout: float | None
    max_duration: float | None
    expires_at: datetime | None
    cleanup_timeout: float
    shutdown_grace: float


class Moment(NamedTuple):
    """The state of a stream, as far as time matters. Times are the event loop's."""

    can_open: bool  # the headers are held
    can_ping: bool  # the headers are out, the end is not, and a line begins here
    progress: Progress | None  # of the `send` in progress
    sent_at: float  # when the last `send` ended, or when the stream began
    ends_at: float | None  # when `max_duration` is over, or `expires_at`
    grace_until: float | None  # set when the server shuts down
    cleanup_until: float | None  # set when the generator is told to end


def next_due(times: Times, moment: Moment) -> tuple[float, Due] | None:
    """Returns the first thing that will be due if nothing changes, and when."""
    first = _next_to_send(times, moment)
    for at, due in (
        (moment.ends_at, Due.MAX_DURATION),
        (moment.grace_until, Due.GRACE_OVER),
        (moment.cleanup_until, Due.CLEANUP_OVER),
    ):
        if at is not None and (first is None or at < first[0]):
            first = at, due
    return first


def _next_to_send(times: Times, moment: Moment) -> tuple[float, Due] | None:
    if moment.progress is not None:
        if times.send_timeout is not None:
            return _next_of_send(times.send_timeout, moment.progress)
    elif moment.can_open:
        if times.open_delay is not None:
            return moment.sent_at + times.open_delay, Due.OPEN
    elif moment.can_ping and times.ping_interval:
        return moment.sent_at + times.ping_interval, Due.PING
    return None


def _next_of_send(send_timeout: float, progress: Progress) -> tuple[float, Due]:
    stalls_at = progress.still_since + send_timeout
    looks_at = progress.looked_at + send_timeout / LOOKS
    return (looks_at, Due.LOOK) if looks_at < stalls_at else (stalls_at, Due.STALLED)


def lasts(max_duration: float | None) -> float | None:
    """Returns for how many seconds a stream lasts. With jitter, so that those who came at the same
    moment do not all go at the same moment."""
    return None if max_duration is None else max_duration * random.uniform(0.9, 1)


def ends_at(times: Times, now: float) -> float | None:
    """Returns when a stream that begins now ends: `expires_at`, or `max_duration` after now.

    Args:
        now: The event loop's time.
    """
    lasts_for, expires_at = lasts(times.max_duration), times.expires_at
    over = None if lasts_for is None else now + lasts_for
    if expires_at is None:
        return over
    expired = now + expires_at.timestamp() - time.time()
    return expired if over is None else min(over, expired)


def look_again_at(times: Times, moment: Moment, now: float) -> float | None:
    """Returns a time by which nothing can be due, whatever is sent meanwhile: a timer that is
    armed for it need not be touched when something is sent."""
    due = next_due(times, moment)
    at = None if due is None else due[0]
    if moment.progress is None and times.send_timeout is not None:
        at = now + times.send_timeout if at is None else min(at, now + times.send_timeout)
    if times.ping_interval:
        at = now + times.ping_interval if at is None else min(at, now + times.ping_interval)
    return at
