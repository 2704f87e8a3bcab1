"""The connection of one request, closed or aborted where the server keeps it.

ASGI has no message for "this response was cut off", and none for "drop this client". But each
server keeps something that can do both: a transport, a stream of Trio's, a socket.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import anyio
from starlette.types import Receive, Scope

from .._runtime.log import logger

# https://man7.org/linux/man-pages/man7/socket.7.html, SO_LINGER: switched on, for no time at all.
_NO_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

# https://www.rfc-editor.org/rfc/rfc9113.html#name-error-codes
_CANCEL = 8

#: Bytes of a stream that may wait for the client's window before a `send` waits too. As much as
#: asyncio's transports take.
MAX_UNSENT = 65_536

# Seconds between two looks at what is unsent.
_LONGEST_PAUSE = 0.25

# Seconds until a stream that is cut is reset though not all of it is sent.
_LONGEST_CLOSE = 30.0

# Seconds that a reset may wait for the connection to take it. Another stream may be sending.
_LONGEST_RESET = 1.0

# Under these names servers keep a transport (uvicorn) or a stream's writer (hypercorn).
_TRANSPORTS = "transport", "writer"

_DESCRIPTORS = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"


class Connection(Protocol):
    """One connection of a server, or one stream of it over HTTP/2."""

    def close(self) -> None:
        """Closes it as soon as what is written has gone out."""

    def abort(self) -> None:
        """Drops it at once, with what has not gone out."""

    def is_closed(self) -> bool:
        """Returns whether it is closed, by its client or by its server, and nothing that was
        written is still to go out."""
        ...

    def unread(self) -> int:
        """Returns how many bytes that were written the client's system has not taken."""
        ...


class AsyncioConnection:
    """A connection that is a transport of asyncio."""

    __slots__ = ("_transport",)

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            _reset_when_closed(sock)
        self._transport.abort()

    def is_closed(self) -> bool:
        transport = self._transport
        return bool(transport.is_closing() and not transport.get_write_buffer_size())

    def unread(self) -> int:
        sock = self._transport.get_extra_info("socket")
        return int(self._transport.get_write_buffer_size()) + _not_acknowledged(sock)


class TrioConnection:
    """Trio's streams hold nothing back, but a `send_all` that still waits is cut off."""

    def __init__(self, stream: Any) -> None:
        self._socket = getattr(stream, "transport_stream", stream).socket

    def close(self) -> None:
        self._socket.close()

    def abort(self) -> None:
        _reset_when_closed(self._socket)
        self._socket.close()

    def is_closed(self) -> bool:
        return bool(self._socket.fileno() < 0)

    def unread(self) -> int:
        return _not_acknowledged(self._socket)


class HypercornConnection:
    """A connection of HTTP/1, which hypercorn does not close before its request has ended, whether
    the client has left or not.

    Args:
        connection: The connection.
        stream: The object of the request.
    """

    def __init__(self, connection: Connection, stream: Any) -> None:
        self.close = connection.close
        self.abort = connection.abort
        self.unread = connection.unread
        self._stream = stream

    def is_closed(self) -> bool:
        return bool(self._stream.closed)


class Http2Stream(Protocol):
    """One of the requests that share an HTTP/2 connection. Their server's `send` takes all that it
    is given, whether the client opens a window for it or not."""

    def unread(self) -> int:
        """Returns how many bytes wait for the client's window, 0 once it is closed."""
        ...


async def drained(stream: Http2Stream, down_to: int) -> None:
    """Waits until no more bytes than that wait for the client's window. Nothing tells when, so this
    looks, ever less often: late by as much as it has taken at most."""
    pause = 0.001
    while stream.unread() > down_to:
        await anyio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


class UvicornHttp2Stream:
    """A stream of uvicorn over HTTP/2."""

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle

    def close(self) -> None:
        if self.unread():
            asyncio.get_running_loop().call_later(_LONGEST_PAUSE, self.close)
        else:
            self.abort()

    def abort(self) -> None:
        if not self._cycle.disconnected:
            self._cycle.abort_stream()
        # It is not told to `receive`, which would go on waiting.
        self._cycle.message_event.set()

    def is_closed(self) -> bool:
        return bool(self._cycle.disconnected)

    def unread(self) -> int:
        return 0 if self._cycle.disconnected else self._cycle.stream.pending_bytes or 0


class HypercornHttp2Stream:
    """Is reset by a task among those of its connection.

    Args:
        protocol: The HTTP/2 protocol of its connection.
        stream: The object of the request.
        connection: The whole connection.
    """

    def __init__(self, protocol: Any, stream: Any, connection: Connection | None) -> None:
        self._protocol = protocol
        self._stream = stream
        self._connection = connection

    def close(self) -> None:
        self._protocol.task_group.spawn(self._reset_when_sent)

    def abort(self) -> None:
        if self.is_closed():
            return
        if self._connection is not None and self._is_alone():
            self._connection.abort()
        else:
            self._protocol.task_group.spawn(self._reset_or_abort)

    def is_closed(self) -> bool:
        return self._protocol.streams.get(self._stream.stream_id) is not self._stream

    def _is_alone(self) -> bool:
        return len(self._protocol.streams) == 1

    async def _reset_or_abort(self) -> None:
        """Drops the whole connection if its client reads nothing of it: then no reset arrives."""
        with anyio.move_on_after(_LONGEST_RESET) as resetting:
            await self._reset()
        if resetting.cancelled_caught and self._connection is not None:
            self._connection.abort()

    async def _reset_when_sent(self) -> None:
        with anyio.move_on_after(_LONGEST_CLOSE):
            await drained(self, 0)
        await self._reset()

    async def _reset(self) -> None:
        number = self._stream.stream_id
        try:
            self._protocol.connection.reset_stream(number, _CANCEL)
            # As after a reset by the client: first `receive` is told, then what is unsent goes.
            await self._protocol._close_stream(number)
            await self._protocol._window_updated(number)
            await self._protocol._flush()
        except Exception:
            # It is closed already. What is raised here would end the connection's other streams.
            logger.debug("An HTTP/2 stream could not be reset", exc_info=True)

    def unread(self) -> int:
        buffer = self._protocol.stream_buffers.get(self._stream.stream_id)
        return 0 if buffer is None or self._protocol.closed else len(buffer.buffer)


class Candidate(NamedTuple):
    """A connection, and what its server knows of the request on it."""

    scope: Scope
    connection: Connection


class OpenRequests:
    """The requests of a server at one moment. At a shutdown each stream looks for its connection:
    one look at the server serves them all.

    Args:
        candidates: What the server has.
    """

    def __init__(self, candidates: Iterable[Candidate]) -> None:
        self._by_headers: dict[int, Candidate] = {}
        self._by_client: defaultdict[Any, list[Connection]] = defaultdict(list)
        for each in candidates:
            self._by_headers[id(each.scope["headers"])] = each
            self._by_client[_client_of(each.scope)].append(each.connection)

    def connection_of(self, scope: Scope) -> Connection | None:
        """Returns the connection on which the request of `scope` came. Where a middleware has
        copied the scope, the list of headers is still the server's. Where it has copied both, the
        client's address decides, if no other connection has the same."""
        candidate = self._by_headers.get(id(scope["headers"]))
        if candidate is not None and candidate.scope["headers"] is scope["headers"]:
            return candidate.connection
        client = _client_of(scope)
        found = self._by_client[client] if client else []
        return found[0] if len(found) == 1 else None


def connection_behind(receive: Receive) -> Connection | None:
    """Returns the connection that an ASGI `receive` belongs to, if it is uvicorn's own."""
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    return AsyncioConnection(transport) if hasattr(transport, "is_closing") else None


def _client_of(scope: Scope) -> tuple[Any, ...]:
    return tuple(scope.get("client") or ())


def came_from_a_closed_connection(error: BaseException) -> bool:
    """Returns whether an error was raised by a server whose connection is closed: by the state of
    the transport that one of the functions in its traceback has, whatever the error is. Never
    raises."""
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        # The variables of our own functions have the error: to look at them makes a circle.
        if not str(frame.f_globals.get("__name__")).startswith("sserpent."):
            owner = frame.f_locals.get("self")
            if any(_is_closing(owner, name) for name in _TRANSPORTS):
                return True
        trace = trace.tb_next
    return False


def _is_closing(owner: Any, name: str) -> bool:
    try:
        return getattr(owner, name).is_closing() is True
    except Exception:  # it has none, or one of another kind
        return False


def abort_socket(scope: Scope) -> bool:
    """Drops the connection of a server that is not written in Python, and returns whether it was
    found: by its two ends, among the sockets of this process. Windows does not list those, and a
    Unix socket's end has no address."""
    sock = _find_socket(scope)
    if sock is None:
        return False
    with sock:
        _reset_when_closed(sock)
        # The server reads the end of the connection, and closes its own descriptor.
        sock.shutdown(socket.SHUT_RDWR)
    return True


def _find_socket(scope: Scope) -> socket.socket | None:
    """Returns a duplicate of the server's socket: the server may close its own meanwhile."""
    client, server = scope.get("client"), scope.get("server")
    if not (client and server and server[1] and os.path.isdir(_DESCRIPTORS)):
        return None
    # Granian's ports are strings.
    ends = (client[0], int(client[1])), int(server[1])
    for name in os.listdir(_DESCRIPTORS):
        descriptor = int(name)
        if _ends(descriptor) == ends:
            try:
                duplicate = socket.socket(fileno=os.dup(descriptor))
            except OSError:
                continue  # closed meanwhile
            if _ends(duplicate.fileno()) == ends:
                return duplicate
            duplicate.close()
    return None


def _ends(descriptor: int) -> Any:
    """Returns the client's host and port and the server's port, or None for anything else."""
    # The family only says how large an address can be: one that is named costs no further calls.
    try:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, fileno=descriptor)
    except OSError:
        return None
    try:
        peer, own = sock.getpeername(), sock.getsockname()
        return tuple(peer[:2]), own[1]
    except (OSError, IndexError, TypeError, ValueError):
        return None
    finally:
        sock.detach()


def _not_acknowledged(sock: Any) -> int:
    """Returns how many bytes of a socket the other system has not acknowledged; 0 where the system
    does not say."""
    if sys.platform == "linux":
        from fcntl import ioctl
        from termios import TIOCOUTQ

        # https://man7.org/linux/man-pages/man7/tcp.7.html, SIOCOUTQ, by its other name.
        answer: bytes = ioctl(sock.fileno(), TIOCOUTQ, bytes(4))
        return int.from_bytes(answer, sys.byteorder)
    return 0


def _reset_when_closed(sock: Any) -> None:
    """Has a reset end the connection. Without one the system keeps what the client has not read
    in its memory, for minutes."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
