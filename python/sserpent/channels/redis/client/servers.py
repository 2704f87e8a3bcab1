"""One server, as what a session talks to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from ...._runtime.loops import end
from .command import Command
from .commands import Commands, Setup
from .connection import LOST, Server, Trouble
from .pub_sub import Listening, PubSub


class Pace(NamedTuple):
    """How long the broker waits, in seconds.

    Attributes:
        timeout: For the server, before `BrokerUnavailable`.
        probe: In silence, before it asks whether the subscription is alive; and between two looks
            for where the server is.
        compare: Between two looks at the newest entry of a stream that it follows, where these are
            few.
    """

    timeout: float = 5.0
    probe: float = 5.0
    compare: float = 30.0


class Servers(Protocol):
    """One server or many, which take commands and subscriptions.

    Attributes:
        publish: The command that publishes: "PUBLISH" or "SPUBLISH".
    """

    publish: str

    @property
    def skew(self) -> float | None:
        """Seconds from the event loop's time to the server's, if known."""
        ...

    @property
    def troubles(self) -> Iterable[str]:
        """Why connections do not work now, a text for each."""
        ...

    def send(self, command: Command) -> None:
        """Sends a command to the server that has its name."""
        ...

    def add(self, listening: Listening) -> None:
        """Subscribes. Nobody else is subscribed to the name."""
        ...

    def discard(self, listening: Listening) -> None:
        """Ends a subscription."""
        ...

    def sync(self, listening: Listening, then: Callable[[], object]) -> None:
        """Calls a function once `listening` has been given all that was sent to it before now,
        unless its subscription is lost before."""
        ...

    def renew(self, listening: Listening) -> None:
        """Opens new connections to the server of a subscription."""
        ...

    async def drain(self) -> None:
        """Waits for what was asked."""
        ...

    async def aclose(self) -> None:
        """Ends all connections. What waits for an answer is lost: `drain` waits for it."""
        ...


class OneServer:
    """One server, also one that moves."""

    publish = "PUBLISH"

    def __init__(self, server: Server, setup: Setup, pace: Pace) -> None:
        self._server = server
        self._pace = pace
        self._commands = Commands(server, setup, pace.timeout)
        self._subscription = PubSub(server, pace.timeout / 2, pace.probe)
        self._task: asyncio.Task[None] | None = None
        if server.moves:
            self._task = asyncio.get_running_loop().create_task(self._follow_master())
        self.send = self._commands.send
        self.add = self._subscription.add
        self.discard = self._subscription.discard
        self.drain = self._commands.drain

    @property
    def skew(self) -> float | None:
        return self._commands.skew

    @property
    def troubles(self) -> Iterable[str]:
        return self._server.troubles.values()

    def sync(self, listening: Listening, then: Callable[[], object]) -> None:
        self._subscription.sync(then)

    def renew(self, listening: Listening) -> None:
        self._commands.renew()
        self._subscription.renew()

    async def _follow_master(self) -> None:
        """Goes to where the server is. Where it was, another may still answer, and hear nothing."""
        place = None
        trouble = Trouble(self._server.place, self._server.troubles)
        while True:
            try:
                found = await self._server.resolve(self._pace.timeout)
            except LOST:
                pass  # the connections say so, if they are in want of it
            except Exception as error:
                trouble.begin(error)
            else:
                trouble.end()
                if place is not None and found != place:
                    self._commands.renew()
                    self._subscription.renew()
                place = found
            await asyncio.sleep(self._pace.probe)

    async def aclose(self) -> None:
        if self._task is not None:
            await end(self._task)
        await self._subscription.aclose()
        await self._commands.aclose()
