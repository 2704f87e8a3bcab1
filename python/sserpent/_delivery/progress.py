"""Whether a client reads on while a `send` waits.

A `send` that waits goes on when the system has room for much more, of which it may keep megabytes:
a client that reads slowly takes longer for that than `send_timeout`, and is not one that does not
read. So what it has not read is looked at meanwhile, where the server's connection is known.
"""

from __future__ import annotations

#: How many times within `send_timeout`.
LOOKS = 8


class Progress:
    """Whether the client has read on during one `send`.

    Args:
        sending_since: When the `send` began.

    Attributes:
        still_since: Since when the client has read nothing, as far as is known.
        looked_at: When that was looked at; infinite if there is nothing to see.
    """

    __slots__ = ("_unread", "looked_at", "sending_since", "still_since")

    def __init__(self, sending_since: float) -> None:
        self.sending_since = self.still_since = self.looked_at = sending_since
        self._unread: int | None = None

    def look(self, unread: int | None, now: float, send_timeout: float) -> None:
        """Takes note of how much the client has not read of what was sent.

        Args:
            unread: The number of bytes; None if nobody knows.
            now: The time.
            send_timeout: How long it may read nothing.
        """
        if unread is None:
            self.looked_at = float("inf")
            return
        if self._unread is None:
            # The timer may fire long after the `send` began. It may have read until now.
            self.still_since = max(self.still_since, now - send_timeout / 2)
        elif unread != self._unread:
            self.still_since = now
        self._unread, self.looked_at = unread, now
