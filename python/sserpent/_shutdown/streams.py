"""Tells open streams that their server shuts down, and reaches a stream's connection.

No server tells its applications in time: uvicorn, granian and hypercorn wait for open responses
first, and send `lifespan.shutdown` after that. So this package looks for itself, without patching
anything, in two ways:

- `signals`: while streams are open, SIGINT and SIGTERM wake them on their way to the server.
- The server itself, where `servers` finds it. What it says goes before what a signal seems to
  mean. It is asked after each signal, and by one timer for each event loop with open streams,
  because some servers are stopped without a signal.

Streams are kept by server, so that one server's shutdown does not end another's streams. Nothing
here holds an event loop or a server that has ended: both are referred to weakly, and so is the
event that a generator waits for, because it is bound to its event loop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from time import monotonic
from typing import Any, Protocol
from weakref import WeakKeyDictionary, ref

import anyio
from starlette.types import Message, Receive, Scope, Send

from .._runtime.log import logger
from .._runtime.loops import call_every, call_soon, current_token
from . import signals
from .connections import (
    MAX_UNSENT,
    Connection,
    Http2Stream,
    HypercornHttp2Stream,
    OpenRequests,
    UvicornHttp2Stream,
    abort_socket,
    connection_behind,
    drained,
)
from .servers import Address, Server, server_of

# uvicorn itself looks at `should_exit` ten times a second.
_POLL_INTERVAL = 0.25

# Every so many looks at the servers, the connections of their streams are looked at too.
_LOOKS_BETWEEN = 40

# Seconds until a server that was not found is looked for again: that goes through all tasks.
_LOOK_AGAIN = 1.0


class Stream(Protocol):
    """A stream that is told when its server shuts down."""

    def shut_down(self) -> None:
        """Called once, in the event loop, when the server begins to shut down. Must not raise."""


class Client(Protocol):
    """A stream that is told when its connection is closed."""

    def client_left(self) -> None:
        """Called in the event loop, maybe more than once, and maybe long after `receive` has said
        it. Must not raise."""


class ShutdownEvent:
    """An event that is set when a server begins to shut down. `shutdown_event()` returns it."""

    __slots__ = ("__weakref__", "_event")

    def __init__(self) -> None:
        self._event = anyio.Event()

    def is_set(self) -> bool:
        """Returns whether the shutdown has begun."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Waits until the shutdown begins."""
        await self._event.wait()


class ServerStreams:
    """The open streams of one server on one event loop.

    Attributes:
        server: The server, None if it is not known.
        open: The streams.
        ending: Whether the server has begun to shut down.
    """

    def __init__(self, server: Server | None) -> None:
        self.server = server
        self.open: set[Stream] = set()
        self.ending = False
        self._is_signalled = False
        self._event: ref[ShutdownEvent] | None = None
        self._looked_at = monotonic()
        # For this turn of the event loop, and whether one may have come since.
        self._requests: OpenRequests | None = None
        self._may_lack_some = False
        self._connections: dict[Client, Connection] = {}
        self._not_found: dict[Client, Scope] = {}  # not looked for yet

    @property
    def event(self) -> ShutdownEvent:
        """Returns the event that is set when `ending` becomes true."""
        with _lock:  # a generator's thread may ask too
            event = self._awaited()
            if event is None:
                event = ShutdownEvent()
                self._event = ref(event)
                if self.ending:
                    event._event.set()
            return event

    def _awaited(self) -> ShutdownEvent | None:
        return None if self._event is None else self._event()

    def can_close(self, scope: Scope) -> bool:
        """Returns whether `close_connection` would find the connection of a request. Never raises.

        Args:
            scope: The request's ASGI scope, or a copy of it.
        """
        return self._connection_of(scope) is not None

    def close_connection(self, scope: Scope) -> bool:
        """Closes the connection of a request as soon as what is written has gone out, so that its
        response is cut off, not ended. Never raises.

        Args:
            scope: The request's ASGI scope, or a copy of it.

        Returns:
            Whether the connection was found. uvicorn's is, also an HTTP/2 stream of its own.
            hypercorn's is, or the HTTP/2 stream's, but none over QUIC; on Trio a `send` that still
            waits is cut off. granian's is not: there, and on hypercorn without HTTP/2, an
            application that returns without the end of the body has the same effect.
        """
        try:
            connection = self._connection_of(scope)
            if connection is not None:
                connection.close()
        except Exception:
            logger.debug("The connection of a stream could not be closed", exc_info=True)
            return False
        return connection is not None

    def cut_off(self, scope: Scope) -> None:
        """Has the client see that a response ends here which has failed. Servers do so by
        themselves, all but hypercorn over HTTP/2, which leaves it open. Never raises.

        Args:
            scope: The request's ASGI scope, or a copy of it.
        """
        if scope.get("http_version") != "2":
            return
        try:
            connection = self._connection_of(scope)
            if isinstance(connection, HypercornHttp2Stream):
                connection.close()
        except Exception:
            logger.debug("A stream that has failed could not be cut off", exc_info=True)

    def abort_connection(self, scope: Scope) -> bool:
        """Drops the connection of a request at once, with the bytes that have not gone out: its
        client gets a reset. Never raises.

        Args:
            scope: The request's ASGI scope, or a copy of it.

        Returns:
            Whether the connection was found: as in `close_connection`, and elsewhere (granian)
            by the client's address among the sockets of this process, where the system lists
            them (not on Windows) and the scope has the client's true address and port.
        """
        return self.aborter(scope)()

    def aborter(self, scope: Scope, only_at_exit: bool = False) -> Callable[[], bool]:
        """Finds the connection of a request, and returns what drops it later, as
        `abort_connection` does now: its server may know no more of the request by then.

        Args:
            scope: The request's ASGI scope, or a copy of it.
            only_at_exit: Whether the connection is left alone if the server goes on by then, after
                `end_streams`. The client may have sent another request on it.
        """
        connection = self._connection_of(scope)
        is_shared = self.server is not None and scope.get("http_version") == "2"

        def abort() -> bool:
            try:
                if only_at_exit and not self._is_exiting():
                    return False
                if connection is not None:
                    connection.abort()
                    return True
                return not is_shared and abort_socket(scope)
            except Exception:
                logger.debug("The connection of a stream could not be aborted", exc_info=True)
                return False

        return abort

    def tells_send_first(self, scope: Scope) -> bool:
        """Returns whether the server tells a `send` before `receive` that a connection is gone:
        granian does over HTTP/2. Never raises.

        Args:
            scope: The request's ASGI scope, or a copy of it.
        """
        return scope.get("http_version") == "2" and self.server is None

    def watch_connection(self, scope: Scope) -> Callable[[], bool]:
        """Finds the connection of a request, and returns what says later whether it is closed.
        Where it is not found (granian's never is), that says no.

        Args:
            scope: The request's ASGI scope, or a copy of it.
        """
        self._may_lack_some = True
        connection = self._connection_of(scope)
        return lambda: connection is not None and _is_closed(connection)

    def watch(self, client: Client, scope: Scope, receive: Receive) -> None:
        """Has a stream told when its connection is closed, where the server knows: within 10 s, or
        within 0.25 s while it shuts down. `receive` tells sooner, but some never do: that of a
        middleware, and uvicorn's where the client has sent another request behind this one.

        Args:
            client: The stream; until `forget`.
            scope: The request's ASGI scope, or a copy of it.
            receive: The ASGI callable.
        """
        self._may_lack_some = True
        is_shared = scope.get("http_version") == "2"
        connection = None if is_shared else connection_behind(receive)
        if connection is not None:
            self._connections[client] = connection
        elif self.server is not None:
            self._not_found[client] = scope

    def forget(self, client: Client) -> None:
        """Ends what `watch` has begun."""
        self._not_found.pop(client, None)
        self._connections.pop(client, None)

    def unread(self, client: Client) -> int | None:
        """Returns how many bytes that were sent the client of a stream has not read, None where
        nobody knows. Never raises.

        Args:
            client: As for `watch`.
        """
        if client in self._not_found:
            self.find_connections()
        connection = self._connections.get(client)
        try:
            return None if connection is None else connection.unread()
        except Exception:
            logger.debug("The connection of a stream could not be asked", exc_info=True)
            return None

    def find_connections(self) -> None:
        """Finds the connections of new streams: a server forgets those that are closed. Never
        raises."""
        if not self._not_found:
            return
        scopes, self._not_found = self._not_found, {}
        for client, scope in scopes.items():
            connection = self._connection_of(scope)
            if connection is not None:
                self._connections[client] = connection

    def look_for_closed_connections(self) -> None:
        """Tells the streams whose clients have left. Never raises."""
        for client, connection in list(self._connections.items()):
            if _is_closed(connection):
                client.client_left()

    def send_of(self, scope: Scope, send: Send) -> Send:
        """Returns `send`, or, where that takes all over HTTP/2 that a client does not read, one
        that waits for the client.

        Args:
            scope: The request's ASGI scope, or a copy of it.
            send: The ASGI callable.
        """
        if scope.get("http_version") != "2":
            return send
        stream = self._connection_of(scope)
        if isinstance(stream, (UvicornHttp2Stream, HypercornHttp2Stream)):
            return _waiting(send, stream)
        return send

    def _connection_of(self, scope: Scope) -> Connection | None:
        """Returns the connection of a request, if it is found. Never raises, whatever a new release
        of the server has changed."""
        if self.server is None or self.server.owner is None:
            return None
        try:
            known = self._requests
            connection = None if known is None else known.connection_of(scope)
            # Where many are not found, to look at all requests for each would take minutes.
            if known is None or (connection is None and self._may_lack_some):
                self._requests = OpenRequests(self.server.requests())
                self._may_lack_some = False
                if known is None:
                    call_soon(current_token(), self._forget_requests)
                connection = self._requests.connection_of(scope)
            return connection
        except Exception:
            logger.debug("The connection of a stream was not found", exc_info=True)
            return None

    def _forget_requests(self) -> None:
        self._requests = None

    def is_stale(self) -> bool:
        """Returns whether it is worth another look for the server."""
        if self.open:
            return False
        if self.server is not None:
            # Another server may listen at the same address by now.
            return self.ending or self._is_exiting()
        used = self.ending or self._awaited() is not None
        return not used and monotonic() - self._looked_at > _LOOK_AGAIN

    def look(self, signalled: bool) -> None:
        """Looks whether the shutdown has begun, and tells the streams.

        Args:
            signalled: Whether a signal has come that ends servers.
        """
        self._is_signalled = self._is_signalled or signalled
        if not self.ending and self._is_exiting():
            self.begin_to_end()

    def _is_exiting(self) -> bool:
        if self.server is not None:
            try:
                return self.server.is_exiting()
            except Exception:  # a release that is built otherwise must not cost a stream
                logger.debug("The server of a stream could not be asked", exc_info=True)
        return self._is_signalled

    def begin_to_end(self) -> None:
        """Tells the streams that their end has come."""
        with _lock:
            self.ending = True
            event = self._awaited()
        if event is not None:
            event._event.set()
        for stream in list(self.open):
            _tell(stream)


def _tell(stream: Stream) -> None:
    try:
        stream.shut_down()
    except Exception:  # the others are to end all the same
        logger.exception("A stream could not be told that its server shuts down")


def _is_closed(connection: Connection) -> bool:
    try:
        return connection.is_closed()
    except Exception:
        logger.debug("The connection of a stream could not be asked", exc_info=True)
        return False


def _waiting(send: Send, stream: Http2Stream) -> Send:
    async def send_and_wait(message: Message) -> None:
        await send(message)
        if message.get("more_body"):
            await drained(stream, MAX_UNSENT)

    return send_and_wait


class _LoopStreams:
    """The open streams of one event loop, by server."""

    def __init__(self, token: Any) -> None:
        self._token = ref(token)
        self._by_address: dict[Address, ServerStreams] = {}
        self._end_polling: Callable[[], object] | None = None
        self._is_to_end = False
        # Streams that `end_streams` has ended or is about to end. New ones go into other groups.
        self._apart: set[ServerStreams] = set()
        self._looks = 0

    def of_server(self, scope: Scope | None) -> ServerStreams:
        address = tuple((scope or {}).get("server") or ())
        streams = self._by_address.get(address)
        if streams is None or streams.is_stale():
            server = server_of(address)
            streams = self._known(server) or ServerStreams(server)
            self._by_address[address] = streams
        return streams

    def _known(self, server: Server | None) -> ServerStreams | None:
        for streams in self._by_address.values():
            if server and streams.server and streams.server.owner is server.owner:
                return streams
        return None

    def is_alive(self) -> bool:
        """Returns whether the event loop may run again. Its open streams keep it, and so this
        does."""
        token = self._token()
        is_closed: Callable[[], bool] = getattr(token, "is_closed", bool)
        return token is not None and not is_closed()

    def _servers(self) -> Iterable[ServerStreams]:
        """Returns each server once: one that listens at several addresses is there for each."""
        return dict.fromkeys((*self._by_address.values(), *self._apart))

    def are_open(self) -> bool:
        return any(streams.open for streams in self._servers())

    def count_open(self) -> int:
        return sum(len(streams.open) for streams in self._servers())

    def open(self) -> list[Stream]:
        return [stream for streams in self._servers() for stream in streams.open]

    def begin_to_look(self) -> None:
        if self._end_polling is None and any(s.server for s in self._by_address.values()):
            self._end_polling = call_every(_POLL_INTERVAL, self._poll)

    def stop_looking(self) -> None:
        self._by_address = {
            address: streams
            for address, streams in self._by_address.items()
            if not streams.is_stale()
        }
        self._apart.clear()
        if self._end_polling is not None:
            self._end_polling()
            self._end_polling = None

    def end_open(self) -> None:
        """Has the streams end that are open now. May be called in any thread."""
        token = self._token()
        if token is not None:
            self._is_to_end = True
            call_soon(token, self._end)

    def set_apart(self) -> None:
        """Takes the streams that are to end away from those that open from now on."""
        if not self._is_to_end:
            return
        self._is_to_end = False
        groups = {each for each in self._by_address.values() if each.open and not each.ending}
        later = {each: ServerStreams(each.server) for each in groups}
        self._by_address = {
            address: later.get(streams, streams) for address, streams in self._by_address.items()
        }
        self._apart |= groups

    def _end(self) -> None:
        self.set_apart()
        self._apart = {each for each in self._apart if each.open}
        for streams in self._apart:
            if not streams.ending:
                streams.begin_to_end()

    def notice_signal(self) -> None:
        """Called from a signal handler: only the loop's own thread may touch its streams."""
        token = self._token()
        if token is not None:
            call_soon(token, self._look_after_signal)

    def _look_after_signal(self) -> None:
        self._look(signalled=True)

    def _poll(self) -> None:
        self._look()
        self._looks += 1
        for streams in self._servers():
            streams.find_connections()
            if streams.ending or self._looks % _LOOKS_BETWEEN == 0:
                streams.look_for_closed_connections()

    def _look(self, signalled: bool = False) -> None:
        for streams in self._servers():
            streams.look(signalled)


# Reentrant: a finalizer that runs while it is held may come back.
_lock = threading.RLock()
_by_loop: WeakKeyDictionary[Any, _LoopStreams] = WeakKeyDictionary()

# The event loops with open streams. Replaced, never changed: a signal handler reads it, which may
# have interrupted the holder of the lock.
_busy: tuple[_LoopStreams, ...] = ()

# The streams of the server whose stream the running code belongs to.
current: ContextVar[ServerStreams] = ContextVar("sserpent.shutdown.current")


def shutdown_event() -> ShutdownEvent:
    """Returns the event that is set when the server of the current stream begins to shut down.

    A generator can wait for it, or look at it, and say goodbye within `shutdown_grace` seconds:

        while not sserpent.shutdown_event().is_set():
            ...
        yield ServerSentEvent(event="goodbye")

    Returns:
        An object with `is_set()` and `await wait()`.

    Raises:
        RuntimeError: there is no event loop in which to wait.
    """
    streams = current.get(None)
    if streams is None:
        streams = _of_this_loop().of_server(None)
    return streams.event


def end_streams() -> None:
    """Ends the streams that are open now, runs included, each within its `shutdown_grace`, as a
    shutdown of their server does.

    It is for a server that is embedded in a program, gets no signal and waits for its open
    responses. `shutdown_event()` is set for the streams that end. Streams that open later are not
    affected: have the server accept no more connections first.

    It may be called in any thread, and does nothing where no stream is open. It does not wait for
    the streams to end.
    """
    for loop_streams in _busy:
        loop_streams.end_open()


def opened(stream: Stream, scope: Scope) -> ServerStreams:
    """Registers a stream that opens; to be called in its event loop, and followed by `closed`.

    If the server is shutting down already, `ending` is true in what is returned, and the stream
    is not told by `shut_down`.
    """
    global _busy
    loop_streams = _of_this_loop()
    loop_streams.set_apart()
    streams = loop_streams.of_server(scope)
    streams.look(signalled=False)
    streams.open.add(stream)
    loop_streams.begin_to_look()
    if loop_streams not in _busy:
        with _lock:
            # An event loop that was stopped while streams were open has told of no end.
            _busy = (*(each for each in _busy if each.is_alive()), loop_streams)
    signals.listen(_notice_signal)
    return streams


def closed(stream: Stream, streams: ServerStreams) -> None:
    """Registers that a stream has closed; to be called in its event loop."""
    global _busy
    streams.open.discard(stream)
    if streams.open:
        return
    loop_streams = _of_this_loop()
    if loop_streams.are_open():
        return
    loop_streams.stop_looking()
    with _lock:
        _busy = tuple(each for each in _busy if each is not loop_streams)
    if not _busy:
        signals.stop_listening()


def count_open() -> int:
    """Returns how many streams of this event loop are open, runs included."""
    return _of_this_loop().count_open()


def open_streams() -> list[Stream]:
    """Returns the streams of this event loop that are open, runs included."""
    return _of_this_loop().open()


def watch_connection(scope: Scope) -> Callable[[], bool]:
    """Returns what says whether the connection of a request is closed; to be called in its event
    loop."""
    return _of_this_loop().of_server(scope).watch_connection(scope)


def is_ending(scope: Scope) -> bool:
    """Returns whether the server of a request shuts down; to be called in its event loop."""
    streams = _of_this_loop().of_server(scope)
    streams.look(signalled=False)
    return streams.ending


def can_close(scope: Scope) -> bool:
    """Returns whether the connection of a request can be closed; to be called in its event loop."""
    return _of_this_loop().of_server(scope).can_close(scope)


def look() -> None:
    """Looks now whether a server of this event loop shuts down, and tells its streams."""
    _of_this_loop()._look()


def _notice_signal() -> None:
    for loop_streams in _busy:
        loop_streams.notice_signal()


def _of_this_loop() -> _LoopStreams:
    token = current_token()
    with _lock:
        loop_streams = _by_loop.get(token)
        if loop_streams is None:
            loop_streams = _by_loop[token] = _LoopStreams(token)
    return loop_streams
