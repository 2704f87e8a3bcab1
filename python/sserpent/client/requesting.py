"""The common part of `EventSource` and `SyncEventSource`: their options, the request of each
connection, and what the errors of their HTTP client mean.

The HTTP client is httpx2's or httpx's, or anything that can do the same; none is imported.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from .._runtime.log import logger
from .reading import Reading, left_early
from .reconnecting import Failed, Reconnection, sendable_id
from .responses import NotAnEventStream, without_secrets

if TYPE_CHECKING:
    from typing_extensions import TypedDict

    from .responses import Response

    Headers = Mapping[str, str] | Callable[[], Mapping[str, str] | Awaitable[Mapping[str, str]]]

    class SourceOptions(TypedDict, total=False):
        """The options of `EventSource` and `SyncEventSource` besides `type`."""

        method: str
        headers: Headers | None
        params: Any
        json: Any
        last_event_id: str
        until: str | None
        until_event: str | Iterable[str] | None
        raise_on: str | Iterable[str]
        max_event_size: int
        silence_timeout: float
        retry: float
        max_delay: float
        max_failures: int | None
        repeat: bool


#: No event.
NONE: Any = object()


class RequestArguments(NamedTuple):
    """The arguments of each request, as the client's `build_request` takes them.

    Attributes:
        method: The method.
        url: The URL.
        headers: The headers, or a function that returns them.
        params: The query.
        json: The body.
    """

    method: str
    url: Any
    headers: Headers | None
    params: Any
    json: Any


class Source:
    """A stream over all its connections, but for its input and output.

    Args:
        client: The HTTP client.
        arguments: Those of the request of each connection.
        reading: The events.
        reconnection: The failures.

    Attributes:
        reading: Its events.
        reconnection: Its failures.
        connected: Whether there is a connection, from its headers to its end.
        waits: Whether there is a delay before the next connection.
        failure: Why there is a delay.
        ends_whole: Whether the end of a body that is whole is the end, whatever may be repeated.
        logs: Whether failures are logged.
    """

    def __init__(
        self, client: Any, arguments: RequestArguments, reading: Reading, reconnection: Reconnection
    ) -> None:
        self._client = client
        self._arguments = arguments
        self.reading = reading
        self.reconnection = reconnection
        self._library = library_of(client)
        # When the last request was answered with the stream; None if it was not.
        self._connected_at: float | None = None
        self._url = arguments.url
        # The last reason that was logged; empty if none was since the last event.
        self._logged = ""
        # A request was sent, and its connection has not failed.
        self._sent = False
        self.connected = False
        self.waits = False
        self._waits_until: float | None = None
        self.failure: BaseException | None = None
        self.ends_whole = False
        self.logs = True
        # Nothing comes any more; why, if that is an error.
        self._over = False
        self._why_over: BaseException | None = None

    # The events

    def next_item(self) -> Any:
        """Returns the next event or item; `NONE` if more has to be read first, or nothing comes.

        Raises:
            ErrorEvent, EventTooLarge, pydantic.ValidationError: as in `iter_events`.
        """
        if not self.reading.has_events:
            self.reading.feed(b"")  # raises what was kept back for the events before it
            return NONE
        self.reconnection.succeeded()
        return self.reading.next(NONE)

    @property
    def is_over(self) -> bool:
        """Whether nothing comes any more.

        Raises:
            BaseException: why, if that is an error that nobody was told of.
        """
        why, self._why_over = self._why_over, None
        if why is not None:
            raise why
        return self._over or self.reading.ended

    def end(self) -> None:
        """Ends the stream: nothing comes any more."""
        self._over = True
        self._why_over = None
        self.reading.stop()

    # The request

    def headers(self) -> Mapping[str, str] | Awaitable[Mapping[str, str]] | None:
        """Returns the headers of the next request, as the user gives them."""
        headers = self._arguments.headers
        return headers() if callable(headers) else headers

    def request(self, headers: Mapping[str, str] | None) -> Any:
        """Returns the request of a connection, which is sent now."""
        method, url, _, params, json = self._arguments
        request = self._client.build_request(method, url, params=params, json=json, headers=headers)
        if request.headers.get("Accept") in (None, "*/*"):
            request.headers["Accept"] = "text/event-stream"
        request.headers["Cache-Control"] = "no-store"
        send_last_event_id(request, self.reading.last_event_id)
        # Where the client reads the socket: what it decodes of a compressed keep-alive is nothing.
        timeout = {
            **request.extensions.get("timeout", {}),
            "read": self.reconnection.times.silence_timeout,
        }
        request.extensions = {**request.extensions, "timeout": timeout}
        self._sent = True
        self._connected_at = None
        self._url = request.url
        return request

    # Its end

    def failure_of(self, error: Any) -> Failed:
        """Returns the failure that an error of the client stands for: a connection that was not
        made or that broke, or a status for which `raise_for_status` was called, in a hook of the
        client.

        Raises:
            Exception: the error, if another try would not help.
        """
        library = self._library
        if isinstance(error, library.HTTPStatusError):
            response = error.response
            retry_after = response.headers.get("Retry-After")
            return self.reconnection.refused(error, response.status_code, retry_after)
        lasting = library.UnsupportedProtocol, library.LocalProtocolError, library.TooManyRedirects
        if not isinstance(error, library.RequestError) or isinstance(error, lasting):
            raise error
        not_made = library.ConnectError, library.ConnectTimeout, library.PoolTimeout
        # A proxy has refused the tunnel: nothing was sent through it.
        not_dealt_with = isinstance(error, (*not_made, library.ProxyError))
        return Failed(error, not_dealt_with=not_dealt_with)

    def without_headers(self, error: Exception) -> Failed:
        """Returns the failure of a connection whose headers could not be made: in a restart the
        server that gives out tokens may be away too.

        Raises:
            Exception: the error, if another try would not help.
        """
        failure = self.failure_of(error)
        failure.not_dealt_with = failure.of_headers = True
        return failure

    def opened(self, response: Response) -> Failed | None:
        """Looks at a response: the client is connected now, or nothing comes any more, or the
        response is a failure.

        Returns:
            The failure, after which the client may come back.

        Raises:
            IncompleteStream: nothing comes, and the last event, which was named, has not come.
            NotAnEventStream: the client may not come back.
        """
        if response.status == 204:
            self._over = True
            if self.reading.ends.are_named:
                raise self.reading.ends.incomplete()
        elif response.is_event_stream:
            self.connected = True
            self._connected_at = time.monotonic()
        else:
            retry_after = response.response.headers.get("Retry-After")
            return self.reconnection.refused(response.refusal(), response.status, retry_after)
        return None

    def closed(self, error: Exception | None = None) -> None:
        """Notes that the connection is over, for whatever reason.

        Args:
            error: The client's, if there was one.
        """
        if self.connected:
            self.connected = False
            assert self._connected_at is not None
            lasted = time.monotonic() - self._connected_at
            if isinstance(error, self._library.ReadTimeout):
                lasted -= self.reconnection.times.silence_timeout  # of which nothing came
            self.reconnection.ended(lasted, self.reading.reconnection_time)
            self.reading.go_on()

    def failed(self, failure: Failed) -> None:
        """Counts a failure.

        Raises:
            BaseException: the failure's error, if the client must not come back.
        """
        self.waits = True
        self._sent = False
        self.failure = failure.error
        try:
            self.reconnection.failed(failure, self.reading.last_event_id)
        except BaseException as error:
            self._over = True
            self._why_over = error  # in case that a cancellation takes its place
            raise
        if self.logs:
            self._log(failure)

    def _log(self, failure: Failed) -> None:
        """Logs why there is no stream, once for each reason in a row: a client that tries again for
        ever would say nothing of a wrong host."""
        is_first = self.reconnection.failures == 1
        if is_first:
            self._logged = ""
        if is_first and self._connected_at is not None:
            return  # it was one, and every stream ends at times
        reason = _why(failure)
        if reason != self._logged:
            self._logged = reason
            url = without_secrets(self._url) or "the stream"
            logger.warning("No events from %s, trying again: %s", url, reason)

    def waits_until(self, now: float) -> float:
        """Returns when the delay is over, which began when this was first asked: a wait that is
        cancelled goes on where it was.

        Args:
            now: What the clock of the caller says, in seconds.
        """
        if self._waits_until is None:
            self._waits_until = now + self.reconnection.delay()
        return self._waits_until

    def waited(self) -> None:
        """Notes that the delay is over."""
        self.waits = False
        self._waits_until = None

    def ended_whole(self) -> None:
        """Notes that the server has ended the stream, not cut it.

        Raises:
            IncompleteStream: the client must not come back, and the last event has not come.
        """
        incomplete = self.reading.ends.incomplete()
        may_repeat = self.reconnection.may_repeat(self.reading.last_event_id)
        if may_repeat and not self.ends_whole:
            self.failed(Failed(incomplete))
        elif self.reading.ends.are_named:
            raise incomplete
        else:
            self._over = True

    def cancelled(self) -> None:
        """Notes that a read was cancelled, and its connection is lost, if there was one."""
        if self._sent and not self.reconnection.may_repeat(self.reading.last_event_id):
            self._over = True
            self._why_over = left_early()


def _why(failure: Failed) -> str:
    """Returns the reason of a failure in one line, without what may be secret in a URL."""
    error = failure.error
    status = error.status if isinstance(error, NotAnEventStream) else None
    status = getattr(getattr(error, "response", None), "status_code", status)
    text = str(error)
    named = f"{type(error).__name__}: {text}" if text else type(error).__name__
    reason = named if status is None else f"status {status}"
    return f"the function 'headers' has failed, {reason}" if failure.of_headers else reason


def send_last_event_id(request: Any, last_event_id: str) -> None:
    """Gives a request the header `Last-Event-ID` if there is an ID, in place of one that it has.
    An ID that no header can have is not sent, nor is an older one in its place."""
    if not last_event_id:
        return
    headers = [each for each in request.headers.raw if each[0].lower() != b"last-event-id"]
    sent = sendable_id(last_event_id)
    if sent is not None:
        # As bytes: the client encodes a text as it thinks fit.
        headers.append((b"Last-Event-ID", sent))
    request.headers = type(request.headers)(headers)


def library_of(client: Any) -> Any:
    """Returns the module whose errors a client raises.

    Raises:
        TypeError: it is no client of httpx2 or httpx, nor like one.
    """
    build_request = getattr(client, "build_request", None)
    # A client that passes its calls on to one of httpx2 or httpx is taken for that.
    real = getattr(build_request, "__self__", client)
    for kind in type(real).__mro__:
        module = sys.modules.get(kind.__module__.partition(".")[0])
        if hasattr(module, "RequestError") and hasattr(module, "AsyncClient"):
            return module
    raise TypeError(f"'client' must be a client of httpx2 or httpx, not {type(client).__name__}")


def is_async(client: Any) -> bool:
    """Returns whether a client is for an event loop."""
    real = getattr(getattr(client, "build_request", None), "__self__", client)
    return hasattr(real, "aclose")
