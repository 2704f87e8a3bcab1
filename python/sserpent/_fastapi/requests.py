"""Lets a generator read its request while it streams.

The delivery waits in `receive()` for the client to leave. A request that reads its body from the
same `receive()` meanwhile would wait for messages that the delivery has taken.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Scope

from .._delivery.inbox import Inbox

# Where the response finds what its request shares.
_KEY = "sserpent.inbox"


def share(request: Request) -> None:
    """Makes a request share its `receive` with the response."""
    inbox = Inbox(request.scope, request.receive)
    request._receive = inbox.receive
    request.scope[_KEY] = inbox


def shared_receive(scope: Scope, receive: Receive, content: Any) -> Receive:
    """Returns the `receive` that tells the delivery of a disconnect.

    In FastAPI's routes the request shares it from the beginning. In plain Starlette's the request
    was made before there was a response: it is found where a generator has it, in a variable.
    """
    inbox = scope.get(_KEY)
    if inbox is None:
        request = _request_of(content, receive)
        if request is None:
            return receive
        share(request)
        inbox = scope[_KEY] = request.scope[_KEY]
    return inbox.receive_disconnect  # type: ignore[no-any-return]


def _request_of(content: Any, receive: Receive) -> Request | None:
    frame = getattr(content, "ag_frame", None) or getattr(content, "gi_frame", None)
    if frame is None:
        return None
    variables: dict[str, object] = frame.f_locals
    requests: list[Request] = [each for each in variables.values() if isinstance(each, Request)]
    return next((request for request in requests if request.receive is receive), None)
