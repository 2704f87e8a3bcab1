"""Tells open streams that their server shuts down.

No server tells its applications in time: uvicorn, granian and hypercorn wait for open responses
first, and send `lifespan.shutdown` after that. So this module looks for itself, without patching
anything, in two ways:

- Signals. While streams are open, SIGINT and SIGTERM go through a handler that wakes them and
  then calls the handler that was there. It is put in place only on top of a handler that an event
  loop or a server has set, and taken away with the last stream. An application with a handler of
  its own stays in charge: nothing is put on top of that.
- The server itself, where `servers` finds it. What it says goes before what a signal seems to
  mean. It is asked after each signal, and by one timer for each event loop with open streams,
  because some servers are stopped without a signal.

Streams are grouped by server, so that one server's shutdown does not end another's streams.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary, ref

import anyio
from starlette.types import Scope

from .servers import Server, on_asyncio, server_of

if TYPE_CHECKING:
    import signal as _signal
else:
    # `signal` looks each handler up in an enum, which fails with a message that holds the whole
    # handler's repr: that alone took a sixth of the time to a stream's first event.
    import _signal

# uvicorn itself looks at `should_exit` ten times a second.
_POLL_INTERVAL = 0.25

# Seconds until a server that was not found is looked for again: that goes through all tasks.
_LOOK_AGAIN = 1.0

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Whose signal handlers mean "the server ends when this signal comes".
_SERVERS = frozenset(
    {"asyncio", "uvloop", "winloop", "trio", "twisted"}
    | {"uvicorn", "gunicorn", "hypercorn", "granian", "daphne"}
    | {"signal", "_signal", "sserpent"}
)


class Stream(Protocol):
    def shut_down(self) -> None: ...


class ShutdownEvent:
    """Set when the server begins to shut down; see `shutdown_event`."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = anyio.Event()

    def is_set(self) -> bool:
        """Whether the shutdown has begun."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Waits until it begins."""
        await self._event.wait()


class ServerStreams:
    """The open streams of one server on one event loop."""

    def __init__(self, server: Server | None) -> None:
        self.server = server
        self.streams: set[Stream] = set()
        self.ending = False
        self._event: ShutdownEvent | None = None
        self._looked_at = monotonic()

    def is_stale(self) -> bool:
        """Whether it is worth another look for the server."""
        used = self.server or self.streams or self._event
        return not used and monotonic() - self._looked_at > _LOOK_AGAIN

    @property
    def event(self) -> ShutdownEvent:
        if self._event is None:
            self._event = ShutdownEvent()
            if self.ending:
                self._event._event.set()
        return self._event

    def end_if_told(self, signalled: bool) -> None:
        if not self.ending and (self.server.is_exiting() if self.server else signalled):
            self.ending = True
            if self._event is not None:
                self._event._event.set()
            for stream in list(self.streams):
                stream.shut_down()


class _Watch:
    """What is watched on one event loop while streams are open on it."""

    def __init__(self, token: Any) -> None:
        self._token = ref(token)
        self._groups: dict[Any, ServerStreams] = {}
        self._end_polling: Callable[[], object] | None = None

    def group_of(self, scope: Scope | None) -> ServerStreams:
        address = tuple((scope or {}).get("server") or ())
        group = self._groups.get(address)
        if group is None or group.is_stale():
            server = server_of(address)
            group = self._groups[address] = self._known(server) or ServerStreams(server)
        return group

    def _known(self, server: Server | None) -> ServerStreams | None:
        for group in self._groups.values():
            if server and group.server and group.server.key is server.key:
                return group
        return None

    def has_streams(self) -> bool:
        return any(group.streams for group in self._groups.values())

    def opened(self) -> None:
        if self._end_polling is None and any(group.server for group in self._groups.values()):
            self._poll_later() if on_asyncio() else self._poll_on_trio()

    def closed(self) -> None:
        if not self.has_streams():
            self._groups = {
                address: group
                for address, group in self._groups.items()
                if not (group.ending or group.is_stale())
            }
            if self._end_polling is not None:
                self._end_polling()
                self._end_polling = None

    def signalled(self) -> None:
        """Called from a signal handler: only the loop's own thread may touch its streams."""
        token = self._token()
        if token is None:
            return
        call_soon = getattr(token, "call_soon_threadsafe", None) or token.run_sync_soon
        try:
            call_soon(self._look_after_signal)
        except RuntimeError:
            pass  # the loop is closed

    def _look_after_signal(self) -> None:
        self._look(signalled=True)

    def _look(self, signalled: bool) -> None:
        for group in list(self._groups.values()):
            group.end_if_told(signalled)

    def _poll(self) -> None:
        self._look(signalled=False)
        self._poll_later()

    def _poll_later(self) -> None:
        timer = asyncio.get_running_loop().call_later(_POLL_INTERVAL, self._poll)
        self._end_polling = timer.cancel

    def _poll_on_trio(self) -> None:
        import trio

        scope = trio.CancelScope()
        self._end_polling = scope.cancel

        async def poll() -> None:
            with scope:
                while True:
                    await trio.sleep(_POLL_INTERVAL)
                    self._look(signalled=False)

        trio.lowlevel.spawn_system_task(poll)


_watches: WeakKeyDictionary[Any, _Watch] = WeakKeyDictionary()
_lock = threading.Lock()

# The group of the stream whose generator runs.
current: ContextVar[ServerStreams] = ContextVar("sserpent.shutdown.current")


def shutdown_event() -> ShutdownEvent:
    """The event that is set when the server of the current stream begins to shut down.

    A generator can wait for it, or look at it, and say goodbye within `shutdown_grace` seconds:

        while not sserpent.shutdown_event().is_set():
            ...
        yield ServerSentEvent(event="goodbye")

    Returns:
        An object with `is_set()` and `await wait()`.

    Raises:
        RuntimeError: there is no event loop in which to wait.
    """
    group = current.get(None)
    if group is None:
        group = _watch().group_of(None)
    return group.event


def opened(stream: Stream, scope: Scope) -> ServerStreams:
    """Registers a stream that has opened; to be called in its event loop."""
    watch = _watch()
    group = watch.group_of(scope)
    group.streams.add(stream)
    watch.opened()
    _signals.install()
    group.end_if_told(signalled=False)
    if group.ending:
        stream.shut_down()
    return group


def closed(stream: Stream, group: ServerStreams) -> None:
    """Registers that it has closed."""
    group.streams.discard(stream)
    if not group.streams:
        _watch().closed()
        _signals.uninstall()


def _watch() -> _Watch:
    if on_asyncio():
        token: Any = asyncio.get_running_loop()
    else:
        import trio

        token = trio.lowlevel.current_trio_token()
    with _lock:
        watch = _watches.get(token)
        if watch is None:
            watch = _watches[token] = _Watch(token)
    return watch


class _Signals:
    """The handler on top of the server's."""

    def __init__(self) -> None:
        self._previous: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def install(self) -> None:
        if self._previous or threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            handler = _signal.getsignal(number)
            if callable(handler) and _module_of(handler).partition(".")[0] in _SERVERS:
                self._previous[number] = handler
                _signal.signal(number, self._handle)

    def uninstall(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        with _lock:
            if any(watch.has_streams() for watch in _watches.values()):
                return
        for number, handler in self._previous.items():
            if _signal.getsignal(number) == self._handle:
                _signal.signal(number, handler)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # No lock here: the signal may have interrupted its holder.
        for watch in list(_watches.values()):
            watch.signalled()
        previous = self._previous.get(number)
        if previous is not None:
            previous(number, frame)


_signals = _Signals()


def _module_of(handler: Callable[..., Any]) -> str:
    owner = getattr(handler, "__self__", None)
    if owner is not None and not hasattr(handler, "__wrapped__"):
        return str(type(owner).__module__)
    return str(getattr(handler, "__module__", ""))
