"""Refuses a client for whom there is no place."""

from __future__ import annotations

import random

from starlette.responses import PlainTextResponse, Response

from .._delivery.farewell import come_back_later

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


def empty_stream(response: Response) -> Response:
    """Returns a stream that tells a client to come back later, and ends."""
    return Response(come_back_later(), 200, response.headers, response.media_type)
