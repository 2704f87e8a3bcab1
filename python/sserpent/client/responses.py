"""The bytes of a response, whatever HTTP client it is of.

A response is known by what it can do: nothing here imports an HTTP client.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Generator, Iterator
from contextlib import aclosing, suppress
from typing import Any
from urllib.parse import urlsplit

Chunk = bytes | bytearray | memoryview

#: How many bytes of a body are kept that is no event stream.
_SHOWN = 500
# For how many seconds they may come.
_PATIENCE = 5.0
# How many bytes are asked for where a client wants to know.
_READ = 65_536


class NotAnEventStream(ValueError):
    """A response is no event stream: its status is not 200, or its content type is another.

    Attributes:
        status: The status.
        content_type: The content type, as it was sent; empty if there is none.
        body: The first 500 bytes of the body.
        url: The URL of the response, without user, password and query; empty if it is not known.
    """

    __module__ = "sserpent.client"

    def __init__(self, status: int, content_type: str, body: bytes = b"", *, url: str = "") -> None:
        super().__init__(status, content_type, body, url)
        self.status = status
        self.content_type = content_type
        self.body = body
        self.url = url

    def __str__(self) -> str:
        kind = self.content_type or "no content type"
        is_redirect = 300 <= self.status < 400
        hint = " (the HTTP client does not follow redirects)" if is_redirect else ""
        beginning = f": {self.body[:200]!r}" if self.body else ""
        return (
            f"{self.url or 'the response'} is no event stream: status {self.status} with"
            f" {kind}{hint}{beginning}"
        )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(status={self.status}, content_type={self.content_type!r},"
            f" body={self.body!r}, url={self.url!r})"
        )

    def __reduce__(self) -> Any:
        return _not_an_event_stream, (self.status, self.content_type, self.body, self.url)


def _not_an_event_stream(status: int, content_type: str, body: bytes, url: str) -> NotAnEventStream:
    return NotAnEventStream(status, content_type, body, url=url)


def is_event_stream(status: int, content_type: str) -> bool:
    """Returns whether a client takes the response for an event stream,
    https://html.spec.whatwg.org/multipage/server-sent-events.html#dom-eventsource: its status is
    200, and its type text/event-stream, whatever its case and parameters."""
    return status == 200 and content_type.partition(";")[0].strip().lower() == "text/event-stream"


def _url_of(response: Any) -> str:
    """Returns the URL of a response as errors show it. Empty for one that was made without a
    request, as in a test."""
    try:
        url = response.url
    except (AttributeError, RuntimeError):
        return ""
    return without_secrets(url)


def without_secrets(url: Any) -> str:
    """Returns a URL without user, password and query; empty if it has no host."""
    try:
        parts = urlsplit(str(url))
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if host else ""


class Response:
    """A response of an HTTP client.

    Attributes:
        status: Its status.
        content_type: Its content type, empty if there is none.
    """

    def __init__(self, response: Any) -> None:
        self.response = response
        status = getattr(response, "status_code", None)
        self.status: int = response.status if status is None else status
        self.content_type: str = response.headers.get("Content-Type") or ""

    @property
    def is_event_stream(self) -> bool:
        """Whether a client takes it for an event stream."""
        return is_event_stream(self.status, self.content_type)

    def refusal(self, body: bytes = b"") -> NotAnEventStream:
        """Returns the error of a response that is no event stream."""
        return NotAnEventStream(self.status, self.content_type, body, url=_url_of(self.response))


class AsyncResponseBytes(Response):
    """The bytes of a response of httpx2, httpx or aiohttp: an async iterable, which looks at the
    response first.

    Iterating raises:
        NotAnEventStream: it is no event stream.
    """

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self._chunks()

    async def _chunks(self, *, checked: bool = True) -> AsyncGenerator[Chunk, None]:
        if checked and not self.is_event_stream:
            raise self.refusal(await self.beginning())
        body = self._body()
        try:
            async for chunk in body:
                yield chunk
        finally:
            # Else it is left to the event loop, of which Trio warns.
            aclose = getattr(body, "aclose", None)
            if aclose is not None:
                await aclose()

    def _body(self) -> AsyncIterator[Chunk]:
        if hasattr(self.response, "aiter_bytes"):
            return self.response.aiter_bytes()  # type: ignore[no-any-return]
        return self.response.content.iter_any()  # type: ignore[no-any-return]

    async def beginning(self) -> bytes:
        """Returns the first bytes of the body, as far as they come in a few seconds."""
        # Not for readers without an event loop.
        from anyio import move_on_after

        body = b""
        # The status is worth more than how its body breaks off.
        with suppress(Exception), move_on_after(_PATIENCE):
            async with aclosing(self._chunks(checked=False)) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) >= _SHOWN:
                        break
        return body[:_SHOWN]

    async def aclose(self) -> None:
        """Closes the response, however its library does that."""
        response = self.response
        closed = response.aclose() if hasattr(response, "aclose") else response.close()
        if isinstance(closed, Awaitable):
            await closed


class ResponseBytes(Response):
    """The bytes of a response of httpx2, httpx or requests: an iterable, which looks at the
    response first.

    Iterating raises:
        NotAnEventStream: it is no event stream.
    """

    def __iter__(self) -> Iterator[Chunk]:
        if not self.is_event_stream:
            raise self.refusal(self.beginning())
        yield from self._body()

    def _body(self) -> Iterator[Chunk]:
        if hasattr(self.response, "iter_bytes"):
            return self.response.iter_bytes()  # type: ignore[no-any-return]
        return _iter_requests(self.response)

    def beginning(self) -> bytes:
        """Returns the first bytes of the body, as far as they come in a few seconds."""
        with suppress(Exception):  # requests has nothing of the kind, and keeps its own timeout
            timeout = self.response.request.extensions["timeout"]
            timeout["read"] = min(timeout["read"] or _PATIENCE, _PATIENCE)
        body, until = b"", time.monotonic() + _PATIENCE
        with suppress(Exception):  # the status is worth more than how its body breaks off
            for chunk in self._body():
                body += chunk
                if len(body) >= _SHOWN or time.monotonic() > until:
                    break
        return body[:_SHOWN]

    def close(self) -> None:
        """Closes the response."""
        self.response.close()


# The errors of urllib3, and those that requests raises in their place.
_REQUESTS_ERRORS = {
    "ProtocolError": "ChunkedEncodingError",
    "DecodeError": "ContentDecodingError",
    "ReadTimeoutError": "ConnectionError",
    "SSLError": "SSLError",
}


def _iter_requests(response: Any) -> Generator[Chunk, None, None]:
    """Reads a response of requests as its bytes come. `iter_content(None)` waits for the end of an
    HTTP chunk, or of the body, and takes the memory for it."""
    raw = response.raw
    if not hasattr(raw, "read1"):  # urllib3 before 2.1
        yield from response.iter_content(1)
    elif raw.closed:  # requests has read it already, and kept it
        yield from response.iter_content(None)
    else:
        try:
            while chunk := raw.read1(_READ, decode_content=True):
                yield chunk
        except Exception as error:
            raise _as_requests_raises(error) from error


def _as_requests_raises(error: Exception) -> Exception:
    """Returns the error that `iter_content` would raise in the place of one of urllib3."""
    for kind in type(error).__mro__:
        name = _REQUESTS_ERRORS.get(kind.__name__, "")
        made = getattr(sys.modules.get("requests.exceptions"), name, None)
        if made is not None and kind.__module__ == "urllib3.exceptions":
            return made(error)  # type: ignore[no-any-return]
    return error


def async_source(source: Any) -> Any:
    """Returns what yields the bytes of `source`: of a response if it is one, else itself.

    Raises:
        TypeError: it is not for an event loop; the message says what is.
    """
    kind = _kind(source)
    if kind == "sync" or (kind is None and not hasattr(source, "__aiter__")):
        shown = type(source).__name__
        if kind == "sync" or hasattr(source, "__iter__"):
            raise TypeError(f"aiter_events() needs an async source; iter_events() reads a {shown}")
        raise TypeError(f"'source' must be a response or yield bytes, not {shown}")
    return source if kind is None else AsyncResponseBytes(source)


def sync_source(source: Any) -> Any:
    """Returns what yields the bytes of `source`: of a response if it is one, else itself.

    Raises:
        TypeError: it is for an event loop alone; the message says what is not.
    """
    kind = _kind(source)
    if kind == "async" or (kind is None and not hasattr(source, "__iter__")):
        shown = type(source).__name__
        if kind == "async" or hasattr(source, "__aiter__"):
            raise TypeError(f"iter_events() needs a sync source; aiter_events() reads a {shown}")
        raise TypeError(f"'source' must be a response or yield bytes, not {shown}")
    return source if kind is None else ResponseBytes(source)


def _kind(source: Any) -> str | None:
    """Returns "async", "sync" or "both" for a response, None for anything else."""
    if not hasattr(source, "headers"):
        return None
    if hasattr(source, "aiter_bytes") and hasattr(source, "iter_bytes"):  # httpx2, httpx
        stream = getattr(source, "stream", None)
        if hasattr(stream, "__aiter__"):
            return "both" if hasattr(stream, "__iter__") else "async"
        return "sync"
    if hasattr(source, "iter_bytes") and hasattr(source, "status_code"):  # sserpent.testing
        return "sync"
    if hasattr(source, "iter_content") and hasattr(source, "raw"):  # requests
        return "sync"
    # Not asked of a response of requests, which would read its whole body.
    if hasattr(getattr(source, "content", None), "iter_any"):  # aiohttp
        return "async"
    return None


def checked_chunk(source: Any, chunk: Any) -> Chunk:
    """Returns what a source has yielded, if it is bytes.

    Raises:
        TypeError: it is something else; the message names the source, and says what yields bytes.
    """
    if isinstance(chunk, (bytes, bytearray, memoryview)):
        return chunk  # pyright: ignore[reportUnknownVariableType]
    name = getattr(source, "__qualname__", None) or type(source).__name__
    raise TypeError(
        f"the source, {name}, must yield bytes, not {type(chunk).__name__}: hand over the response"
        " itself, or response.aiter_bytes(), iter_bytes() or content.iter_any(), not its lines or"
        " its text"
    )
