"""The connection of one request, closed or aborted where the server keeps it.

ASGI has no message for "this response was cut off", and none for "drop this client". But each
server keeps something that can do both: a transport, a stream of Trio's, a socket.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from starlette.types import Scope

# https://man7.org/linux/man-pages/man7/socket.7.html, SO_LINGER: switched on, for no time at all.
_NO_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

_DESCRIPTORS = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"


class Connection(Protocol):
    def close(self) -> None:
        """Closes it as soon as what is written has gone out."""

    def abort(self) -> None:
        """Drops it at once, with what has not gone out."""


class AsyncioConnection:
    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            _reset_when_closed(sock)
        self._transport.abort()


class TrioConnection:
    """Trio's streams hold nothing back, but a `send_all` that still waits is cut off."""

    def __init__(self, stream: Any) -> None:
        self._socket = getattr(stream, "transport_stream", stream).socket

    def close(self) -> None:
        self._socket.close()

    def abort(self) -> None:
        _reset_when_closed(self._socket)
        self._socket.close()


class UvicornHttp2Stream:
    """One of the requests that share an HTTP/2 connection. The others go on."""

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle

    def close(self) -> None:
        self._cycle.abort_stream()

    def abort(self) -> None:
        self._cycle.abort_stream()


class Candidate(NamedTuple):
    """A connection, and what its server knows of the request on it."""

    scope: Scope
    connection: Connection


def connection_of(scope: Scope, candidates: Iterable[Candidate]) -> Connection | None:
    """Returns the connection on which the request of `scope` came. Where a middleware has copied
    the scope, the list of headers is still the server's. Where it has copied both, the client's
    address decides, if no other connection has the same."""
    candidates = list(candidates)
    for candidate in candidates:
        if candidate.scope is scope:
            return candidate.connection
    for candidate in candidates:
        if candidate.scope["headers"] is scope["headers"]:
            return candidate.connection
    client = scope.get("client")
    found = [each.connection for each in candidates if client and each.scope["client"] == client]
    return found[0] if len(found) == 1 else None


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


def _reset_when_closed(sock: Any) -> None:
    """Has a reset end the connection. Without one the system keeps what the client has not read
    in its memory, for minutes."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
