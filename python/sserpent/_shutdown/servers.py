"""Finds the server behind a stream: is it about to exit, and where is a request's connection?

uvicorn and hypercorn know of their exit some time before they tell the application, and uvicorn
tells it only after all responses have ended. Nothing is patched: their objects are found where
they are, in the local variables of the coroutines that run on the event loop. What is not found
is not asked.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import FrameType
from typing import Any
from weakref import WeakValueDictionary, ref

from starlette.types import Scope

from .._runtime.log import logger
from .._runtime.loops import running_frames
from .connections import (
    AsyncioConnection,
    Candidate,
    Connection,
    HypercornConnection,
    HypercornHttp2Stream,
    TrioConnection,
    UvicornHttp2Stream,
)

Address = tuple[Any, ...]


class Server(ABC):
    """A running server. It is referred to weakly: a server that has ended is freed."""

    def __init__(self, owner: object) -> None:
        self._owner = ref(owner)

    @property
    def owner(self) -> Any:
        """The server's own object, None once it is freed."""
        return self._owner()

    @property
    def addresses(self) -> set[Address]:
        """Where it listens, as far as is known."""
        return set()

    @abstractmethod
    def is_exiting(self) -> bool:
        """Returns whether the server shuts down, or has ended."""
        ...

    @abstractmethod
    def requests(self) -> Iterator[Candidate]:
        """Returns the requests that have no whole response yet, each with its connection."""


class Uvicorn(Server):
    """A server of uvicorn."""

    @property
    def addresses(self) -> set[Address]:
        names = [
            sock.getsockname() for each in self._listening() or () for sock in each.sockets or ()
        ]
        # A Unix socket's name is a path.
        return {tuple(name[:2]) for name in names if not isinstance(name, (str, bytes))}

    def is_exiting(self) -> bool:
        if self.owner is None or self.owner.should_exit:
            return True
        listening = self._listening()
        # `limit_max_requests` ends a server without `should_exit`.
        return listening is not None and not any(each.is_serving() for each in listening)

    def _listening(self) -> Any:
        return getattr(self.owner, "servers", None)

    def requests(self) -> Iterator[Candidate]:
        for protocol in list(self.owner.server_state.connections):
            cycle = getattr(protocol, "cycle", None)
            if cycle is not None:
                yield Candidate(cycle.scope, AsyncioConnection(protocol.transport))
            for stream in list(getattr(protocol, "cycles", {}).values()):
                yield Candidate(stream.scope, UvicornHttp2Stream(stream))


class Hypercorn(Server):
    """A worker of hypercorn's. Its process is told by its parent, without a signal."""

    def is_exiting(self) -> bool:
        return self.owner is None or bool(self.owner.terminated.is_set())

    def requests(self) -> Iterator[Candidate]:
        for frame in running_frames():
            # The coroutine that calls the application, one for each request.
            if str(frame.f_globals.get("__name__")).endswith(".task_group"):
                values = frame.f_locals
                stream = getattr(values.get("send"), "__self__", None)
                if getattr(stream, "context", None) is self.owner:
                    yield from self._candidates(values["scope"], stream)

    @staticmethod
    def _candidates(scope: Scope, stream: Any) -> Iterator[Candidate]:
        protocol = stream.send.__self__
        server = protocol.send.__self__
        connection: Connection | None = None
        if hasattr(server, "writer"):
            connection = AsyncioConnection(server.writer.transport)
        elif hasattr(server, "stream"):
            connection = TrioConnection(server.stream)
        if hasattr(protocol, "stream_buffers"):
            yield Candidate(scope, HypercornHttp2Stream(protocol, stream, connection))
        elif connection is not None:
            yield Candidate(scope, HypercornConnection(connection, stream))


# Those that need not be looked for, by their addresses, which are theirs alone.
_announced: WeakValueDictionary[Address, Server] = WeakValueDictionary()


def announce(server: Server, address: Address) -> None:
    """Makes a server known, for as long as it lives, that is none of those which this module looks
    for."""
    _announced[address] = server


def server_of(address: Address) -> Server | None:
    """Returns the server that has announced itself for `address`, or else the one on this event
    loop that listens there, or the only one there is."""
    announced = _announced.get(address)
    if announced is not None:
        return announced
    try:
        found = _servers()
        if len(found) == 1:
            return found[0]
        return _listening_at(address, found)
    except Exception:
        # A server that is built otherwise than this module knows must not cost a stream.
        logger.exception("Looking for the server of a stream failed")
        return None


def _listening_at(address: Address, servers: list[Server]) -> Server | None:
    for server in servers:
        if address in server.addresses:
            return server
    for server in servers:
        # A server that listens at every address has that of none of its connections.
        if address[1:] in {each[1:] for each in server.addresses}:
            return server
    return None


def _servers() -> list[Server]:
    if not {"uvicorn.server", "hypercorn.config"} & sys.modules.keys():
        return []
    found: dict[int, Server] = {}
    for frame in running_frames():
        server = _server_in(frame)
        if server is not None:
            found[id(server.owner)] = server
    return list(found.values())


def _server_in(frame: FrameType) -> Server | None:
    module = str(frame.f_globals.get("__name__"))
    if module == "uvicorn.server":
        owner = frame.f_locals.get("self")
        if hasattr(owner, "should_exit") and hasattr(owner, "server_state"):
            return Uvicorn(owner)
    elif module.startswith("hypercorn.") and module.endswith(".run"):
        context = frame.f_locals.get("context")
        if hasattr(getattr(context, "terminated", None), "is_set"):
            return Hypercorn(context)
    return None
