"""Finds the server behind a stream, to ask it whether it is about to exit.

uvicorn and hypercorn know it some time before they tell the application, and uvicorn tells it only
after all responses have ended. Nothing is patched: their objects are found where they are, in the
local variables of the coroutines that run on the event loop. What is not found is not asked.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, Protocol

logger = logging.getLogger("sserpent")


class Server(Protocol):
    @property
    def key(self) -> Any: ...  # what makes two finds the same server

    @property
    def addresses(self) -> set[tuple[Any, ...]]: ...  # where it listens, as far as is known

    def is_exiting(self) -> bool: ...


class Uvicorn:
    def __init__(self, server: Any) -> None:
        self.key = server

    @property
    def addresses(self) -> set[tuple[Any, ...]]:
        names = [
            sock.getsockname() for each in self._listening() or () for sock in each.sockets or ()
        ]
        # A Unix socket's name is a path.
        return {tuple(name[:2]) for name in names if not isinstance(name, (str, bytes))}

    def is_exiting(self) -> bool:
        if self.key.should_exit:
            return True
        listening = self._listening()
        # `limit_max_requests` ends a server without `should_exit`.
        return listening is not None and not any(each.is_serving() for each in listening)

    def _listening(self) -> Any:
        return getattr(self.key, "servers", None)


class Hypercorn:
    """A worker of hypercorn's. Its process is told by its parent, without a signal."""

    def __init__(self, context: Any) -> None:
        self.key = context
        self.addresses: set[tuple[Any, ...]] = set()

    def is_exiting(self) -> bool:
        return bool(self.key.terminated.is_set())


def on_asyncio() -> bool:
    """Whether the caller runs in an asyncio task, not in Trio."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


def server_of(address: tuple[Any, ...]) -> Server | None:
    """The server on this event loop that listens at `address`, or the only one there is."""
    try:
        found = _servers()
        if len(found) == 1:
            return found[0]
        return _listening_at(address, found)
    except Exception:
        # A server that is built otherwise than this module knows must not cost a stream.
        logger.exception("Looking for the server of a stream failed")
        return None


def _listening_at(address: tuple[Any, ...], servers: list[Server]) -> Server | None:
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
    for coroutine in _coroutines():
        for frame in _frames(coroutine):
            server = _server_in(frame)
            if server is not None:
                found[id(server.key)] = server
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


def _frames(coroutine: Any) -> Iterator[FrameType]:
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            yield frame
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)


def _coroutines() -> Iterable[Any]:
    if on_asyncio():
        return [task.get_coro() for task in asyncio.all_tasks()]
    import trio

    coroutines: list[Any] = []
    tasks = [trio.lowlevel.current_root_task()]
    while tasks:
        task = tasks.pop()
        if task is not None:
            coroutines.append(task.coro)
            tasks.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)
    return coroutines
