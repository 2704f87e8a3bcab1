"""The rules by which a client comes back to a stream. They know no HTTP client and no event loop.

As browsers do, https://html.spec.whatwg.org/multipage/server-sent-events.html#sse-processing-model,
and where that leaves it open ("a delay equal to the reconnection time", "some more time"), as a
service with many clients needs it: with jitter, and doubled with each failure.
"""

from __future__ import annotations

import re
import time
from random import uniform
from typing import Any, NamedTuple

from .._runtime.checks import checked_bool, checked_limit, checked_seconds, wrong_type

# Where doubling begins if the stream has asked for no delay, in seconds.
_FIRST_DELAY = 0.1
# A delay is doubled at most so many times: more would not change it, and overflow.
_DOUBLINGS = 60
# The longest wait, in seconds: the timers of all systems take it.
_LONGEST = 2.0**31

# Statuses after which a client comes back, besides those from 500 on.
_BUSY = {408, 425, 429}
# Statuses that say that the request was not handled.
_NOT_DEALT_WITH = {429, 503}

# A header cannot have it: h11 and HTTP/2 refuse control characters, and strip blanks.
_UNSENDABLE = re.compile("[\x00-\x08\x0a-\x1f\x7f]|^[ \t]|[ \t]$")


class Times(NamedTuple):
    """The options of a client that are times, in seconds.

    Attributes:
        silence_timeout: After how long without a byte a connection is taken for dead.
        retry: How long to wait at first, unless the stream has said so.
        max_delay: What the wait is doubled up to.
    """

    silence_timeout: float
    retry: float
    max_delay: float


def checked_times(silence_timeout: float, retry: float, max_delay: float) -> Times:
    """Returns the options that are times.

    Raises:
        TypeError: one is no number; the message names it.
        ValueError: one is negative, or not finite; the message names it.
    """
    times = Times(silence_timeout, retry, max_delay)
    for name, value in times._asdict().items():
        checked_seconds(name, value, or_zero=name != "silence_timeout")
    return times


class Reconnection:
    """Counts a client's failures, and decides about each status and each end of a connection.

    Args:
        times: The options that are times.
        method: The method of the request.
        max_failures: After how many failures in a row it gives up; None for never.
        repeat: Whether any request may be sent again.

    Attributes:
        times: The options that are times.
        failures: How many there were in a row.

    Raises:
        TypeError: an argument has the wrong type; the message names it.
        ValueError: `max_failures` is less than 1.
    """

    def __init__(self, times: Times, method: str, max_failures: int | None, repeat: bool) -> None:
        if not isinstance(method, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise wrong_type("method", "a string", method)
        self.times = times
        self._may_repeat = checked_bool("repeat", repeat) or method.upper() in ("GET", "HEAD")
        self._max_failures = checked_limit("max_failures", max_failures)
        self._retry = times.retry
        self._not_before = 0.0
        self.failures = 0

    def refused(self, error: Exception, status: int, retry_after: str | None) -> Failed:
        """Returns the failure of a status after which the client comes back: it does not last.

        Args:
            error: What is raised if the client does not come back.
            status: The status.
            retry_after: The header `Retry-After`, if there is one.

        Raises:
            Exception: the error, after any other status.
        """
        if status not in _BUSY and status < 500:
            raise error
        self._not_before = _seconds(retry_after)
        return Failed(error, not_dealt_with=status in _NOT_DEALT_WITH)

    def succeeded(self) -> None:
        """Notes that an event was handed out."""
        self.failures = 0

    def ended(self, lasted: float, reconnection_time: int | None) -> None:
        """Notes that a connection that was the stream is over.

        Args:
            lasted: For how many seconds there was one.
            reconnection_time: What the stream has asked for, in milliseconds.
        """
        if lasted > self.times.silence_timeout:
            self.failures = 0
        if reconnection_time is not None:
            self._retry = reconnection_time / 1000

    def may_repeat(self, last_event_id: str) -> bool:
        """Returns whether a request may be sent again that may have been dealt with: one without
        effects, one that the user says to repeat, or one that says where to go on."""
        return self._may_repeat or sendable_id(last_event_id) is not None

    def failed(self, failure: Failed, last_event_id: str) -> None:
        """Counts a failure.

        Raises:
            BaseException: the failure's error, if the client must not come back.
        """
        self.failures += 1
        is_over = self._max_failures is not None and self.failures >= self._max_failures
        if is_over or not (failure.not_dealt_with or self.may_repeat(last_event_id)):
            raise failure.error

    def delay(self) -> float:
        """Returns for how many seconds to wait before the next connection: between one and two
        times what is doubled with each failure, and so much later than `Retry-After` says. Clients
        that were cut off or refused together do not come back together."""
        doublings = min(self.failures - 1, _DOUBLINGS)
        if self._retry:
            doubled = self._retry * 2.0**doublings
        else:
            doubled = _FIRST_DELAY * 2.0 ** (doublings - 1) if doublings else 0.0
        base = max(self._retry, min(doubled, self.times.max_delay))
        jitter = uniform(0, base)
        not_before, self._not_before = self._not_before, 0.0
        return min(max(base, not_before) + jitter, _LONGEST)


class Failed(Exception):
    """A connection was not made, or has ended, or was answered by a status after which to come
    back.

    Attributes:
        error: What is raised if the client does not come back.
        not_dealt_with: Whether the request did not reach the application.
        of_headers: Whether the headers of the request could not be made.
    """

    def __init__(self, error: Any, *, not_dealt_with: bool = False) -> None:
        self.error = error
        self.not_dealt_with = not_dealt_with
        self.of_headers = False


def sendable_id(last_event_id: str) -> bytes | None:
    """Returns the value of the header `Last-Event-ID`, in UTF-8 as browsers send it; None where
    there is no ID, or one that no header can have."""
    if not last_event_id or _UNSENDABLE.search(last_event_id):
        return None
    return last_event_id.encode()


def _seconds(retry_after: str | None) -> float:
    """Returns for how long a server asks not to come back, by its header `Retry-After`:
    https://www.rfc-editor.org/rfc/rfc9110#name-retry-after, "a date or a number of seconds"."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:20])
    # Not before it is needed: it takes as long to load as all the rest of a client.
    from datetime import timezone
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:  # "-0000"
            date = date.replace(tzinfo=timezone.utc)
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, OverflowError, TypeError, IndexError):
        return 0.0
