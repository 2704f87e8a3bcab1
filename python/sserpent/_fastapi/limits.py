"""How many streams there may be: of a class, in this process, in a channel, of one owner."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

from starlette.responses import PlainTextResponse, Response

from .._delivery.wire import come_back_later
from .negotiation import ACCEPT_ENCODING


class Slots:
    """Counts open streams, by whatever has a limit. Safe to use from any thread."""

    def __init__(self) -> None:
        # Reentrant: a finalizer that runs while it is held may give a place back.
        self._lock = threading.RLock()
        self._taken: Counter[Any] = Counter()

    def take(self, limits: Mapping[Any, int]) -> bool:
        """Takes a place under each limit, or none at all.

        Args:
            limits: How many places there are, for each of what has a limit.

        Returns:
            Whether there were places. They are then to be given back.
        """
        with self._lock:
            free = all(self._taken[each] < limit for each, limit in limits.items())
            if free:
                self._taken.update(limits.keys())
            return free

    def give_back(self, limits: Mapping[Any, int]) -> None:
        """Gives back what was taken."""
        with self._lock:
            self._taken.subtract(limits.keys())
            for each in limits:
                if not self._taken[each]:
                    del self._taken[each]


# After how many seconds somebody may try again.
_RETRY_AFTER = 5, 15


def refusal(what: str, response: Response, comes_back: bool) -> Response:
    """Returns what is sent in place of a stream.

    Args:
        what: Of what there are too many.
        response: What would have been streamed.
        comes_back: Whether the client has had a part of the stream before. Its `EventSource` would
            give up for good on anything but a 200: "If res's status is not 200 ... then fail the
            connection"
            (https://html.spec.whatwg.org/multipage/server-sent-events.html#dom-eventsource).
    """
    if comes_back:
        return empty_stream(response)
    return PlainTextResponse(f"Too many {what}", 503, {"Retry-After": retry_after()})


def retry_after() -> str:
    """Returns the header `Retry-After`, which differs from client to client."""
    return str(random.randint(*_RETRY_AFTER))


def headers_of_503(compress: bool) -> dict[str, str]:
    """Returns the headers of an error that says when to try again, in place of a stream.

    Args:
        compress: Whether the stream would have been compressed for clients that accept it.
    """
    headers = {"Retry-After": retry_after()}
    return {**headers, "Vary": ACCEPT_ENCODING} if compress else headers


def empty_stream(response: Response) -> Response:
    """Returns a stream that tells a client to come back later, and ends."""
    return Response(come_back_later(), 200, response.headers, response.media_type)
